//! Which devices may use a piece of memory.
//!
//! The driver opens an ordinary allocation to other devices by `cuCtxEnablePeerAccess`; memory that is mapped in
//! chunks it does not, and a program that copies between its GPUs would fail on it. So every device that can
//! reach the memory at all may: all of them for RAM, the owner and its peers for VRAM.

use greenboost_cuda::Driver;
use greenboost_cuda::abi::{AccessDesc, CUdevice};

fn reaches(driver: &Driver, from: CUdevice, to: CUdevice) -> bool {
    let mut can = 0;
    // SAFETY: writes one integer to a live local.
    from == to || unsafe { driver.cuDeviceCanAccessPeer(&mut can, from, to) }.is_ok() && can != 0
}

/// Who may use VRAM of a device.
pub fn to_vram(driver: &Driver, device: CUdevice) -> Vec<AccessDesc> {
    (0..driver.device_count()).filter(|other| reaches(driver, *other, device)).map(AccessDesc::read_write).collect()
}

/// Who may use RAM.
pub fn to_ram(driver: &Driver) -> Vec<AccessDesc> {
    (0..driver.device_count()).map(AccessDesc::read_write).collect()
}
