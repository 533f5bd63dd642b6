//! Which devices may use a piece of memory.
//!
//! The driver opens an ordinary allocation to other devices by `cuCtxEnablePeerAccess`; memory that is mapped in
//! chunks it does not, and a program that copies between its GPUs would fail on it. So every device that can
//! reach the memory at all may: all of them for RAM, the owner and its peers for VRAM.

use greenboost_cuda::Driver;
use greenboost_cuda::abi::{AccessDesc, CUdevice, CUdeviceptr, Status};
use std::sync::OnceLock;

fn count(driver: &Driver) -> CUdevice {
    static COUNT: OnceLock<CUdevice> = OnceLock::new();
    *COUNT.get_or_init(|| {
        let mut count = 1;
        // SAFETY: writes one integer to a live local.
        let known = unsafe { driver.cuDeviceGetCount(&mut count) };
        if known.is_ok() { count } else { 1 }
    })
}

fn reaches(driver: &Driver, from: CUdevice, to: CUdevice) -> bool {
    let mut can = 0;
    // SAFETY: writes one integer to a live local.
    from == to || unsafe { driver.cuDeviceCanAccessPeer(&mut can, from, to) }.is_ok() && can != 0
}

fn open(driver: &Driver, at: CUdeviceptr, bytes: u64, who: impl Fn(CUdevice) -> bool) -> Result<(), Status> {
    let all: Vec<_> = (0..count(driver)).filter(|device| who(*device)).map(AccessDesc::read_write).collect();
    // SAFETY: the range is mapped by the caller; the descriptions are as many as said.
    unsafe { driver.cuMemSetAccess(at, bytes as usize, all.as_ptr(), all.len()) }
}

/// Opens mapped VRAM of a device.
///
/// # Errors
/// The driver's status; nobody has access then.
pub fn open_vram(driver: &Driver, device: CUdevice, at: CUdeviceptr, bytes: u64) -> Result<(), Status> {
    open(driver, at, bytes, |other| reaches(driver, other, device))
}

/// Opens mapped RAM.
///
/// # Errors
/// The driver's status; nobody has access then.
pub fn open_ram(driver: &Driver, at: CUdeviceptr, bytes: u64) -> Result<(), Status> {
    open(driver, at, bytes, |_| true)
}
