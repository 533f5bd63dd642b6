//! Where a chunk's bytes are, and the one way in which that changes.
//!
//! ```text
//!                 create ──▶ not mapped ──map──▶ mapped ──unmap──▶ not mapped ──destroy──▶ gone
//!                 (budget)                       (the device sees it)                      (budget back)
//!
//!   transition:   create the next ─ fill it, from VRAM ─ unmap the last ─ map the next ─ fill it, from its file ─ destroy the last
//!                                                             └──── when the next refuses, the last is mapped again ────┘
//! ```
//!
//! | from | to | when | bytes come |
//! |---|---|---|---|
//! | - | VRAM, RAM, file | an allocation gets its chunks | from the program; a file's pages have them |
//! | VRAM | RAM | something hotter comes | copied before the exchange |
//! | VRAM | file | the same, where the file has the very bytes | they are there |
//! | file | RAM | somebody writes | read from the file after the exchange |

use crate::Memory;
use crate::access;
use crate::admission::Admission;
use crate::allocation::{Allocation, Chunk, Residency};
use crate::backing::file_pages::{FilePages, FileRange};
use crate::backing::{self, HostBacking};
use crate::device::{Device, Use};
use greenboost_contract::settings::GRANULE;
use greenboost_cuda::abi::*;
use greenboost_cuda::{Current, vmm};
use greenboost_weights::hint::PlacementHint;
use greenboost_weights::placement::Extent;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};

/// What a chunk's residency is to become.
#[derive(Debug, Clone)]
pub enum Target {
    /// VRAM of the chunk's device.
    Vram,
    /// RAM of the device's backing.
    Ram(Admission),
    /// The page cache of a file.
    File(FilePages),
}

impl Memory {
    /// Makes memory of a kind, not mapped anywhere yet, out of its budget.
    fn create(&self, device: &Device, bytes: u64, target: Target) -> Result<Residency, Status> {
        match target {
            Target::Vram => {
                if !device.take(Use::Chunks, bytes) {
                    return Err(OUT_OF_MEMORY);
                }
                let prop = AllocationProp::pinned(LOCATION_DEVICE, device.ordinal);
                let made = vmm::create(self.driver, bytes, &prop);
                made.map(Residency::Vram).inspect_err(|_| device.give_back(Use::Chunks, bytes))
            }
            Target::Ram(admission) => {
                let (backing, chunk) = self.take_ram(device, bytes, admission)?;
                self.count_ram(device, backing, bytes);
                Ok(Residency::Ram(backing, chunk))
            }
            Target::File(_) if !self.may_be_in_file(device, bytes) => Err(OUT_OF_MEMORY),
            Target::File(pages) => {
                self.in_files.fetch_add(1, AcqRel);
                device.record.page_cache.fetch_add(bytes, Relaxed);
                Ok(Residency::File(pages))
            }
        }
    }

    /// Gives memory back that is mapped nowhere any more.
    fn destroy(&self, device: &Device, bytes: u64, residency: Residency) {
        match residency {
            Residency::Vram(handle) => {
                // SAFETY: made by us, and mapped nowhere.
                if let Err(status) = unsafe { self.driver.cuMemRelease(handle) } {
                    log::error!("{bytes} bytes of VRAM could not be given back: {status}");
                }
                device.give_back(Use::Chunks, bytes);
            }
            Residency::Ram(backing, chunk) => {
                backing.destroy(self.driver, chunk);
                device.record.ram[backing::index(backing)].fetch_sub(bytes, Relaxed);
                self.give_back_ram(bytes);
            }
            Residency::File(_) => {
                self.in_files.fetch_sub(1, AcqRel);
                device.record.page_cache.fetch_sub(bytes, Relaxed);
                self.record.file_bytes.store(self.files.pinned.bytes(), Relaxed);
            }
        }
    }

    fn count_ram(&self, device: &Device, backing: &dyn HostBacking, bytes: u64) {
        device.record.ram[backing::index(backing)].fetch_add(bytes, Relaxed);
    }

