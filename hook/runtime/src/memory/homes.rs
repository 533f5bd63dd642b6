//! Homes: what is behind a stretch of device addresses, made and given back.

use super::access;
use super::allocations::{Allocation, Chunk, Home};
use super::claim::Claim;
use super::device::Device;
use super::page_cache::FileRange;
use super::vram::Use;
use super::{Memory, backing};
use crate::ggml::placement::Stretch;
use greenboost_contract::settings::GRANULE;
use greenboost_cuda::Current;
use greenboost_cuda::abi::*;
use std::sync::atomic::Ordering::Relaxed;

impl Memory {
    /// Fills an allocation that has no chunks yet. A stretch that is to be in VRAM goes to RAM where the budget, or
    /// the driver, has no more; what is outside stays in a file where one has it.
    pub(super) fn fill(
        &self,
        device: &Device,
        allocation: &mut Allocation,
        stretches: &[Stretch],
        claim: Claim,
    ) -> Result<(), Status> {
        let mut at = allocation.base;
        for stretch in stretches {
            let end = at + stretch.bytes;
            while at < end {
                let chunk = self.make_chunk(device, at, end - at, stretch, &allocation.files, claim)?;
                at += chunk.bytes;
                allocation.chunks.push(chunk);
            }
        }
        Ok(())
    }

    /// The next chunk, of at most `bytes`.
    fn make_chunk(
        &self,
        device: &Device,
        at: CUdeviceptr,
        bytes: u64,
        stretch: &Stretch,
        files: &[FileRange],
        claim: Claim,
    ) -> Result<Chunk, Status> {
        let (vram, wish) = (stretch.in_vram, stretch.wish);
        let mut bytes = self.settings.chunk.min(bytes);
        // What a file has is a chunk of its own, so that it can come to be read there.
        let next = files.iter().find(|range| at < range.end());
        let file = next.filter(|range| range.at <= at);
        let border = next.map(|range| if range.at <= at { range.end() } else { range.at });
        bytes = bytes.min(border.map_or(bytes, |border| border - at));
        // The budget may end inside a chunk: its last granules are used too.
        let left = device.budget.left() / GRANULE * GRANULE;
        if vram && left > 0 {
            bytes = bytes.min(left);
            if device.budget.take(Use::Chunks, bytes, device.record) {
                match self.vram_home(device, at, bytes) {
                    Ok(home) => return Ok(Chunk { at, bytes, home, wish }),
                    Err(status) => {
                        device.budget.give_back(Use::Chunks, bytes, device.record);
                        // The driver may have less than the budget says: then RAM.
                        if status != OUT_OF_MEMORY {
                            return Err(status);
                        }
                    }
                }
            }
        }
        if let Some(home) = file.and_then(|range| self.file_home(device, range, at, bytes)) {
            return Ok(Chunk { at, bytes, home, wish });
        }
        let home = self.ram_home(device, at, bytes, claim)?;
        Ok(Chunk { at, bytes, home, wish })
    }

    fn vram_home(&self, device: &Device, at: CUdeviceptr, bytes: u64) -> Result<Home, Status> {
        let prop = AllocationProp::pinned(LOCATION_DEVICE, device.ordinal);
        let (mut handle, length) = (0, bytes as usize);
        // SAFETY: `at` is an empty part of a reservation of ours; what succeeds is undone when the next step fails.
        unsafe {
            self.driver.cuMemCreate(&mut handle, length, &prop, 0)?;
            let mapped = self.driver.cuMemMap(at, length, 0, handle, 0).and_then(|()| {
                access::open_vram(self.driver, device.ordinal, at, bytes).inspect_err(|_| {
                    let _ = self.driver.cuMemUnmap(at, length);
                })
            });
            if let Err(status) = mapped {
                let _ = self.driver.cuMemRelease(handle);
                return Err(status);
            }
        }
        Ok(Home::Vram(handle))
    }

    fn ram_home(&self, device: &Device, at: CUdeviceptr, bytes: u64, claim: Claim) -> Result<Home, Status> {
        let (backing, mut chunk) = self.take_ram(device, bytes, claim)?;
        let mapped = backing.map(self.driver, device.ordinal, &mut chunk, at).inspect_err(|status| {
            device.refused(backing, *status);
            backing.destroy(self.driver, chunk);
            self.ram.give_back(bytes, self.record);
        });
        mapped?;
        self.note_ram(device, backing, bytes);
        Ok(Home::Ram(backing, chunk))
    }

    /// Counts RAM that has become a home.
    pub(super) fn note_ram(&self, device: &Device, backing: &dyn backing::HostBacking, bytes: u64) {
        device.record.ram[backing::index(backing)].fetch_add(bytes, Relaxed);
        if backing.has_seams() {
            self.seams.store(true, Relaxed);
        }
    }

    /// Gives back the homes and the reservation.
    pub(super) fn release_homes(&self, allocation: Allocation) {
        let Ok(device) = self.device(allocation.device) else { return };
        if let Some(late) = &allocation.late {
            self.give_back_late(device, late);
        }
        // Unregistering wants a context; the others do not mind one. A dead one is no hindrance.
        let _current = Current::push(self.driver, allocation.context);
        for chunk in &allocation.chunks {
            match &chunk.home {
                Home::Vram(handle) => {
                    // SAFETY: mapped by us at this address; the caller promises that nothing uses it.
                    let undone = unsafe {
                        self.driver
                            .cuMemUnmap(chunk.at, chunk.bytes as usize)
                            .and_then(|()| self.driver.cuMemRelease(*handle))
                    };
                    if let Err(status) = undone {
                        log::error!("VRAM at {:#x} could not be given back: {status}", chunk.at);
                    }
                    device.budget.give_back(Use::Chunks, chunk.bytes, device.record);
                }
                Home::Ram(backing, memory) => {
                    backing.unmap(self.driver, *memory, chunk.at);
                    backing.destroy(self.driver, *memory);
                    device.record.ram[backing::index(*backing)].fetch_sub(chunk.bytes, Relaxed);
                    self.ram.give_back(chunk.bytes, self.record);
                }
                Home::File(pages) => {
                    pages.unmap(self.driver, chunk.at, chunk.bytes);
                    self.pages_gone(device, chunk.bytes);
                }
            }
        }
        // SAFETY: the reservation is ours and empty now.
        if let Err(status) = unsafe { self.driver.cuMemAddressFree(allocation.base, allocation.span as usize) } {
            log::error!("the reservation at {:#x} could not be given back: {status}", allocation.base);
        }
    }
}
