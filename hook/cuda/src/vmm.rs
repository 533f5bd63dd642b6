//! Memory that is created, mapped and opened in three steps: the driver's virtual memory management.
//!
//! None of these waits for running kernels; whoever unmaps has seen to it that nothing uses the range.

use crate::abi::{AccessDesc, AllocationProp, CUdeviceptr, CUmemGenericAllocationHandle, Status};
use crate::driver::Driver;

/// Creates physical memory, not mapped anywhere yet.
///
/// # Errors
/// The driver's status; `CUDA_ERROR_OUT_OF_MEMORY` when there is no more.
pub fn create(driver: &Driver, bytes: u64, prop: &AllocationProp) -> Result<CUmemGenericAllocationHandle, Status> {
    let mut handle = 0;
    // SAFETY: writes a handle to a live local; the properties live during the call.
    unsafe { driver.cuMemCreate(&mut handle, bytes as usize, prop, 0) }?;
    Ok(handle)
}

/// Maps physical memory of `bytes` at an address and opens it to devices.
///
/// # Safety
/// `at` is an empty part of a reservation of ours, and the handle's memory has this many bytes.
///
/// # Errors
/// The driver's status; nothing is mapped then.
pub unsafe fn map(
    driver: &Driver,
    at: CUdeviceptr,
    bytes: u64,
    handle: CUmemGenericAllocationHandle,
    access: &[AccessDesc],
) -> Result<(), Status> {
    let length = bytes as usize;
    // SAFETY: the caller's promise; what succeeds is undone when the next step fails.
    unsafe {
        driver.cuMemMap(at, length, 0, handle, 0)?;
        driver.cuMemSetAccess(at, length, access.as_ptr(), access.len()).inspect_err(|_| {
            let _ = driver.cuMemUnmap(at, length);
        })
    }
}

/// Addresses of the device's, given back when dropped: nothing may be mapped there any more then.
#[derive(Debug)]
pub struct Reservation<'a> {
    driver: &'a Driver,
    at: CUdeviceptr,
    bytes: u64,
}

impl<'a> Reservation<'a> {
    /// `bytes` of addresses at a multiple of `alignment` (0: the driver's own), at `hint` if the driver follows it (0: wherever
    /// it has some).
    ///
    /// # Errors
    /// The driver's status.
    pub fn new(driver: &'a Driver, bytes: u64, alignment: u64, hint: CUdeviceptr) -> Result<Self, Status> {
        let mut at = 0;
        // SAFETY: writes an address to a live local.
        unsafe { driver.cuMemAddressReserve(&mut at, bytes as usize, alignment as usize, hint, 0) }?;
        Ok(Self { driver, at, bytes })
    }

    /// The first address.
    pub fn at(&self) -> CUdeviceptr {
        self.at
    }

    /// The driver that it is of.
    pub fn driver(&self) -> &'a Driver {
        self.driver
    }

    /// Leaves the addresses to whoever asks, who gives them back with [`free`].
    pub fn keep(self) -> CUdeviceptr {
        let at = self.at;
        std::mem::forget(self);
        at
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        free(self.driver, self.at, self.bytes);
    }
}

/// Gives addresses back that [`Reservation::keep`] left. Nothing may be mapped there any more.
pub fn free(driver: &Driver, at: CUdeviceptr, bytes: u64) {
    // SAFETY: a reservation of ours that is empty.
    if let Err(status) = unsafe { driver.cuMemAddressFree(at, bytes as usize) } {
        log::error!("the reservation at {at:#x} could not be given back: {status}");
    }
}