    /// Makes memory what the device sees at an empty part of a reservation of ours.
    fn map(&self, device: &Device, residency: &mut Residency, at: CUdeviceptr, bytes: u64) -> Result<(), Status> {
        match residency {
            // SAFETY: an empty part of a reservation of ours, and a handle of this many bytes.
            Residency::Vram(handle) => unsafe {
                vmm::map(self.driver, at, bytes, *handle, &access::to_vram(self.driver, device.ordinal))
            },
            Residency::Ram(backing, chunk) => {
                backing.map(self.driver, device.ordinal, chunk, at)?;
                if backing.has_boundaries() {
                    self.boundaries.store(true, Relaxed);
                }
                Ok(())
            }
            Residency::File(pages) => {
                pages.map(self.driver, &self.files.pinned, at, bytes)?;
                self.boundaries.store(true, Relaxed);
                self.record.file_bytes.store(self.files.pinned.bytes(), Relaxed);
                Ok(())
            }
        }
    }

    /// Undoes [`Memory::map`]: the range is reserved and empty again. Nothing may be using it.
    fn unmap(&self, residency: &Residency, at: CUdeviceptr, bytes: u64) -> Result<(), Status> {
        match residency {
            // SAFETY: mapped by us at this address; the caller promises that nothing uses it.
            Residency::Vram(_) => unsafe { self.driver.cuMemUnmap(at, bytes as usize) },
            Residency::Ram(backing, chunk) => {
                backing.unmap(self.driver, *chunk, at);
                Ok(())
            }
            Residency::File(pages) => {
                pages.unmap(self.driver, &self.files.pinned, at, bytes);
                Ok(())
            }
        }
    }

    /// Gives the chunk another residency, with the bytes that it has. When that fails, it keeps the one that it had. Nobody is
    /// using the chunk, nor can; a context of the allocation's is current.
    ///
    /// # Errors
    /// The driver's status; `CUDA_ERROR_OUT_OF_MEMORY` when the budget, or the machine, has no more.
    pub fn transition(&self, device: &Device, chunk: &mut Chunk, target: Target) -> Result<(), Status> {
        let mut next = self.create(device, chunk.bytes, target)?;
        let changed = self.fill_ahead(device, chunk, &next).and_then(|()| self.exchange(device, chunk, &mut next));
        if let Err(status) = changed {
            self.destroy(device, chunk.bytes, next);
            return Err(status);
        }
        let last = std::mem::replace(&mut chunk.residency, next);
        self.destroy(device, chunk.bytes, last);
        Ok(())
    }

    /// Copies what is in VRAM into RAM that is not mapped yet, so that the moment without a residency is as short as a remap.
    fn fill_ahead(&self, device: &Device, chunk: &Chunk, next: &Residency) -> Result<(), Status> {
        match (&chunk.residency, next) {
            (Residency::Vram(_), Residency::Ram(backing, memory)) => {
                backing.fill(self.driver, device.ordinal, *memory, chunk.at)
            }
            _ => Ok(()),
        }
    }

    /// Maps the next in the place of what is mapped, which is put back when that fails.
    fn exchange(&self, device: &Device, chunk: &mut Chunk, next: &mut Residency) -> Result<(), Status> {
        let (at, bytes) = (chunk.at, chunk.bytes);
        self.unmap(&chunk.residency, at, bytes)?;
        let changed = self.map(device, next, at, bytes).and_then(|()| {
            let Residency::File(pages) = &chunk.residency else { return Ok(()) };
            let filled = pages.each_piece(at, bytes, |at, piece| {
                // SAFETY: a buffer of this many bytes, into memory that is mapped here and in use by nobody.
                unsafe { self.driver.cuMemcpyHtoD_v2(at, piece.as_ptr().cast(), piece.len()) }
            });
            filled.inspect_err(|_| {
                let _ = self.unmap(next, at, bytes);
            })
        });
        changed.inspect_err(|status| {
            if let Err(lost) = self.map(device, &mut chunk.residency, at, bytes) {
                log::error!(
                    "a chunk at {at:#x} is unmapped: what was to replace it refused with {status}, it with {lost}"
                );
            }
        })
    }

    /// Gives an allocation, as its next chunk, what another has given away. Where it cannot be mapped, it is gone.
    ///
    /// # Errors
    /// The driver's status.
    pub fn adopt(
        &self,
        device: &Device,
        allocation: &mut Allocation,
        chunk: Chunk,
        hint: PlacementHint,
    ) -> Result<(), Status> {
        let (at, bytes, mut residency) = (allocation.filled_to(), chunk.bytes, chunk.residency);
        match self.map(device, &mut residency, at, bytes) {
            Ok(()) => {
                allocation.chunks.push(Chunk { at, bytes, residency, hint });
                Ok(())
            }
            Err(status) => {
                self.destroy(device, bytes, residency);
                Err(status)
            }
        }
    }

