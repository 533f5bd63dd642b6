//! `greenboost probe`: the part of doctor that talks to the driver. Runs as a child of doctor and reports as it goes.
//!
//! That the driver says it supports a backing proves little: kernels could not read HOST_NUMA memory on one board that
//! did. So each backing is made as the hook makes it, and a kernel reads and writes it.

use crate::driver::cuda::{self, Access, Basics, Calls, CudaError, Properties};
use crate::driver::describe::{attribute, describe, not_loaded, report, step};
use crate::driver::nvml::Nvml;
use crate::driver::report::{Device, Event};
use greenboost_contract::probe as kernel;
use greenboost_contract::{format_size, settings};
use greenboost_kmod::{Access as PoolAccess, Device as Pool, Error as PoolError, Request};
use libloading::Library;
use std::ffi::{c_int, c_void};
use std::os::fd::AsRawFd;
use std::process::ExitCode;

/// What the probe kernel is written for.
pub const OLDEST_COMPUTE: (i32, i32) = (7, 0);
const WORDS: usize = 1024;
const SIZE_2_MIB: usize = 2 << 20;

/// Reports everything there is to know about the driver on standard output.
pub fn run() -> ExitCode {
    if let Err(problem) = probe() {
        report(&Event::Failed { problem });
    }
    ExitCode::SUCCESS
}

fn probe() -> Result<(), String> {
    step(format!("loading {}", cuda::FILE));
    // SAFETY: loading the driver runs its constructors, in a process that exists for nothing else.
    let library = unsafe { Library::new(cuda::FILE) }.map_err(|error| not_loaded(&error))?;
    let missing = |symbol| format!("{} has no {symbol}", cuda::FILE);
    let basics = Basics::find(&library).map_err(missing)?;
    let mut version = 0;
    // SAFETY: the version is written by the call.
    unsafe { basics.driver_version(&mut version) }.map_err(|error| error.to_string())?;
    step("starting NVML");
    let nvml = Nvml::load();
    report(&Event::Driver { cuda: version, version: nvml.as_ref().and_then(Nvml::driver_version) });

    step("initialising the driver (cuInit)");
    // SAFETY: the flags must be 0, and are.
    unsafe { basics.init(0) }.map_err(|error| error.to_string())?;
    let mut count = 0;
    // SAFETY: the count is written by the call.
    unsafe { basics.device_count(&mut count) }.map_err(|error| error.to_string())?;
    let calls = Calls::find(&library).map_err(missing)?;
    for index in 0..count {
        step(format!("asking about GPU {index}"));
        let (handle, device) = describe(&calls, nvml.as_ref(), index).map_err(|error| error.to_string())?;
        report(&Event::Device(device.clone()));
        try_backings(&calls, handle, &device).map_err(|error| format!("GPU {index}: {error}"))?;
    }
    Ok(())
}

fn try_backings(calls: &Calls, handle: c_int, device: &Device) -> Result<(), CudaError> {
    step(format!("creating a context on GPU {}", device.index));
    let mut context = std::ptr::null_mut();
    let (mut free, mut total) = (0, 0);
    // SAFETY: the results are written by the calls; the context stays retained until released below.
    unsafe {
        calls.retain(&mut context, handle)?;
        calls.set_current(context)?;
        calls.memory_info(&mut free, &mut total)?;
    }
    report(&Event::Memory { device: device.index, free: free as u64, total: total as u64 });
    // On an older GPU the kernel does not load, which says nothing about its memory.
    if device.vmm && device.compute >= OLDEST_COMPUTE {
        let kernel = Kernel::load(calls)?;
        if let Some(pool) = pool() {
            step(format!("trying the kernel module's memory on GPU {}", device.index));
            told(device.index, "kmod", pool.and_then(|pool| registered(calls, &kernel, |at| map_pool(&pool, at))));
        }
        let outcome = if device.host_numa {
            step(format!("trying host-numa memory on GPU {}", device.index));
            host_numa(calls, handle, &kernel)
        } else {
            Err("the driver does not offer it on this machine".to_owned())
        };
        told(device.index, "host-numa", outcome.map(|()| String::new()));
        step(format!("trying memfd memory on GPU {}", device.index));
        told(device.index, "memfd", registered(calls, &kernel, map_memfd));
        step(format!("making a chunk of VRAM on GPU {}", device.index));
        tried(device.index, "vmm", chunk(calls, &Properties::new(cuda::AT_DEVICE, handle), handle, &kernel));
        step(format!("pinning memory on GPU {}", device.index));
        tried(device.index, "pin", pin(calls));
        step(format!("reading a file's page cache on GPU {}", device.index));
        tried(device.index, "file-pages", file_pages(calls, &kernel));
    }
    // SAFETY: nothing uses the context any more.
    unsafe { calls.release(handle) }
}

