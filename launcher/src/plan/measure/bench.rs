//! What the GPU reads and copies, timed: a kernel that reads, the copy engine, and both sides' memory.

use super::conditions::median;
use crate::driver::cuda::{self, Calls, CudaError, Transfers};
use crate::driver::describe::{report, step};
use crate::driver::report::Event;
use std::ffi::{c_int, c_void};
use std::time::{Duration, Instant};

/// The kernel; `cuModuleLoadData` wants a NUL after it.
const PTX: &str = concat!(include_str!("read.ptx"), "\0");
/// Of the words that are read: its sum over n words is WORD * n * n.
const WORD: u32 = 0x0102_0304;
/// Larger than any cache of a GPU.
const MOST_VRAM: u64 = 1 << 30;
pub(super) const MOST_HOST: u64 = 256 << 20;
const MOST_PAGEABLE: u64 = 64 << 20;
const LEAST: u64 = 4 << 20;
/// A run shorter than this says more about the clock than about the memory.
const ENOUGH: Duration = Duration::from_millis(40);
const RUNS: usize = 5;
/// After the name of a figure: how far its repetitions lay apart.
pub(super) const SPREAD: &str = " spread";
/// One measurement may take this long on a slow link.
const LIMIT: Duration = Duration::from_millis(1200);

/// The driver's calls, and how wide a kernel is launched.
pub(super) struct Bench<'a> {
    pub(super) calls: &'a Calls,
    pub(super) transfers: &'a Transfers,
    pub(super) blocks: c_int,
}

/// Memory on both sides of the link. It is not given back: the process ends.
pub(super) struct Sides {
    pub(super) vram: u64,
    vram_bytes: u64,
    pub(super) host: *mut c_void,
    pub(super) host_bytes: u64,
}

impl Bench<'_> {
    /// Both sides, filled, with at most this much VRAM.
    pub(super) fn sides(&self, free: u64, most: u64) -> Result<Sides, String> {
        let said = |error: CudaError| error.to_string();
        let vram_bytes = (free / 4).min(most) & !0xffff;
        if vram_bytes < LEAST {
            return Err(format!("only {free} bytes of VRAM are free, too few to measure with"));
        }
        let host_bytes = vram_bytes.min(MOST_HOST);
        let (mut vram, mut host) = (0, std::ptr::null_mut());
        step("allocating memory to measure with");
        // SAFETY: the results are written by the calls; the fill covers exactly the allocation.
        unsafe {
            self.calls.alloc(&mut vram, vram_bytes as usize).map_err(said)?;
            self.transfers.set_words(vram, WORD, vram_bytes as usize / 4).map_err(said)?;
            self.calls.synchronize().map_err(said)?;
            self.transfers.host_alloc(&mut host, host_bytes as usize, cuda::REGISTER_PORTABLE_MAPPED).map_err(said)?;
            std::slice::from_raw_parts_mut(host.cast::<u32>(), host_bytes as usize / 4).fill(WORD);
        }
        Ok(Sides { vram, vram_bytes, host, host_bytes })
    }

    /// The GPU alone, in every way.
    pub(super) fn run(&self, free: u64) -> Result<(), String> {
        let said = |error: CudaError| error.to_string();
        let Sides { vram, vram_bytes, host, host_bytes } = self.sides(free, MOST_VRAM)?;
        let mut out = 0;
        // SAFETY: the result is written by the call.
        unsafe { self.calls.alloc(&mut out, 8) }.map_err(said)?;
        let kernel = Kernel::load(self, out)?;

        step("reading VRAM");
        kernel.check(vram, "VRAM")?;
        rate("vram", vram_bytes, |bytes, times| kernel.read(vram, bytes, times))?;
        step("copying to the GPU");
        rate("to_gpu", host_bytes, |bytes, _| {
            // SAFETY: both sides have at least as many bytes as are copied.
            unsafe { self.calls.to_device(vram, host, bytes as usize) }.map_err(said)
        })?;
        step("copying to the host");
        rate("to_host", host_bytes, |bytes, _| {
            // SAFETY: as above.
            unsafe { self.calls.to_host(host, vram, bytes as usize) }.map_err(said)
        })?;
        step("copying from ordinary memory");
        let pageable = vec![1u8; host_bytes.min(MOST_PAGEABLE) as usize];
        rate("pageable", pageable.len() as u64, |bytes, _| {
            // SAFETY: as above.
            unsafe { self.calls.to_device(vram, pageable.as_ptr().cast(), bytes as usize) }.map_err(said)
        })?;
        step("reading RAM in place");
        kernel.check(host as u64, "RAM in place")?;
        rate("in_place", host_bytes, |bytes, times| kernel.read(host as u64, bytes, times))
    }
}

