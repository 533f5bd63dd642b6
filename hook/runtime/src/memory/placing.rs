//! Making and releasing spanning allocations.

use super::allocations::{Allocation, Wish};
use super::claim::Claim;
use super::device::Device;
use super::room::Request;
use super::{Memory, captures};
use crate::ggml;
use crate::ggml::placement::Stretch;
use greenboost_contract::settings::GRANULE;
use greenboost_contract::{Spill, format_size};
use greenboost_cuda::RelaxedCapture;
use greenboost_cuda::abi::*;
use greenboost_kmod::Level;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where allocations begin, if the driver follows a hint. Left to itself it chooses low addresses (0x302000000 was seen),
/// which a pair of small numbers among a kernel's parameters can look like, and streaming would replace it. What lies here
/// looks like no pair of sizes: the upper half of an address is about 19,300, and no multiple of 32.
const FIRST_ADDRESS: u64 = 0x4b61_0000_0000;

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
    /// after them (the KV cache, scratch) are hotter. Where ggml will tell what it is for, it gets no homes yet.
    ///
    /// # Errors
    /// `CUDA_ERROR_OUT_OF_MEMORY` when both budgets together do not have it; else the driver's status.
    pub fn span(&self, device: &Device, bytes: u64) -> Result<CUdeviceptr, Status> {
        let span = bytes.checked_next_multiple_of(GRANULE).ok_or(OUT_OF_MEMORY)?;
        let context = self.current_context().map_err(|_| UNKNOWN)?;
        self.reap(false);
        let _relaxed = RelaxedCapture::enter(self.driver);
        let placing = self.placing();
        let late = ggml::explains();
        let short = span.saturating_sub(device.budget.left());
        if short > 0 && !late {
            self.make_room_placing(device, short, Request { wish: Wish::BLIND, size: span });
        }
        let short = span.saturating_sub(device.budget.left());
        let most_ram = if late { self.most_ram(device, span) } else { span };
        if short.min(most_ram) > self.ram_left(Level::Critical) {
            // Known before anything is taken: a refusal costs nothing.
            device.record.refused.fetch_add(1, Relaxed);
            log::warn!(
                "{} refused: {} VRAM and {} RAM are left",
                format_size(bytes),
                format_size(device.budget.left()),
                format_size(self.ram_left(Level::Critical))
            );
            return Err(OUT_OF_MEMORY);
        }
        let mut allocation = self.reserve(device, context, bytes, span)?;
        let filled = if late {
            self.take_late(device, &mut allocation, most_ram)
        } else {
            self.record.placement.set(ggml::reason());
            let all = [Stretch { bytes: span, in_vram: true, wish: Wish::BLIND }];
            self.fill(device, &mut allocation, &all, Claim::New)
        };
        let (base, in_vram) = (allocation.base, allocation.in_vram());
        match filled {
            Ok(()) => {
                device.remember_context(context);
                device.record.allocations.fetch_add(1, Relaxed);
                self.table_mut().insert(allocation);
                drop(placing);
                match late {
                    true => log::info!("{} at {base:#x}: homes when it is known what it is for", format_size(bytes)),
                    false => log::info!(
                        "{} at {base:#x} placed {}: {} in VRAM",
                        format_size(bytes),
                        ggml::reason(),
                        format_size(in_vram)
                    ),
                }
                self.homes_changed();
                Ok(base)
            }
            Err(status) => {
                device.record.refused.fetch_add(1, Relaxed);
                self.release_homes(allocation);
                log::warn!("{} refused with {status}", format_size(bytes));
                Err(status)
            }
        }
    }

    fn reserve(&self, device: &Device, context: CUcontext, size: u64, span: u64) -> Result<Allocation, Status> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let base = self.addresses(span)?;
        // Ours are far above the driver's own numbers, so that no buffer ID is given twice.
        let serial = (1 << 48) + SERIAL.fetch_add(1, Relaxed);
        let (device, chunks, files) = (device.ordinal, Vec::new(), Vec::new());
        Ok(Allocation { base, size, span, device, context, serial, chunks, files, late: None })
    }

    /// Addresses for an allocation: where [`FIRST_ADDRESS`] says, or wherever the driver has any.
    fn addresses(&self, span: u64) -> Result<CUdeviceptr, Status> {
        static NEXT: AtomicU64 = AtomicU64::new(FIRST_ADDRESS);
        let wanted = NEXT.fetch_add(span + GRANULE, Relaxed);
        let mut base = 0;
        let mut reserve = |hint| {
            // SAFETY: writes the address to a live local.
            unsafe { self.driver.cuMemAddressReserve(&mut base, span as usize, GRANULE as usize, hint, 0) }
        };
        reserve(wanted).or_else(|_| reserve(0))?;
        Ok(base)
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
        self.forget_tensors(allocation.base, allocation.span);
        self.release_homes(allocation);
        self.homes_changed();
    }
}