fn told(device: i32, backing: &str, outcome: Result<String, String>) {
    let (problem, detail) = match outcome {
        Ok(detail) => (None, detail),
        Err(problem) => (Some(problem), String::new()),
    };
    report(&Event::Backing { device, backing: backing.to_owned(), problem, detail });
}

fn tried(device: i32, what: &str, outcome: Result<(), String>) {
    report(&Event::Tried { device, what: what.to_owned(), problem: outcome.err() });
}

/// The probe kernel and a place in VRAM for its result.
struct Kernel<'a> {
    calls: &'a Calls,
    module: *mut c_void,
    function: *mut c_void,
    /// The one that only reads.
    reader: *mut c_void,
    result: u64,
}

impl<'a> Kernel<'a> {
    fn load(calls: &'a Calls) -> Result<Self, CudaError> {
        let mut kernel = Self {
            calls,
            module: std::ptr::null_mut(),
            function: std::ptr::null_mut(),
            reader: std::ptr::null_mut(),
            result: 0,
        };
        // SAFETY: the image is a C string, the name too; results are written by the calls.
        unsafe {
            calls.load_module(&mut kernel.module, kernel::PTX.as_ptr().cast())?;
            calls.function(&mut kernel.function, kernel.module, kernel::ENTRY.as_ptr())?;
            calls.function(&mut kernel.reader, kernel.module, kernel::READ_ENTRY.as_ptr())?;
            calls.alloc(&mut kernel.result, WORDS * 4)?;
        }
        Ok(kernel)
    }

    /// Runs one of the kernels on the words at `memory`, and waits for it.
    ///
    /// # Safety
    /// `memory` must be mapped for the device and hold the words, and be writable if the kernel writes.
    unsafe fn run(&self, function: *mut c_void, memory: u64) -> Result<(), CudaError> {
        let (mut source, mut target, mut count) = (memory, self.result, WORDS as u32);
        let mut parameters: [*mut c_void; 3] =
            [(&raw mut source).cast(), (&raw mut target).cast(), (&raw mut count).cast()];
        let (parameters, null) = (parameters.as_mut_ptr(), std::ptr::null_mut());
        // SAFETY: the parameters are the kernel's and live until it has run; the rest is the caller's word.
        unsafe {
            self.calls.launch(function, 4, 1, 1, 128, 1, 1, 0, null, parameters, std::ptr::null_mut())?;
            self.calls.synchronize()
        }
    }

    /// Whether a kernel has read these words.
    fn check(words: &[u32], read: &[u32]) -> Result<(), String> {
        if words.iter().zip(read).any(|(word, read)| kernel::copied(*word) != *read) {
            return Err("a kernel read other bytes than were written".to_owned());
        }
        Ok(())
    }

    /// Lets a kernel read `memory`, which holds these words.
    fn reads(&self, memory: u64, words: &[u32]) -> Result<(), String> {
        let mut read = [0u32; WORDS];
        // SAFETY: the memory is mapped for the device and holds the words, which the kernel only reads; the buffer is as
        // long as is said.
        let done = unsafe {
            self.run(self.reader, memory)
                .and_then(|()| self.calls.to_host(read.as_mut_ptr().cast(), self.result, WORDS * 4))
        };
        done.map_err(|error| error.to_string())?;
        Self::check(words, &read)
    }

    /// Copies words to `memory`, lets a kernel read and change them there, and copies both results back.
    fn reads_and_writes(&self, memory: u64) -> Result<(), String> {
        let words: [u32; WORDS] = std::array::from_fn(|at| (at as u32).wrapping_mul(2_654_435_761));
        let (mut read, mut changed) = ([0u32; WORDS], [0u32; WORDS]);
        let mut work = || -> Result<(), CudaError> {
            // SAFETY: `memory` is mapped for the device and holds at least the words; the buffers are as long as is said.
            unsafe {
                self.calls.to_device(memory, words.as_ptr().cast(), WORDS * 4)?;
                self.run(self.function, memory)?;
                self.calls.to_host(read.as_mut_ptr().cast(), self.result, WORDS * 4)?;
                self.calls.to_host(changed.as_mut_ptr().cast(), memory, WORDS * 4)
            }
        };
        work().map_err(|error| error.to_string())?;
        Self::check(&words, &read)?;
        if words.iter().zip(&changed).any(|(word, changed)| kernel::left(*word) != *changed) {
            return Err("what a kernel wrote did not arrive".to_owned());
        }
        Ok(())
    }
}