/// The reading kernel, and where its sum goes.
struct Kernel<'a> {
    bench: &'a Bench<'a>,
    function: *mut c_void,
    out: u64,
}

impl<'a> Kernel<'a> {
    fn load(bench: &'a Bench<'a>, out: u64) -> Result<Self, String> {
        step("loading the kernel");
        let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the image ends with a NUL, the name too; results are written by the calls.
        unsafe {
            bench.calls.load_module(&mut module, PTX.as_ptr().cast()).map_err(|error| error.to_string())?;
            bench
                .calls
                .function(&mut function, module, c"gb_checksum_u32".as_ptr())
                .map_err(|error| error.to_string())?;
        }
        Ok(Self { bench, function, out })
    }

    /// Reads some bytes some times, and waits.
    fn read(&self, from: u64, bytes: u64, times: u32) -> Result<(), String> {
        let (mut from, mut words, mut out) = (from, bytes / 4, self.out);
        let mut parameters: [*mut c_void; 3] = [(&raw mut from).cast(), (&raw mut words).cast(), (&raw mut out).cast()];
        let null = std::ptr::null_mut::<c_void>();
        let (calls, blocks) = (self.bench.calls, self.bench.blocks.unsigned_abs());
        let mut work = || -> Result<(), CudaError> {
            for _ in 0..times {
                // SAFETY: the parameters are the kernel's and live until it has run; the memory has that many bytes.
                unsafe {
                    calls.launch(
                        self.function,
                        blocks,
                        1,
                        1,
                        256,
                        1,
                        1,
                        0,
                        null,
                        parameters.as_mut_ptr(),
                        std::ptr::null_mut(),
                    )?;
                }
            }
            // SAFETY: it takes no arguments.
            unsafe { calls.synchronize() }
        };
        work().map_err(|error| error.to_string())
    }

    /// Proves that the kernel reads what is there.
    fn check(&self, from: u64, what: &str) -> Result<(), String> {
        let zero = 0u64;
        let mut sum = 0u64;
        // SAFETY: `out` has 8 bytes, as have both locals.
        unsafe { self.bench.calls.to_device(self.out, (&raw const zero).cast(), 8) }
            .map_err(|error| error.to_string())?;
        self.read(from, LEAST, 1)?;
        // SAFETY: as above.
        unsafe { self.bench.calls.to_host((&raw mut sum).cast(), self.out, 8) }.map_err(|error| error.to_string())?;
        let words = LEAST / 4;
        if sum == u64::from(WORD).wrapping_mul(words.wrapping_mul(words)) {
            Ok(())
        } else {
            Err(format!("a kernel read other bytes from {what} than were written"))
        }
    }
}

/// Repeats a run with more bytes, then more times, until it is long enough, and reports the median of a few and how far
/// they lie apart.
fn rate(what: &str, most: u64, mut run: impl FnMut(u64, u32) -> Result<(), String>) -> Result<(), String> {
    let started = Instant::now();
    let (mut bytes, mut times) = (LEAST.min(most), 1);
    let mut timed = |bytes, times| -> Result<Duration, String> {
        let started = Instant::now();
        run(bytes, times)?;
        Ok(started.elapsed())
    };
    timed(bytes, times)?;
    let repeats = matches!(what, "vram" | "in_place");
    loop {
        let took = timed(bytes, times)?;
        if took >= ENOUGH || started.elapsed() > LIMIT / 2 {
            break;
        }
        if bytes < most {
            bytes = (bytes * 2).min(most);
        } else if repeats && times < 1024 {
            times *= 2;
        } else {
            break;
        }
    }
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(timed(bytes, times)?.as_secs_f64());
        if started.elapsed() > LIMIT {
            break;
        }
    }
    let (seconds, spread) = median(&mut runs);
    let gigabytes = bytes as f64 * f64::from(times) / seconds.max(1e-9) / 1e9;
    report(&Event::Rate { what: what.to_owned(), gigabytes });
    report(&Event::Rate { what: format!("{what}{SPREAD}"), gigabytes: spread });
    Ok(())
}
