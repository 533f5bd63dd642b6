//! Late backing: an allocation gets its homes when it is known what it is for.
//!
//! A framework allocates before it says what it will put there. Where ggml will say it ([`crate::ggml`]), a large
//! allocation is only a reservation at first; its budgets are taken, its homes are not made. They are made
//!
//! * when ggml says that the buffer holds weights: by tensor and rule;
//! * when it says that it does not, or when anything else touches the memory: as hot, VRAM first.
//!
//! A reservation without homes faults when it is used, so every way to use it settles it first.

use super::Memory;
use super::allocations::{Allocation, Fill, Late, Wish};
use super::claim::Claim;
use super::device::Device;
use super::page_cache::FileRange;
use super::room::Request;
use super::vram::Use;
use crate::ggml::placement::{self, Among, Stretch};
use crate::ggml::{self, registry};
use crate::stream;
use greenboost_contract::format_size;
use greenboost_contract::settings::GRANULE;
use greenboost_cuda::abi::*;
use greenboost_cuda::{Current, RelaxedCapture};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

impl Memory {
    /// Whether any allocation has no homes yet.
    #[inline]
    pub fn has_late(&self) -> bool {
        self.late.load(Acquire) != 0
    }

    /// Whether an address lies in an allocation without homes yet.
    pub fn is_late(&self, address: CUdeviceptr) -> bool {
        self.has_late() && self.table().find(address).is_some_and(|allocation| allocation.late.is_some())
    }

    /// Takes the budgets for an allocation whose homes are made later, as much VRAM as there is, and no more
    /// than `most_ram` in RAM.
    pub(super) fn take_late(&self, device: &Device, allocation: &mut Allocation, most_ram: u64) -> Result<(), Status> {
        let vram = allocation.span.min(device.budget.left() / GRANULE * GRANULE);
        let ram = (allocation.span - vram).min(most_ram);
        if !device.budget.take(Use::Chunks, vram, device.record) {
            return Err(OUT_OF_MEMORY);
        }
        if !self.reserve_ram(ram, Claim::New) {
            device.budget.give_back(Use::Chunks, vram, device.record);
            return Err(OUT_OF_MEMORY);
        }
        allocation.late = Some(Late { vram, ram, fills: Vec::new() });
        self.late.fetch_add(1, AcqRel);
        Ok(())
    }

    /// Gives back what [`Memory::take_late`] took.
    pub(super) fn give_back_late(&self, device: &Device, late: &Late) {
        device.budget.give_back(Use::Chunks, late.vram, device.record);
        self.ram.give_back(late.ram, self.record);
        self.late.fetch_sub(1, AcqRel);
    }

    /// Keeps a fill for later if it lies in an allocation without homes.
    pub fn defer(&self, fill: Fill) -> bool {
        let mut table = self.table_mut();
        let Some(base) = table.find(fill.at).map(|allocation| allocation.base) else { return false };
        let late = table.get_mut(base).and_then(|allocation| allocation.late.as_mut());
        late.map(|late| late.fills.push(fill)).is_some()
    }

    /// Publishes how many weight tensors are known by name.
    pub fn note_tensors(&self, known: usize) {
        self.record.tensors.store(known as u64, Relaxed);
        self.record.placement.set(ggml::reason());
    }

    /// Forgets the tensors of memory that goes.
    pub(super) fn forget_tensors(&self, base: CUdeviceptr, bytes: u64) {
        if let Some(left) = registry::forget(base, bytes) {
            self.record.tensors.store(left as u64, Relaxed);
            self.homes_changed();
        }
    }

    /// Makes the homes of a buffer of weights, by tensor.
    pub fn settle_weights(&self, base: CUdeviceptr, bytes: u64) {
        let tensors = registry::within(base, bytes);
        let files = self.file_ranges(&tensors);
        self.settle_with(base, files, |device, allocation| {
            let inside: Vec<_> = tensors
                .iter()
                .filter(|(at, tensor)| *at >= allocation.base && at + tensor.bytes <= allocation.base + allocation.span)
                .cloned()
                .collect();
            let plan = || {
                let among = if stream::is_on() { Among::Spread } else { Among::First };
                placement::plan(&self.rules, &inside, allocation.base, allocation.span, device.budget.left(), among)
            };
            let stretches = plan();
            // What is to be streamed, for want of room or by a rule, goes through VRAM that the weights cannot have.
            let slots = stream::wanted(self, device);
            if slots == 0 || stretches.iter().all(|stretch| stretch.in_vram) {
                return stretches;
            }
            stream::begin(self, device, slots);
            plan()
        });
    }