impl Drop for Kernel<'_> {
    fn drop(&mut self) {
        // SAFETY: both were made by `load` and nothing uses them any more. Errors do not matter: the process ends soon.
        let _ = unsafe { self.calls.free(self.result).and(self.calls.unload_module(self.module)) };
    }
}

/// A chunk of RAM on the NUMA node nearest to the GPU.
fn host_numa(calls: &Calls, device: c_int, kernel: &Kernel<'_>) -> Result<(), String> {
    let node = attribute(calls, cuda::HOST_NUMA_ID, device).max(0);
    chunk(calls, &Properties::new(cuda::AT_HOST_NUMA, node), device, kernel)
}

/// A chunk made by `cuMemCreate`, mapped, read and written.
fn chunk(calls: &Calls, properties: &Properties, device: c_int, kernel: &Kernel<'_>) -> Result<(), String> {
    let (mut size, mut chunk, mut address) = (0, 0, 0);
    // SAFETY: results are written by the calls; each is undone below, in reverse, when it succeeded. The process ends
    // soon after a failure, which undoes the rest.
    let made = unsafe {
        calls
            .granularity(&mut size, properties, 0)
            .and_then(|()| calls.create(&mut chunk, size, properties, 0))
            .and_then(|()| calls.reserve(&mut address, size, 0, 0, 0))
            .and_then(|()| calls.map(address, size, 0, chunk, 0))
            .and_then(|()| calls.set_access(address, size, &Access::device(device), 1))
    };
    made.map_err(|error| error.to_string())?;
    let outcome = kernel.reads_and_writes(address);
    // SAFETY: the range was mapped above, and the kernel has ended.
    let undone = unsafe {
        calls
            .unmap(address, size)
            .and_then(|()| calls.free_address(address, size))
            .and_then(|()| calls.release_handle(chunk))
    };
    outcome.and(undone.map_err(|error| error.to_string()))
}

/// The kernel module's pool, or why it cannot be used; nothing to say where the module is not loaded.
fn pool() -> Option<Result<Pool, String>> {
    let path = std::env::var_os(settings::KMOD_DEVICE).filter(|path| !path.is_empty());
    let opened = path.map_or_else(Pool::open, |path| Pool::open_path(path.as_ref()));
    (!matches!(opened, Err(PoolError::Absent))).then(|| opened.map_err(|error| error.to_string()))
}

/// Maps 2 MiB of the pool at `address`.
fn map_pool(pool: &Pool, address: u64) -> Result<&'static str, String> {
    let buffer = pool.alloc(&Request::new(SIZE_2_MIB as u64)).map_err(|error| error.to_string())?;
    // SAFETY: the range was reserved by the driver for us and holds nothing.
    let mapped = unsafe { buffer.map_fixed(address as *mut c_void, 0, SIZE_2_MIB, PoolAccess::ReadWrite) };
    let detail = if buffer.ready_bytes() > 0 { "pages of the reserve" } else { "fresh 2 MiB pages" };
    mapped.map(|()| detail).map_err(|error| error.to_string())
}

/// Memory that `map` puts into an address range of the driver's, registered.
fn registered(
    calls: &Calls,
    kernel: &Kernel<'_>,
    map: impl FnOnce(u64) -> Result<&'static str, String>,
) -> Result<String, String> {
    let mut address = 0;
    // SAFETY: the address is written by the call.
    unsafe { calls.reserve(&mut address, SIZE_2_MIB, SIZE_2_MIB, 0, 0) }.map_err(|error| error.to_string())?;
    let outcome = map(address).and_then(|detail| {
        let at = address as *mut c_void;
        // SAFETY: the range has just been mapped readable and writable.
        unsafe { calls.register(at, SIZE_2_MIB, cuda::REGISTER_PORTABLE_MAPPED) }.map_err(|error| error.to_string())?;
        let outcome = kernel.reads_and_writes(address);
        // SAFETY: registered above, and the kernel has ended.
        unsafe { calls.unregister(at) }.map_err(|error| error.to_string())?;
        outcome.map(|()| detail.to_owned())
    });
    // The driver gets its range back as it gave it: inaccessible.
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the range is ours until it is freed right after, and nothing points into it.
    let undone = unsafe {
        libc::mmap(address as *mut c_void, SIZE_2_MIB, libc::PROT_NONE, flags, -1, 0);
        calls.free_address(address, SIZE_2_MIB)
    };
    outcome.and_then(|detail| undone.map(|()| detail).map_err(|error| error.to_string()))
}

