//! Making and releasing spanning allocations.

use crate::eviction::Request;
use crate::pending::Due;
use crate::runtime::Core;
use greenboost_contract::settings::GRANULE;
use greenboost_contract::{Spill, format_size};
use greenboost_cuda::RelaxedCapture;
use greenboost_cuda::abi::*;
use greenboost_cuda::vmm::Reservation;
use greenboost_kmod::Level;
use greenboost_memory::admission::Admission;
use greenboost_memory::allocation::{Allocation, Residency};
use greenboost_memory::device::{Device, Use};
use greenboost_memory::streams::StreamOrder;
use greenboost_weights::hint::PlacementHint;
use greenboost_weights::placement::Extent;
use std::sync::atomic::Ordering::Relaxed;

impl Core {
    /// Whether allocations of a device can be spread over tiers.
    pub fn can_span(&self, device: &Device) -> bool {
        let memory = self.memory;
        // The probe runs a kernel and waits for it: not while a capture is going on.
        device.can_map
            && memory.settings.spill == Spill::Allow
            && (device.is_probed() || !memory.captures.any(memory.driver))
            && memory.backing_of(device).is_some()
    }

    /// Makes an allocation of `bytes` on `device`: VRAM first, up to the budget, the rest in RAM. What is in
    /// VRAM of larger allocations makes way: the largest of a program are its weights, and those that come
    /// after them (the KV cache, scratch) are hotter. Where ggml will tell what it is for, it gets no chunks yet. What the
    /// program has freed earlier in the same `order` is there at once; for what it has freed elsewhere, if VRAM is short, is
    /// waited a moment.
    ///
    /// # Errors
    /// `CUDA_ERROR_OUT_OF_MEMORY` when both budgets together do not have it; else the driver's status.
    pub fn span(&self, device: &Device, bytes: u64, order: Option<StreamOrder>) -> Result<CUdeviceptr, Status> {
        let memory = self.memory;
        let span = bytes.checked_next_multiple_of(GRANULE).ok_or(OUT_OF_MEMORY)?;
        let context = memory.current_context().map_err(|_| UNKNOWN)?;
        self.reap(Due::Now(device.ordinal));
        let _relaxed = RelaxedCapture::enter(memory.driver);
        // No weights come in the order of a stream.
        let is_deferred = order.is_none() && self.ggml().explains();
        let mut allocation = self.reserve(device, context, bytes, span)?;
        if let Some(order) = order {
            self.reuse(device, &mut allocation, order);
        }
        let missing = allocation.base + span - allocation.filled_to();
        self.wait_for_room(device, missing);
        let hint = self.hint_of_unknown();
        let placing = match is_deferred {
            true => memory.placing(),
            false => self.placing_with_room(device, missing, 0, Request { hint, size: span }),
        };
        let short = missing.saturating_sub(device.budget.left());
        let most_ram = if is_deferred { self.most_ram(device, span) } else { span };
        let filled = if short.min(most_ram) > memory.ram_left(Level::Critical) {
            // Known before more is taken.
            Err(OUT_OF_MEMORY)
        } else if is_deferred {
            memory.take_deferred(device, &mut allocation, most_ram)
        } else {
            memory.record.placement.set(self.ggml().reason());
            let rest = [Extent { bytes: missing, in_vram: true, hint }];
            memory.fill(device, &mut allocation, &rest, Admission::New)
        };
        let (base, in_vram) = (allocation.base, allocation.in_vram());
        match filled {
            Ok(()) => {
                device.remember_context(context);
                device.record.allocations.fetch_add(1, Relaxed);
                memory.table_mut().insert(allocation);
                drop(placing);
                match is_deferred {
                    true => log::info!("{} at {base:#x}: placed when it is known what it is for", format_size(bytes)),
                    false => log::info!(
                        "{} at {base:#x} placed {}: {} in VRAM",
                        format_size(bytes),
                        self.ggml().reason(),
                        format_size(in_vram)
                    ),
                }
                self.residency_changed();
                Ok(base)
            }
            Err(status) => {
                device.record.refused.fetch_add(1, Relaxed);
                memory.release(allocation);
                log::warn!(
                    "{} refused with {status}: {} VRAM and {} RAM are left",
                    format_size(bytes),
                    format_size(device.budget.left()),
                    format_size(memory.ram_left(Level::Critical))
                );
                Err(status)
            }
        }
    }

