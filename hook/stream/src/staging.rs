//! The VRAM of the ring, out of the device's budget, at a range of addresses of its own: in pieces, so that it can give
//! some of them back from its end.

use greenboost_contract::settings::GRANULE;
use greenboost_cuda::Driver;
use greenboost_cuda::abi::*;
use greenboost_cuda::vmm::{self, Reservation};
use greenboost_memory::Memory;
use greenboost_memory::access;
use greenboost_memory::device::Device;
use greenboost_memory::device::Use;

/// The whole ring's memory.
#[derive(Debug)]
pub struct StagingMemory {
    base: CUdeviceptr,
    /// Of addresses.
    reserved: u64,
    /// In order of address, each with its bytes: `piece`, and the first what is left over as well.
    pieces: Vec<(CUmemGenericAllocationHandle, u64)>,
    piece: u64,
}

/// Kernels may read this much after the last staging slot.
const SLACK: u64 = 4096;
/// It consists of about this many pieces.
const MOST_PIECES: u64 = 8;

impl StagingMemory {
    /// Makes `bytes`, a multiple of 2 MiB: all of them, since whoever asks may have counted tensors.
    ///
    /// # Errors
    /// `CUDA_ERROR_OUT_OF_MEMORY` when the budget or the driver has less; else the driver's status.
    pub fn make(memory: &Memory, device: &Device, bytes: u64) -> Result<Self, Status> {
        let piece = (bytes / MOST_PIECES / GRANULE).max(1) * GRANULE;
        if !device.take(Use::Ring, bytes) {
            return Err(OUT_OF_MEMORY);
        }
        let give_back = |status: &Status| {
            log::debug!("no VRAM for slots: {status}");
            device.give_back(Use::Ring, bytes);
        };
        let base = Reservation::new(memory.driver, bytes, GRANULE, 0).inspect_err(give_back)?.keep();
        let mut made = Self { base, reserved: bytes, pieces: Vec::new(), piece };
        while made.bytes() < bytes {
            let left_over = if made.pieces.is_empty() { bytes % piece } else { 0 };
            if let Err(status) = made.add(memory.driver, device.ordinal, piece + left_over) {
                made.unmap_from(memory.driver, 0);
                made.free_addresses(memory.driver);
                give_back(&status);
                return Err(status);
            }
        }
        Ok(made)
    }

    /// One piece more, at the end.
    fn add(&mut self, driver: &Driver, ordinal: CUdevice, bytes: u64) -> Result<(), Status> {
        let handle = vmm::create(driver, bytes, &AllocationProp::pinned(LOCATION_DEVICE, ordinal))?;
        let access = access::to_vram(driver, ordinal);
        // SAFETY: the reservation is empty from here on; the memory has this many bytes.
        unsafe { vmm::map(driver, self.base + self.bytes(), bytes, handle, &access) }.inspect_err(|_| {
            // SAFETY: made just now, and mapped nowhere.
            let _ = unsafe { driver.cuMemRelease(handle) };
        })?;
        self.pieces.push((handle, bytes));
        Ok(())
    }

    /// The first staging slot's address.
    pub fn base(&self) -> CUdeviceptr {
        self.base
    }

    /// Bytes of VRAM.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Bytes that staging slots may take.
    pub fn capacity(&self) -> u64 {
        self.bytes() - SLACK
    }

    /// Gives back at least `needed` bytes from the end, if half of the pieces are enough. Nothing may be using any of it.
    /// Returns how many.
    pub fn shrink(&mut self, memory: &Memory, device: &Device, needed: u64) -> u64 {
        let (goes, half) = (needed.div_ceil(self.piece) as usize, self.pieces.len() / 2);
        if goes == 0 || goes > half {
            return 0;
        }
        self.unmap_from(memory.driver, self.pieces.len() - goes);
        let bytes = goes as u64 * self.piece;
        device.give_back(Use::Ring, bytes);
        bytes
    }

    /// Gives it back. Nothing may be using it any more.
    pub fn release(mut self, memory: &Memory, device: &Device) {
        let bytes = self.bytes();
        self.unmap_from(memory.driver, 0);
        self.free_addresses(memory.driver);
        device.give_back(Use::Ring, bytes);
    }

    /// Unmaps and releases all pieces but the first ones, which are kept.
    fn unmap_from(&mut self, driver: &Driver, kept: usize) {
        while self.pieces.len() > kept {
            let Some((handle, bytes)) = self.pieces.pop() else { return };
            // SAFETY: mapped by us, behind those that are left; used by nobody.
            let undone = unsafe {
                driver.cuMemUnmap(self.base + self.bytes(), bytes as usize).and_then(|()| driver.cuMemRelease(handle))
            };
            if let Err(status) = undone {
                log::error!("VRAM of slots could not be given back: {status}");
            }
        }
    }

    fn free_addresses(&self, driver: &Driver) {
        vmm::free(driver, self.base, self.reserved);
    }
}
