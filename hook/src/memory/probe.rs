//! Can a kernel really read and write a backing? Asked once per device, with a kernel.
//!
//! Attributes are not enough: there are boards whose driver creates and maps host memory that kernels then
//! cannot read. The probe runs in a context of its own, because a kernel that faults leaves the context it ran
//! in unusable.

use super::backing::HostBacking;
use crate::abi::*;
use crate::driver::Driver;
use greenboost_contract::probe as kernel;
use greenboost_contract::settings::GRANULE;
use std::ffi::c_void;
use std::ptr::null_mut;

const WORDS: usize = 1024;

/// What a probe came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A kernel reads and writes the memory: that, with what there is to add.
    Works(String),
    /// It does not, and why.
    Fails(String),
    /// There was not even the memory to find out: to be asked again.
    NoRoom(String),
}

/// Tries a backing. Takes no VRAM beyond what a context and a small kernel need: the card may be full.
pub fn run(driver: &Driver, device: CUdevice, backing: &dyn HostBacking) -> Verdict {
    if let Err(why) = backing.ready() {
        return Verdict::Fails(why);
    }
    let mut context = null_mut();
    // SAFETY: creates and makes current a context that is destroyed below.
    let result = match unsafe { driver.cuCtxCreate_v2(&mut context, 0, device) } {
        Err(status) => Err(("cuCtxCreate", status)),
        Ok(()) => {
            let result = in_context(driver, device, backing);
            // SAFETY: the context is ours and current on this thread; destroying it makes the former one current.
            let _ = unsafe { driver.cuCtxDestroy_v2(context) };
            result
        }
    };
    let note = backing.note();
    let noted = |why: String| note.as_ref().map_or(why.clone(), |note| format!("{why} ({note})"));
    match result {
        Ok(Ok(())) => Verdict::Works(noted("a kernel reads and writes it".to_owned())),
        Ok(Err(wrong)) => Verdict::Fails(wrong.to_owned()),
        Err((what, OUT_OF_MEMORY)) => Verdict::NoRoom(noted(format!("{what}: out of memory"))),
        Err((what, status)) => Verdict::Fails(noted(format!("{what} failed with {status}"))),
    }
}

/// A driver call that failed.
type Failed = (&'static str, Status);

/// One granule of RAM in a reservation; both are given back when dropped.
struct Bench<'a> {
    driver: &'a Driver,
    backing: &'a dyn HostBacking,
    base: CUdeviceptr,
    ram: Option<super::backing::HostChunk>,
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        if let Some(chunk) = self.ram {
            self.backing.unmap(self.driver, chunk, self.base);
            self.backing.destroy(self.driver, chunk);
        }
        // SAFETY: the reservation was made by `in_context`, is empty, and is used no more.
        let _ = unsafe { self.driver.cuMemAddressFree(self.base, GRANULE as usize) };
    }
}

fn in_context(
    driver: &Driver,
    device: CUdevice,
    backing: &dyn HostBacking,
) -> Result<Result<(), &'static str>, Failed> {
    let mut base = 0;
    // SAFETY: writes an address to a live local.
    unsafe { driver.cuMemAddressReserve(&mut base, GRANULE as usize, GRANULE as usize, 0, 0) }
        .map_err(|status| ("cuMemAddressReserve", status))?;
    let mut bench = Bench { driver, backing, base, ram: None };
    let mut chunk = backing.create(driver, device, GRANULE).map_err(|status| ("creating memory", status))?;
    if let Err(status) = backing.map(driver, device, &mut chunk, base) {
        backing.destroy(driver, chunk);
        return Err(("mapping memory", status));
    }
    bench.ram = Some(chunk);
    kernel_reads_and_writes(driver, base, base + GRANULE / 2).map_err(|status| ("the probe kernel", status))
}

/// Runs the kernel from one half of the granule to the other and compares every word.
fn kernel_reads_and_writes(
    driver: &Driver,
    from: CUdeviceptr,
    to: CUdeviceptr,
) -> Result<Result<(), &'static str>, Status> {
    let pattern: Vec<u32> = (0..WORDS as u32).map(|word| word.wrapping_mul(2_654_435_761)).collect();
    let (mut seen, mut left) = (vec![0u32; WORDS], vec![0u32; WORDS]);
    let bytes = WORDS * size_of::<u32>();
    let (mut source, mut target, mut count) = (from, to, WORDS as u32);
    let mut params: [*mut c_void; 3] = [(&raw mut source).cast(), (&raw mut target).cast(), (&raw mut count).cast()];
    let (mut module, mut function) = (null_mut(), null_mut());
    // SAFETY: buffers are of `bytes` bytes; the parameters are those of the kernel; the module goes with the context.
    unsafe {
        driver.cuModuleLoadData(&mut module, kernel::PTX.as_ptr().cast())?;
        driver.cuModuleGetFunction(&mut function, module, kernel::ENTRY.as_ptr())?;
        driver.cuMemcpyHtoD_v2(from, pattern.as_ptr().cast(), bytes)?;
        driver.cuLaunchKernel(function, 4, 1, 1, 256, 1, 1, 0, null_mut(), params.as_mut_ptr(), null_mut())?;
        driver.cuCtxSynchronize()?;
        driver.cuMemcpyDtoH_v2(seen.as_mut_ptr().cast(), to, bytes)?;
        driver.cuMemcpyDtoH_v2(left.as_mut_ptr().cast(), from, bytes)?;
    }
    let read = pattern.iter().zip(&seen).all(|(before, word)| kernel::copied(*before) == *word);
    let written = pattern.iter().zip(&left).all(|(before, word)| kernel::left(*before) == *word);
    match (read, written) {
        (true, true) => Ok(Ok(())),
        (false, _) => Ok(Err("the kernel read other bytes than were there, or wrote them nowhere")),
        (true, false) => Ok(Err("the kernel's writes did not arrive")),
    }
}
