//! `greenboost measure`: the part of plan that talks to the driver. Runs as a child and reports as it goes.

use super::conditions::{self, median};
use super::together;
use crate::driver::cuda::{self, Basics, Calls, CudaError, Transfers};
use crate::driver::describe::{attribute, describe, not_loaded, report, step};
use crate::driver::nvml::Nvml;
use crate::driver::report::Event;
use clap::Args;
use libloading::Library;
use std::ffi::{c_int, c_void};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The kernel; `cuModuleLoadData` wants a NUL after it.
const PTX: &str = concat!(include_str!("read.ptx"), "\0");
/// Of the words that are read: its sum over n words is WORD * n * n.
const WORD: u32 = 0x0102_0304;
/// Larger than any cache of a GPU.
const MOST_VRAM: u64 = 1 << 30;
const MOST_HOST: u64 = 256 << 20;
const MOST_PAGEABLE: u64 = 64 << 20;
const LEAST: u64 = 4 << 20;
/// A run shorter than this says more about the clock than about the memory.
const ENOUGH: Duration = Duration::from_millis(40);
const RUNS: usize = 5;
/// Not a rate: the share of the last moments in which the GPU was in use.
pub(super) const BUSY: &str = "GPU busy";
/// After the name of a figure: how far its repetitions lay apart.
pub(super) const SPREAD: &str = " spread";
/// One measurement may take this long on a slow link.
const LIMIT: Duration = Duration::from_millis(1200);

/// Options of `greenboost measure`.
#[derive(Debug, Args)]
pub struct MeasureOptions {
    /// Say what the GPU is, and measure nothing.
    #[arg(long)]
    describe: bool,
    /// Measure only how fast this many CPU threads read while copies to the GPU run, and how fast those are.
    #[arg(long, value_name = "THREADS")]
    together: Option<usize>,
}

/// Reports the first GPU and its speeds on standard output.
pub fn run(options: &MeasureOptions) -> ExitCode {
    if let Err(problem) = measure(options) {
        report(&Event::Failed { problem });
    }
    ExitCode::SUCCESS
}

fn measure(options: &MeasureOptions) -> Result<(), String> {
    step(format!("loading {}", cuda::FILE));
    // SAFETY: loading the driver runs its constructors, in a process that exists for nothing else.
    let library = unsafe { Library::new(cuda::FILE) }.map_err(|error| not_loaded(&error))?;
    let missing = |symbol| format!("{} has no {symbol}", cuda::FILE);
    let basics = Basics::find(&library).map_err(missing)?;
    let said = |error: CudaError| error.to_string();
    let nvml = Nvml::load();
    step("initialising the driver (cuInit)");
    let (mut version, mut count) = (0, 0);
    // SAFETY: the flags must be 0, and are; results are written by the calls.
    unsafe {
        basics.driver_version(&mut version).map_err(said)?;
        basics.init(0).map_err(said)?;
        basics.device_count(&mut count).map_err(said)?;
    }
    report(&Event::Driver { cuda: version, version: nvml.as_ref().and_then(|nvml| nvml.driver_version()) });
    if count == 0 {
        return Ok(());
    }
    let calls = Calls::find(&library).map_err(missing)?;
    // Of others it is enough to know what they are and have: the first is measured.
    for index in 1..if options.describe { count } else { 1 } {
        describe_other(&calls, nvml.as_ref(), index).map_err(said)?;
    }
    step("asking about GPU 0");
    let (handle, device) = describe(&calls, nvml.as_ref(), 0).map_err(said)?;
    if let Some(share) = conditions::gpu_busy(&device.uuid) {
        report(&Event::Rate { what: BUSY.to_owned(), gigabytes: share });
    }
    report(&Event::Device(device));
    let multiprocessors = attribute(&calls, cuda::MULTIPROCESSORS, handle);
    report(&Event::Processor { multiprocessors, clock_khz: attribute(&calls, cuda::CLOCK, handle) });
    step("creating a context on GPU 0");
    let mut context = std::ptr::null_mut();
    let (mut free, mut total) = (0, 0);
    // SAFETY: the results are written by the calls; the process ends soon, and the context with it.
    unsafe {
        calls.retain(&mut context, handle).map_err(said)?;
        calls.set_current(context).map_err(said)?;
        calls.memory_info(&mut free, &mut total).map_err(said)?;
    }
    report(&Event::Memory { device: 0, free: free as u64, total: total as u64 });
    if options.describe {
        return Ok(());
    }
    let transfers = Transfers::find(&library).map_err(missing)?;
    let bench = Bench { calls: &calls, transfers: &transfers, blocks: multiprocessors.max(1) * 8 };
    match options.together {
        Some(threads) => bench.together(free as u64, threads.max(1)),
        None => bench.run(free as u64),
    }
}

/// Reports another GPU than the first.
fn describe_other(calls: &Calls, nvml: Option<&Nvml>, index: c_int) -> Result<(), CudaError> {
    step(format!("asking about GPU {index}"));
    let (handle, device) = describe(calls, nvml, index)?;
    let mut context = std::ptr::null_mut();
    let (mut free, mut total) = (0, 0);
    // SAFETY: the results are written by the calls; the process ends soon, and the context with it.
    unsafe {
        calls.retain(&mut context, handle)?;
        calls.set_current(context)?;
        calls.memory_info(&mut free, &mut total)?;
    }
    report(&Event::Device(device));
    report(&Event::Memory { device: index, free: free as u64, total: total as u64 });
    Ok(())
}

/// The driver's calls, and how wide a kernel is launched.
pub(super) struct Bench<'a> {
    calls: &'a Calls,
    pub(super) transfers: &'a Transfers,
    blocks: c_int,
}

/// Memory on both sides of the link. It is not given back: the process ends.
struct Sides {
    vram: u64,
    vram_bytes: u64,
    host: *mut c_void,
    host_bytes: u64,
}

impl Bench<'_> {
    /// Both sides, filled, with at most this much VRAM.
    fn sides(&self, free: u64, most: u64) -> Result<Sides, String> {
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

    /// CPU and link at once.
    fn together(&self, free: u64, threads: usize) -> Result<(), String> {
        let Sides { vram, host, host_bytes, .. } = self.sides(free, MOST_HOST)?;
        step("copying to the GPU while the CPU reads");
        let rates = together::measure(self, threads, host, vram, host_bytes)?;
        rates.iter().for_each(report);
        Ok(())
    }

    /// The GPU alone, in every way.
    fn run(&self, free: u64) -> Result<(), String> {
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