/// As much as a small model's buffers for copies: more than the usual limit on locked memory.
const PINNED: usize = 64 << 20;

/// Pins ordinary memory, as programs do for their copies.
fn pin(calls: &Calls) -> Result<(), String> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: fresh memory of our own; the result is checked, and the range unmapped below.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), PINNED, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(format!("no memory for it: {}", std::io::Error::last_os_error()));
    }
    // SAFETY: mapped just above; nothing uses it after it is unregistered.
    let outcome =
        unsafe { calls.register(at, PINNED, cuda::REGISTER_PORTABLE_MAPPED).and_then(|()| calls.unregister(at)) };
    // SAFETY: as above.
    unsafe { libc::munmap(at, PINNED) };
    outcome.map_err(|error| format!("{} of RAM cannot be pinned: {error}", format_size(PINNED as u64)))
}

/// Lets a kernel read the page cache of a file, this program's own, as weights are read in a model's.
fn file_pages(calls: &Calls, kernel: &Kernel<'_>) -> Result<(), String> {
    let file = std::fs::File::open("/proc/self/exe").map_err(|error| error.to_string())?;
    let bytes = WORDS * 4;
    // SAFETY: a fresh mapping that is only read; the result is checked, and the range unmapped below.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error().to_string());
    }
    // SAFETY: mapped just above, and longer than the words.
    let words = unsafe { std::slice::from_raw_parts(at.cast::<u32>(), WORDS) };
    // SAFETY: the range stays mapped until it is unregistered.
    let outcome = unsafe { calls.register(at, bytes, cuda::REGISTER_READ_ONLY) }.map_err(|error| error.to_string());
    let outcome = outcome.and_then(|()| {
        let read = kernel.reads(at as u64, words);
        // SAFETY: registered above, and the kernel has ended.
        read.and(unsafe { calls.unregister(at) }.map_err(|error| error.to_string()))
    });
    // SAFETY: as above; `words` is not used any more.
    unsafe { libc::munmap(at, bytes) };
    outcome
}

/// Maps 2 MiB of a memfd at `address`: of the hugetlb pool, else ordinary pages that may become a huge one.
fn map_memfd(address: u64) -> Result<&'static str, String> {
    let mut last = String::new();
    for (flags, detail) in [(libc::MFD_HUGETLB | libc::MFD_HUGE_2MB, "hugetlb pages"), (0, "transparent huge pages")] {
        // SAFETY: the name is a C string; the results are checked. MAP_FIXED replaces a range that the driver reserved
        // for us and that holds nothing.
        let at = unsafe {
            let fd = libc::memfd_create(c"greenboost-probe".as_ptr(), libc::MFD_CLOEXEC | flags);
            if fd < 0 || libc::ftruncate(fd, SIZE_2_MIB as libc::off_t) != 0 {
                last = std::io::Error::last_os_error().to_string();
                libc::close(fd);
                continue;
            }
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let at =
                libc::mmap(address as *mut c_void, SIZE_2_MIB, protection, libc::MAP_SHARED | libc::MAP_FIXED, fd, 0);
            last = std::io::Error::last_os_error().to_string();
            libc::close(fd);
            at
        };
        if at == libc::MAP_FAILED {
            continue;
        }
        // SAFETY: mapped just above. The advice may be refused, and is then without effect.
        unsafe { libc::madvise(at, SIZE_2_MIB, libc::MADV_HUGEPAGE) };
        // SAFETY: as above; one page is there from now on, and with it what kind it is.
        unsafe { at.cast::<u8>().write_volatile(0) };
        return Ok(if flags == 0 && !is_huge(address) { "4 KiB pages" } else { detail });
    }
    Err(format!("no memory for it: {last}"))
}

/// Whether the mapping at an address has a page of 2 MiB.
fn is_huge(address: u64) -> bool {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let start = format!("{address:x}-");
    let own = maps.lines().skip_while(|line| !line.starts_with(&start)).skip(1);
    // The next mapping's line begins with a number, a field's with a name.
    let own = own.take_while(|line| line.starts_with(|first: char| first.is_ascii_uppercase()));
    let huge =
        own.filter_map(|line| line.strip_prefix("ShmemPmdMapped:")?.split_whitespace().next()?.parse::<u64>().ok());
    huge.sum::<u64>() > 0
}
