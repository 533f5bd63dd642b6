//! Making and releasing spanning allocations.

use super::access;
use super::allocations::{Allocation, Chunk, Home};
use super::backing;
use super::device::Device;
use super::vram::Use;
use super::{Memory, captures};
use crate::abi::*;
use crate::driver::{Current, RelaxedCapture};
use greenboost_contract::settings::GRANULE;
use greenboost_contract::{Spill, format_size};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

impl Memory {
    /// Whether allocations of a device can be spread over tiers.
    pub fn can_span(&self, device: &Device) -> bool {
        // The probe runs a kernel and waits for it: not while a capture is going on.
        device.can_map
            && self.settings.spill == Spill::Allow
            && (device.is_probed() || !captures::any(self.driver))
            && device.backing(self.driver, self.settings, self.record).is_some()
    }

    /// Makes an allocation of `bytes` on `device`: VRAM first, up to the budget, the rest in RAM. What is in
    /// VRAM of larger allocations makes way: the largest of a program are its weights, and those that come
    /// after them (the KV cache, scratch) are hotter.
    ///
    /// # Errors
    /// `CUDA_ERROR_OUT_OF_MEMORY` when both budgets together do not have it; else the driver's status.
    pub fn span(&self, device: &Device, bytes: u64) -> Result<CUdeviceptr, Status> {
        let span = bytes.checked_next_multiple_of(GRANULE).ok_or(OUT_OF_MEMORY)?;
        let context = self.current_context().map_err(|_| UNKNOWN)?;
        self.reap(false);
        let _relaxed = RelaxedCapture::enter(self.driver);
        let placing = self.placing();
        let short = span.saturating_sub(device.budget.left());
        if short > 0 {
            self.make_room_placing(device, short, span);
        }
        let short = span.saturating_sub(device.budget.left());
        if short > self.ram.left() {
            // Known before anything is taken: a refusal costs nothing.
            device.record.refused.fetch_add(1, Relaxed);
            log::warn!(
                "{} refused: {} VRAM and {} RAM are left",
                format_size(bytes),
                format_size(device.budget.left()),
                format_size(self.ram.left())
            );
            return Err(OUT_OF_MEMORY);
        }
        let mut allocation = self.reserve(device, context, bytes, span)?;
        let filled = self.fill_with_chunks(device, &mut allocation);
        let (base, in_vram) = (allocation.base, allocation.in_vram());
        match filled {
            Ok(()) => {
                device.remember_context(context);
                device.record.allocations.fetch_add(1, Relaxed);
                self.table_mut().insert(allocation);
                drop(placing);
                log::info!("{} at {base:#x}: {} in VRAM", format_size(bytes), format_size(in_vram));
                Ok(base)
            }
            Err(status) => {
                device.record.refused.fetch_add(1, Relaxed);
                self.release_homes(allocation);
                log::warn!("{} refused with status {status}", format_size(bytes));
                Err(status)
            }
        }
    }