    /// Fills an allocation from its first address without a chunk on. An extent that is to be in VRAM goes to RAM where the budget, or
    /// the driver, has no more; what is outside stays in a file where one has it.
    ///
    /// # Errors
    /// The driver's status; the chunks made so far are in the allocation.
    pub fn fill(
        &self,
        device: &Device,
        allocation: &mut Allocation,
        extents: &[Extent],
        admission: Admission,
    ) -> Result<(), Status> {
        let mut at = allocation.filled_to();
        for extent in extents {
            let end = at + extent.bytes;
            while at < end {
                let chunk = self.make_chunk(device, at, end - at, extent, &allocation.files, admission)?;
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
        extent: &Extent,
        files: &[FileRange],
        admission: Admission,
    ) -> Result<Chunk, Status> {
        let hint = extent.hint;
        let mut bytes = self.settings.chunk.min(bytes);
        // What a file has is a chunk of its own, so that it can come to be read there.
        let next = files.iter().find(|range| at < range.end());
        let file = next.filter(|range| range.at <= at);
        let border = next.map(|range| if range.at <= at { range.end() } else { range.at });
        bytes = bytes.min(border.map_or(bytes, |border| border - at));
        // The budget may end inside a chunk: its last granules are used too.
        let left = device.budget.left() / GRANULE * GRANULE;
        if extent.in_vram && left > 0 {
            bytes = bytes.min(left);
            match self.materialise(device, at, bytes, Target::Vram) {
                Ok(residency) => return Ok(Chunk { at, bytes, residency, hint }),
                // The driver may have less than the budget says: then RAM.
                Err(OUT_OF_MEMORY) => {}
                Err(status) => return Err(status),
            }
        }
        let in_file = file.map(|range| self.materialise(device, at, bytes, Target::File(range.pages_at(at))));
        if let Some(Ok(residency)) = in_file {
            return Ok(Chunk { at, bytes, residency, hint });
        }
        let residency = self.materialise(device, at, bytes, Target::Ram(admission))?;
        Ok(Chunk { at, bytes, residency, hint })
    }

    /// Makes memory and maps it at an empty part of a reservation of ours.
    fn materialise(&self, device: &Device, at: CUdeviceptr, bytes: u64, target: Target) -> Result<Residency, Status> {
        let mut made = self.create(device, bytes, target)?;
        match self.map(device, &mut made, at, bytes) {
            Ok(()) => Ok(made),
            Err(status) => {
                self.destroy(device, bytes, made);
                Err(status)
            }
        }
    }

    /// Gives back the chunks of an allocation, what was taken for those that it has not got yet, and its addresses. Nothing
    /// may be using it.
    pub fn release(&self, allocation: Allocation) {
        let Ok(device) = self.device(allocation.device) else { return };
        if let Some(deferred) = &allocation.deferred {
            self.give_back_deferred(device, deferred);
        }
        // Unregistering wants a context; the others do not mind one. A dead one is no hindrance.
        let _current = Current::push(self.driver, allocation.context);
        for chunk in allocation.chunks {
            if let Err(status) = self.unmap(&chunk.residency, chunk.at, chunk.bytes) {
                log::error!("VRAM at {:#x} could not be unmapped: {status}", chunk.at);
            }
            self.destroy(device, chunk.bytes, chunk.residency);
        }
        for (at, bytes) in allocation.given_away {
            // SAFETY: mapped by us at this address; the caller promises that nothing uses it.
            if let Err(status) = unsafe { self.driver.cuMemUnmap(at, bytes as usize) } {
                log::error!("what was VRAM at {at:#x} could not be unmapped: {status}");
            }
        }
        vmm::free(self.driver, allocation.base, allocation.span);
    }

    /// Whether any chunk is in a file: almost always no, and quickly said.
    #[inline]
    pub fn has_chunks_in_files(&self) -> bool {
        self.in_files.load(Relaxed) != 0
    }

    /// Whether this many more bytes of page cache may become a chunk's.
    pub fn may_be_in_file(&self, device: &Device, bytes: u64) -> bool {
        device.reads_files() && self.has_room_for_pages(bytes)
    }
}