    /// Makes the homes of an allocation as hot: VRAM first, weights give way.
    pub fn settle(&self, address: CUdeviceptr) {
        self.settle_with(address, Vec::new(), |device, allocation| {
            let short = allocation.span.saturating_sub(device.budget.left());
            if short > 0 {
                self.make_room_placing(device, short, Request { wish: Wish::HOT, size: allocation.span });
            }
            vec![Stretch { bytes: allocation.span, in_vram: true, wish: Wish::HOT }]
        });
    }

    /// Settles what any of these addresses lies in.
    #[cold]
    pub fn touch(&self, addresses: &[CUdeviceptr]) {
        addresses.iter().for_each(|address| self.settle(*address));
    }

    /// Settles everything: a kernel is about to run, and it may use any of it.
    #[cold]
    pub fn settle_all(&self) {
        let bases: Vec<_> = self
            .table()
            .iter()
            .filter(|allocation| allocation.late.is_some())
            .map(|allocation| allocation.base)
            .collect();
        self.touch(&bases);
    }

    fn settle_with(
        &self,
        address: CUdeviceptr,
        files: Vec<FileRange>,
        stretches: impl FnOnce(&Device, &Allocation) -> Vec<Stretch>,
    ) {
        if !self.has_late() {
            return;
        }
        let _relaxed = RelaxedCapture::enter(self.driver);
        let _placing = self.placing();
        let base = {
            let table = self.table();
            table.find(address).filter(|allocation| allocation.late.is_some()).map(|allocation| allocation.base)
        };
        let Some(mut allocation) = base.and_then(|base| self.table_mut().remove(base)) else { return };
        let settled = self.device(allocation.device).map_err(|_| UNKNOWN).and_then(|device| {
            let _current = Current::push(self.driver, allocation.context)?;
            let late = allocation.late.take().unwrap_or_default();
            self.give_back_late(device, &late);
            let stretches = stretches(device, &allocation);
            // What was filled is no file's any more.
            let is_filled = |range: &FileRange| late.fills.iter().any(|fill| fill.touches(range.at, range.end()));
            allocation.files = files.into_iter().filter(|range| !is_filled(range)).collect();
            self.fill(device, &mut allocation, &stretches, Claim::Granted)?;
            self.make_up(&late.fills);
            Ok(late)
        });
        match settled {
            Ok(_) => log::info!(
                "{} at {:#x} placed {}: {} in VRAM{}",
                format_size(allocation.size),
                allocation.base,
                ggml::reason(),
                format_size(allocation.in_vram()),
                Self::in_files(&allocation)
            ),
            // The program learns it from the driver, at its next use of the addresses that are missing.
            Err(status) => {
                log::error!("{} at {:#x} could not be placed: {status}", format_size(allocation.size), allocation.base)
            }
        }
        self.record.placement.set(ggml::reason());
        self.table_mut().insert(allocation);
        self.homes_changed();
    }

    /// Makes the fills that were put off. Done when it returns: what comes next may be on any stream.
    fn make_up(&self, fills: &[Fill]) {
        for fill in fills {
            // Padding is far smaller than a chunk, and a seam inside it would only leave padding unset; elements are
            // filled one side of a granule border at a time all the same.
            let (mut at, mut left) = (fill.at, fill.count);
            while left > 0 {
                let to_border = (GRANULE - at % GRANULE) as usize / fill.width;
                let count = left.min(to_border.max(1));
                // SAFETY: inside an allocation whose homes have just been made.
                let filled = unsafe {
                    match fill.width {
                        1 => self.driver.cuMemsetD8_v2(at, fill.value as u8, count),
                        2 => self.driver.cuMemsetD16_v2(at, fill.value as u16, count),
                        _ => self.driver.cuMemsetD32_v2(at, fill.value, count),
                    }
                };
                if let Err(status) = filled {
                    log::error!("a fill at {at:#x} that was put off failed with {status}");
                }
                at += (count * fill.width) as u64;
                left -= count;
            }
        }
        if !fills.is_empty() {
            // SAFETY: waits for the fills; during a capture it is refused, and the fills with it.
            let _ = unsafe { self.driver.cuCtxSynchronize() };
        }
    }
}