    fn reserve(&self, device: &Device, context: CUcontext, size: u64, span: u64) -> Result<Allocation, Status> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let mut base = 0;
        // SAFETY: writes the address to a live local.
        unsafe { self.driver.cuMemAddressReserve(&mut base, span as usize, GRANULE as usize, 0, 0) }?;
        // Ours are far above the driver's own numbers, so that no buffer ID is given twice.
        let serial = (1 << 48) + SERIAL.fetch_add(1, Relaxed);
        Ok(Allocation { base, size, span, device: device.ordinal, context, serial, chunks: Vec::new() })
    }

    fn fill_with_chunks(&self, device: &Device, allocation: &mut Allocation) -> Result<(), Status> {
        let end = allocation.base + allocation.span;
        let mut at = allocation.base;
        let mut vram = true;
        while at < end {
            let mut bytes = self.settings.chunk.min(end - at);
            // The budget may end inside a chunk: its last granules are used too.
            let left = device.budget.left() / GRANULE * GRANULE;
            if vram && left > 0 {
                bytes = bytes.min(left);
            }
            vram = vram && left > 0 && device.budget.take(Use::Chunks, bytes, device.record);
            let home = match vram.then(|| self.vram_home(device, at, bytes)) {
                Some(Ok(home)) => home,
                refused => {
                    if let Some(Err(status)) = refused {
                        device.budget.give_back(Use::Chunks, bytes, device.record);
                        if status != OUT_OF_MEMORY {
                            return Err(status);
                        }
                        // The driver has less than the budget says: the rest goes to RAM.
                        vram = false;
                    }
                    self.ram_home(device, at, bytes)?
                }
            };
            allocation.chunks.push(Chunk { at, bytes, home });
            at += bytes;
        }
        Ok(())
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

    fn ram_home(&self, device: &Device, at: CUdeviceptr, bytes: u64) -> Result<Home, Status> {
        let backing = device.backing(self.driver, self.settings, self.record).ok_or(OUT_OF_MEMORY)?;
        if !self.ram.take(bytes, self.record) {
            return Err(OUT_OF_MEMORY);
        }
        let made = backing.create(self.driver, device.ordinal, bytes).and_then(|mut chunk| {
            let mapped = backing.map(self.driver, device.ordinal, &mut chunk, at);
            mapped.map(|()| chunk).inspect_err(|_| backing.destroy(self.driver, chunk))
        });
        match made {
            Ok(chunk) => {
                self.note_ram(device, backing, bytes);
                Ok(Home::Ram(backing, chunk))
            }
            Err(status) => {
                self.ram.give_back(bytes, self.record);
                Err(status)
            }
        }
    }

    /// Counts RAM that has become a home.
    pub(super) fn note_ram(&self, device: &Device, backing: &dyn backing::HostBacking, bytes: u64) {
        device.record.ram[backing::index(backing)].fetch_add(bytes, Relaxed);
        if backing.has_seams() {
            self.seams.store(true, Relaxed);
        }
    }

    /// Takes an allocation out of the table; it is the caller's to release.
    pub fn detach(&self, base: CUdeviceptr) -> Option<Allocation> {
        // Behind a move that may be going on.
        let _placing = self.placing();
        self.table_mut().remove(base)
    }

    /// Takes out every allocation of a context that is about to end.
    pub fn detach_context(&self, context: CUcontext) -> Vec<Allocation> {
        let _placing = self.placing();
        self.table_mut().take(|allocation| allocation.context == context)
    }

    /// Gives everything of an allocation back. Nothing may be using it any more.
    pub fn release(&self, allocation: Allocation) {
        if let Ok(device) = self.device(allocation.device) {
            device.record.allocations.fetch_sub(1, Relaxed);
        }
        self.release_homes(allocation);
    }

    fn release_homes(&self, allocation: Allocation) {
        let Ok(device) = self.device(allocation.device) else { return };
        // Unregistering wants a context; the others do not mind one. A dead one is no hindrance.
        let _current = Current::push(self.driver, allocation.context);
        for chunk in &allocation.chunks {
            match chunk.home {
                Home::Vram(handle) => {
                    // SAFETY: mapped by us at this address; the caller promises that nothing uses it.
                    let undone = unsafe {
                        self.driver
                            .cuMemUnmap(chunk.at, chunk.bytes as usize)
                            .and_then(|()| self.driver.cuMemRelease(handle))
                    };
                    if let Err(status) = undone {
                        log::error!("VRAM at {:#x} could not be given back: status {status}", chunk.at);
                    }
                    device.budget.give_back(Use::Chunks, chunk.bytes, device.record);
                }
                Home::Ram(backing, memory) => {
                    backing.unmap(self.driver, memory, chunk.at);
                    backing.destroy(self.driver, memory);
                    device.record.ram[backing::index(backing)].fetch_sub(chunk.bytes, Relaxed);
                    self.ram.give_back(chunk.bytes, self.record);
                }
            }
        }
        // SAFETY: the reservation is ours and empty now.
        if let Err(status) = unsafe { self.driver.cuMemAddressFree(allocation.base, allocation.span as usize) } {
            log::error!("the reservation at {:#x} could not be given back: status {status}", allocation.base);
        }
    }
}
