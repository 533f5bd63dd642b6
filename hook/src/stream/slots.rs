//! The VRAM that slots are made of: one piece, out of the device's budget, at an address of its own.

use crate::abi::*;
use crate::memory::Memory;
use crate::memory::access;
use crate::memory::device::Device;
use crate::memory::vram::Use;
use greenboost_contract::settings::GRANULE;

/// The whole ring's memory.
#[derive(Debug)]
pub struct SlotMemory {
    base: CUdeviceptr,
    bytes: u64,
    handle: CUmemGenericAllocationHandle,
}

/// Kernels may read this much behind the last slot.
const SLACK: u64 = 4096;

impl SlotMemory {
    /// Makes `bytes`, a multiple of 2 MiB.
    ///
    /// # Errors
    /// `CUDA_ERROR_OUT_OF_MEMORY` when the budget or the driver has not so much; else the driver's status.
    pub fn make(memory: &Memory, device: &Device, bytes: u64) -> Result<Self, Status> {
        if !device.budget.take(Use::Ring, bytes, device.record) {
            return Err(OUT_OF_MEMORY);
        }
        Self::map(memory, device, bytes).inspect_err(|_| device.budget.give_back(Use::Ring, bytes, device.record))
    }

    fn map(memory: &Memory, device: &Device, bytes: u64) -> Result<Self, Status> {
        let driver = memory.driver;
        let prop = AllocationProp::pinned(LOCATION_DEVICE, device.ordinal);
        let (mut base, mut handle, length) = (0, 0, bytes as usize);
        // SAFETY: results go to live locals; each step is undone when the next one fails.
        unsafe {
            driver.cuMemAddressReserve(&mut base, length, GRANULE as usize, 0, 0)?;
            let made = driver.cuMemCreate(&mut handle, length, &prop, 0).and_then(|()| {
                driver
                    .cuMemMap(base, length, 0, handle, 0)
                    .and_then(|()| {
                        access::open_vram(driver, device.ordinal, base, bytes).inspect_err(|_| {
                            let _ = driver.cuMemUnmap(base, length);
                        })
                    })
                    .inspect_err(|_| {
                        let _ = driver.cuMemRelease(handle);
                    })
            });
            made.inspect_err(|_| {
                let _ = driver.cuMemAddressFree(base, length);
            })?;
        }
        Ok(Self { base, bytes, handle })
    }

    /// The first slot's address.
    pub fn base(&self) -> CUdeviceptr {
        self.base
    }

    /// Bytes that slots may take.
    pub fn capacity(&self) -> u64 {
        self.bytes - SLACK
    }

    /// Gives it back. Nothing may be using it any more.
    pub fn release(self, memory: &Memory, device: &Device) {
        let length = self.bytes as usize;
        // SAFETY: mapped by us, used by nobody.
        let undone = unsafe {
            memory
                .driver
                .cuMemUnmap(self.base, length)
                .and_then(|()| memory.driver.cuMemRelease(self.handle))
                .and_then(|()| memory.driver.cuMemAddressFree(self.base, length))
        };
        if let Err(status) = undone {
            log::error!("the slots' VRAM could not be given back: status {status}");
        }
        device.budget.give_back(Use::Ring, self.bytes, device.record);
    }
}