    /// How much what nobody explains wants to be in VRAM. Where ggml says what weights are, it is none.
    pub fn hint_of_unknown(&self) -> PlacementHint {
        if self.ggml().explains() { PlacementHint::HOT } else { PlacementHint::BLIND }
    }

    /// RAM that an allocation of weights takes at the most: enough for all of it, unless RAM is short and files are known to
    /// have the rest.
    fn most_ram(&self, device: &Device, span: u64) -> u64 {
        let expected = self.ggml().expected_in_files();
        let is_short = || span.saturating_sub(device.budget.left()) > self.memory.ram_left(Level::Critical);
        if expected == 0 || !is_short() || !self.memory.may_be_in_file(device, expected) {
            return span;
        }
        span.saturating_sub(expected)
    }

    fn reserve(&self, device: &Device, context: CUcontext, size: u64, span: u64) -> Result<Allocation, Status> {
        let base = self.addresses(span)?;
        let serial = self.next_serial();
        let (device, chunks, files, given_away) = (device.ordinal, Vec::new(), Vec::new(), Vec::new());
        Ok(Allocation { base, size, span, device, context, serial, chunks, files, deferred: None, given_away })
    }

    /// Ours are far above the driver's own numbers, so that no buffer ID is given twice.
    pub fn next_serial(&self) -> u64 {
        (1 << 48) + self.serial.fetch_add(1, Relaxed)
    }

    /// Addresses for an allocation: where [`crate::runtime`] says, or wherever the driver has any.
    fn addresses(&self, span: u64) -> Result<CUdeviceptr, Status> {
        let wanted = self.next_address.fetch_add(span + GRANULE, Relaxed);
        let reserve = |hint| Reservation::new(self.memory.driver, span, GRANULE, hint);
        Ok(reserve(wanted).or_else(|_| reserve(0))?.keep())
    }

    /// Takes an allocation out of the table; it is the caller's to release.
    pub fn detach(&self, base: CUdeviceptr) -> Option<Allocation> {
        // After a move that may be going on.
        let _placing = self.memory.placing();
        self.memory.table_mut().remove(base)
    }

    /// Takes out every allocation of a context that is about to end.
    pub fn detach_context(&self, context: CUcontext) -> Vec<Allocation> {
        let _placing = self.memory.placing();
        self.memory.table_mut().take(|allocation| allocation.context == context)
    }

    /// Gives everything of an allocation back. Nothing may be using it any more.
    pub fn release(&self, allocation: Allocation) {
        if let Ok(device) = self.memory.device(allocation.device) {
            device.record.allocations.fetch_sub(1, Relaxed);
        }
        self.forget_tensors(allocation.base, allocation.span);
        self.memory.release(allocation);
        self.residency_changed();
    }

    /// An allocation that the driver made is gone.
    pub fn forget_plain(&self, at: CUdeviceptr) {
        if let Some((bytes, ordinal)) = self.memory.plain.remove(at) {
            self.plain_gone(at, bytes, ordinal);
        }
    }

    /// A context is gone, and the driver's allocations with it.
    pub fn forget_plain_of(&self, context: CUcontext) {
        for (at, bytes, ordinal) in self.memory.plain.remove_context(context) {
            self.plain_gone(at, bytes, ordinal);
        }
    }

    fn plain_gone(&self, at: CUdeviceptr, bytes: u64, ordinal: CUdevice) {
        self.forget_tensors(at, bytes);
        if let Ok(device) = self.memory.device(ordinal) {
            device.give_back(Use::Plain, bytes);
        }
    }

    /// Chunks have changed their residency: everything that follows them is made anew. Called without the table held.
    pub fn residency_changed(&self) {
        self.streaming.residency_changed();
        self.draw_map();
    }
}

/// What the log says of what an allocation has in files.
pub fn in_files(allocation: &Allocation) -> String {
    let files = allocation.chunks.iter().filter(|chunk| matches!(chunk.residency, Residency::File(_)));
    match files.map(|chunk| chunk.bytes).sum() {
        0 => String::new(),
        bytes => format!(", {} in the page cache of the model file", format_size(bytes)),
    }
}
