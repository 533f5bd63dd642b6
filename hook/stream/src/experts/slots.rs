//! The VRAM of a tensor's expert slots, mapped piece by piece from the first expert slot on, so that it can grow and give back from its end.

use super::window::Window;
use greenboost_contract::settings::GRANULE;
use greenboost_cuda::abi::*;
use greenboost_cuda::{Driver, vmm};
use greenboost_memory::Memory;
use greenboost_memory::access;
use greenboost_memory::device::{Device, Use};

/// Bytes of a piece at the most: large enough that few are needed, small enough that little is given back too much.
const PIECE: u64 = 8 << 20;

/// See the module.
#[derive(Debug, Default)]
pub struct Slots {
    /// In order of address.
    pieces: Vec<(CUmemGenericAllocationHandle, CUdeviceptr, u64)>,
}

/// Bytes of VRAM that this many expert slots of a tensor take.
pub fn cost(window: &Window, slots: u32) -> u64 {
    if slots == 0 {
        return 0;
    }
    let first = window.slot(0) / GRANULE * GRANULE;
    (window.slot(slots) + window.slack()).next_multiple_of(GRANULE) - first
}

impl Slots {
    /// Bytes of VRAM.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|(_, _, bytes)| bytes).sum()
    }

    /// How many expert slots there are room for.
    pub fn count(&self, window: &Window) -> u32 {
        let Some((_, at, bytes)) = self.pieces.last() else { return 0 };
        let room = (at + bytes).saturating_sub(window.slot(0) + window.slack());
        (room / window.stride).min(u64::from(window.most())) as u32
    }

    /// Makes memory for this many expert slots, out of the device's budget. What there is stays when there is no more.
    ///
    /// # Errors
    /// `CUDA_ERROR_OUT_OF_MEMORY` when the budget has no more; else the driver's status.
    pub fn grow(&mut self, memory: &Memory, device: &Device, window: &Window, slots: u32) -> Result<(), Status> {
        let needed = cost(window, slots);
        while self.bytes() < needed {
            let bytes = (needed - self.bytes()).min(PIECE);
            let at = window.slot(0) / GRANULE * GRANULE + self.bytes();
            if !device.take(Use::Experts, bytes) {
                return Err(OUT_OF_MEMORY);
            }
            let made = map(memory.driver, device.ordinal, at, bytes);
            let handle = made.inspect_err(|_| device.give_back(Use::Experts, bytes))?;
            self.pieces.push((handle, at, bytes));
        }
        Ok(())
    }

    /// Gives back what is not needed for this many expert slots, whole pieces of it. Nothing may be using it any more. Returns bytes.
    pub fn shrink(&mut self, memory: &Memory, device: &Device, window: &Window, slots: u32) -> u64 {
        let (needed, mut given_back) = (cost(window, slots), 0);
        while let Some((handle, at, bytes)) = self.pieces.pop() {
            if self.bytes() < needed {
                self.pieces.push((handle, at, bytes));
                break;
            }
            // SAFETY: mapped by us; nobody uses it, as the caller says.
            let undone = unsafe {
                memory.driver.cuMemUnmap(at, bytes as usize).and_then(|()| memory.driver.cuMemRelease(handle))
            };
            if let Err(status) = undone {
                log::error!("VRAM of experts could not be given back: {status}");
            }
            device.give_back(Use::Experts, bytes);
            given_back += bytes;
        }
        given_back
    }
}

fn map(
    driver: &Driver,
    ordinal: CUdevice,
    at: CUdeviceptr,
    bytes: u64,
) -> Result<CUmemGenericAllocationHandle, Status> {
    let handle = vmm::create(driver, bytes, &AllocationProp::pinned(LOCATION_DEVICE, ordinal))?;
    // SAFETY: an empty part of a reservation of ours; the memory has this many bytes.
    unsafe { vmm::map(driver, at, bytes, handle, &access::to_vram(driver, ordinal)) }.inspect_err(|_| {
        // SAFETY: made just now, and mapped nowhere.
        let _ = unsafe { driver.cuMemRelease(handle) };
    })?;
    Ok(handle)
}
