//! Can a kernel really read and write a backing? Asked once per device, with a kernel.
//!
//! Attributes are not enough: there are boards whose driver creates and maps host memory that kernels then
//! cannot read. The probe runs in a context of its own, because a kernel that faults leaves the context it ran
//! in unusable.

use super::access;
use super::backing::HostBacking;
use crate::abi::*;
use crate::driver::Driver;
use greenboost_contract::probe as kernel;
use greenboost_contract::settings::GRANULE;
use std::ffi::c_void;
use std::ptr::null_mut;

const WORDS: usize = 1024;

/// Tries a backing beside VRAM in one reservation.
///
/// # Errors
/// What went wrong, for the log and the status record.
pub fn run(driver: &Driver, device: CUdevice, backing: &dyn HostBacking) -> Result<(), String> {
    let mut context = null_mut();
    // SAFETY: creates and makes current a context that is destroyed below.
    unsafe { driver.cuCtxCreate_v2(&mut context, 0, device) }.map_err(|status| failed("cuCtxCreate", status))?;
    let result = in_context(driver, device, backing);
    // SAFETY: the context is ours and current on this thread; destroying it makes the former one current.
    let _ = unsafe { driver.cuCtxDestroy_v2(context) };
    result
}

fn failed(what: &str, status: Status) -> String {
    format!("{what} failed with {status}")
}

/// One VRAM granule with a RAM granule behind it; both and the reservation are given back when dropped.
struct Bench<'a> {
    driver: &'a Driver,
    backing: &'a dyn HostBacking,
    base: CUdeviceptr,
    vram: Option<CUmemGenericAllocationHandle>,
    ram: Option<super::backing::HostChunk>,
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        let granule = GRANULE as usize;
        if let Some(chunk) = self.ram {
            self.backing.unmap(self.driver, chunk, self.base + GRANULE);
            self.backing.destroy(self.driver, chunk);
        }
        // SAFETY: everything here was made by `in_context` and is used no more.
        unsafe {
            if let Some(handle) = self.vram {
                let _ = self.driver.cuMemUnmap(self.base, granule);
                let _ = self.driver.cuMemRelease(handle);
            }
            let _ = self.driver.cuMemAddressFree(self.base, 2 * granule);
        }
    }
}

fn in_context(driver: &Driver, device: CUdevice, backing: &dyn HostBacking) -> Result<(), String> {
    let granule = GRANULE as usize;
    let mut bench = Bench { driver, backing, base: 0, vram: None, ram: None };
    // SAFETY: all pointers are to live locals, sizes are those of what is passed, and `bench` undoes it all.
    unsafe {
        driver
            .cuMemAddressReserve(&mut bench.base, 2 * granule, granule, 0, 0)
            .map_err(|status| failed("cuMemAddressReserve", status))?;
        let (mut handle, prop) = (0, AllocationProp::pinned(LOCATION_DEVICE, device));
        driver.cuMemCreate(&mut handle, granule, &prop, 0).map_err(|status| failed("cuMemCreate of VRAM", status))?;
        if let Err(status) = driver.cuMemMap(bench.base, granule, 0, handle, 0) {
            let _ = driver.cuMemRelease(handle);
            return Err(failed("cuMemMap of VRAM", status));
        }
        bench.vram = Some(handle);
        access::open_vram(driver, device, bench.base, GRANULE).map_err(|status| failed("cuMemSetAccess", status))?;
    }
    let mut chunk = backing.create(driver, device, GRANULE).map_err(|status| failed("creating memory", status))?;
    if let Err(status) = backing.map(driver, device, &mut chunk, bench.base + GRANULE) {
        backing.destroy(driver, chunk);
        return Err(failed("mapping memory", status));
    }
    bench.ram = Some(chunk);
    kernel_reads_and_writes(driver, bench.base + GRANULE, bench.base)
}

/// Runs the kernel with `ram` as its source and `vram` as its target and compares every word.
fn kernel_reads_and_writes(driver: &Driver, ram: CUdeviceptr, vram: CUdeviceptr) -> Result<(), String> {
    let pattern: Vec<u32> = (0..WORDS as u32).map(|word| word.wrapping_mul(2_654_435_761)).collect();
    let (mut seen, mut left) = (vec![0u32; WORDS], vec![0u32; WORDS]);
    let bytes = WORDS * size_of::<u32>();
    let (mut source, mut target, mut count) = (ram, vram, WORDS as u32);
    let mut params: [*mut c_void; 3] = [(&raw mut source).cast(), (&raw mut target).cast(), (&raw mut count).cast()];
    let (mut module, mut function) = (null_mut(), null_mut());
    // SAFETY: buffers are of `bytes` bytes; the parameters are those of the kernel; the module goes with the context.
    let ran = unsafe {
        driver
            .cuModuleLoadData(&mut module, kernel::PTX.as_ptr().cast())
            .and_then(|()| driver.cuModuleGetFunction(&mut function, module, kernel::ENTRY.as_ptr()))
            .and_then(|()| driver.cuMemcpyHtoD_v2(ram, pattern.as_ptr().cast(), bytes))
            .and_then(|()| {
                driver.cuLaunchKernel(function, 4, 1, 1, 256, 1, 1, 0, null_mut(), params.as_mut_ptr(), null_mut())
            })
            .and_then(|()| driver.cuCtxSynchronize())
            .and_then(|()| driver.cuMemcpyDtoH_v2(seen.as_mut_ptr().cast(), vram, bytes))
            .and_then(|()| driver.cuMemcpyDtoH_v2(left.as_mut_ptr().cast(), ram, bytes))
    };
    ran.map_err(|status| failed("the probe kernel", status))?;
    let read = pattern.iter().zip(&seen).all(|(before, word)| kernel::copied(*before) == *word);
    let written = pattern.iter().zip(&left).all(|(before, word)| kernel::left(*before) == *word);
    match (read, written) {
        (true, true) => Ok(()),
        (false, _) => Err("the kernel read other bytes than were there".to_owned()),
        (true, false) => Err("the kernel's writes did not arrive".to_owned()),
    }
}
