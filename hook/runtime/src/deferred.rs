//! Deferred backing: an allocation gets its chunks when it is known what it is for.
//!
//! A framework allocates before it says what it will put there. Where ggml will say it ([`crate::ggml`]), a large
//! allocation is only a reservation at first; its budgets are taken, its chunks are not made. They are made
//!
//! * when ggml says that the buffer holds weights: by tensor and rule;
//! * when it says that it does not, or when anything else touches the memory: as hot, VRAM first.
//!
//! A reservation without chunks faults when it is used, so every way to use it materialises it first. It stays in the table, and
//! counts as deferred, until its chunks are there: another thread that is about to use it waits for them.

use crate::allocate::in_files;
use crate::eviction::Request;
use crate::runtime::Core;
use greenboost_contract::settings::GRANULE;
use greenboost_contract::{PageCache, format_size};
use greenboost_cuda::abi::*;
use greenboost_cuda::{Current, RelaxedCapture};
use greenboost_memory::Placing;
use greenboost_memory::admission::Admission;
use greenboost_memory::allocation::{Allocation, Fill};
use greenboost_memory::backing::file_pages::FileRange;
use greenboost_memory::device::Device;
use greenboost_weights::files::{LEAST_IN_FILE, is_congruent};
use greenboost_weights::hint::PlacementHint;
use greenboost_weights::placement::{self, Among, Extent};
use greenboost_weights::registry::Tensor;
use std::sync::atomic::Ordering::Relaxed;

/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: u32 = 1;

impl Core {
    /// Publishes how many weight tensors are known by name.
    pub fn note_tensors(&self, known: usize) {
        self.memory.record.tensors.store(known as u64, Relaxed);
        self.memory.record.placement.set(self.ggml().reason());
    }

    /// Forgets the tensors of memory that goes.
    pub fn forget_tensors(&self, base: CUdeviceptr, bytes: u64) {
        if let Some(left) = self.tensors.forget(base, bytes) {
            self.memory.record.tensors.store(left as u64, Relaxed);
            self.residency_changed();
        }
    }

    /// Makes the chunks of a buffer of weights, by tensor.
    pub fn materialise_weights(&self, base: CUdeviceptr, bytes: u64) {
        let tensors = self.tensors.within(base, bytes);
        let files = self.file_ranges(&tensors);
        self.make_experts_give(base);
        self.materialise_with(base, files, None, |device, allocation| {
            let inside: Vec<_> = tensors
                .iter()
                .filter(|(at, tensor)| *at >= allocation.base && at + tensor.bytes <= allocation.base + allocation.span)
                .cloned()
                .collect();
            let plan = || {
                let among = if self.streaming.is_on() { Among::Spread } else { Among::First };
                placement::plan(&self.rules, &inside, allocation.base, allocation.span, device.budget.left(), among)
            };
            let extents = plan();
            // What is to be streamed, for want of room or by a rule, goes through VRAM that the weights cannot have.
            let slots = self.streaming.wanted(device);
            if slots == 0 || extents.iter().all(|extent| extent.in_vram) {
                return extents;
            }
            self.streaming.begin(device, slots);
            plan()
        });
    }

    /// Which granules of an allocation of weights files can have, in order of address.
    fn file_ranges(&self, tensors: &[(u64, Tensor)]) -> Vec<FileRange> {
        if self.memory.settings.page_cache == PageCache::Off {
            return Vec::new();
        }
        let range = |(at, tensor): &(u64, Tensor)| {
            let place = self.memory.files.place(&tensor.name, tensor.bytes)?;
            is_congruent(*at, place.offset).then(|| FileRange::of(*at, tensor.bytes, place)).flatten()
        };
        tensors.iter().filter(|(_, tensor)| tensor.bytes >= LEAST_IN_FILE).filter_map(range).collect()
    }

    /// Makes the chunks of an allocation as hot: VRAM first, weights give way.
    pub fn materialise(&self, address: CUdeviceptr) {
        self.materialise_with(address, Vec::new(), Some(PlacementHint::HOT), |_, allocation| {
            vec![Extent { bytes: allocation.span, in_vram: true, hint: PlacementHint::HOT }]
        });
    }

    /// Materialises what any of these addresses lies in.
    #[cold]
    pub fn touch(&self, addresses: &[CUdeviceptr]) {
        addresses.iter().for_each(|address| self.materialise(*address));
    }

    /// Materialises everything: a kernel is about to run, and it may use any of it.
    #[cold]
    pub fn materialise_all(&self) {
        let bases: Vec<_> = {
            let table = self.memory.table();
            let deferred = table.iter().filter(|allocation| allocation.deferred.is_some());
            deferred.map(|allocation| allocation.base).collect()
        };
        self.touch(&bases);
    }

    /// Makes the chunks of an allocation where `extents` says, after room for them if they are to make some.
    fn materialise_with(
        &self,
        address: CUdeviceptr,
        files: Vec<FileRange>,
        makes_room: Option<PlacementHint>,
        extents: impl FnOnce(&Device, &Allocation) -> Vec<Extent>,
    ) {
        let memory = self.memory;
        if !memory.has_deferred() {
            return;
        }
        let _relaxed = RelaxedCapture::enter(memory.driver);
        let placing = makes_room.map_or_else(|| memory.placing(), |hint| self.placing_after_room_for(address, hint));
        // Filled apart from the table, which shows it without chunks until they are all there.
        let Some((mut filled, deferred)) = self.deferred_at(address) else { return };
        let materialised = memory.device(filled.device).map_err(|_| UNKNOWN).and_then(|device| {
            let _current = Current::push(memory.driver, filled.context)?;
            memory.give_back_budgets(device, &deferred);
            let extents = extents(device, &filled);
            // What was filled is no file's any more.
            let is_filled = |range: &FileRange| deferred.fills.iter().any(|fill| fill.touches(range.at, range.end()));
            filled.files = files.into_iter().filter(|range| !is_filled(range)).collect();
            memory.fill(device, &mut filled, &extents, Admission::Granted)?;
            self.make_up(&deferred.fills)
        });
        match materialised {
            Ok(()) => log::info!(
                "{} at {:#x} placed {}: {} in VRAM{}",
                format_size(filled.size),
                filled.base,
                self.ggml().reason(),
                format_size(filled.in_vram()),
                in_files(&filled)
            ),
            // The program learns it from the driver, at its next use of the addresses that are missing.
            Err(status) => {
                log::error!("{} at {:#x} could not be placed: {status}", format_size(filled.size), filled.base)
            }
        }
        memory.record.placement.set(self.ggml().reason());
        memory.materialised(filled);
        drop(placing);
        self.residency_changed();
    }

    /// Has copies of experts give VRAM back to the weights that come.
    fn make_experts_give(&self, base: CUdeviceptr) {
        let known = {
            let table = self.memory.table();
            let deferred = |it: &Allocation| it.deferred.as_ref().map_or(0, |deferred| deferred.vram);
            table.find(base).map(|it| (it.device, it.span, deferred(it)))
        };
        let Some((ordinal, span, owned)) = known else { return };
        let Ok(device) = self.memory.device(ordinal) else { return };
        let short = span.saturating_sub(device.budget.left().saturating_add(owned));
        if short > 0 && self.streaming.experts().may_shrink(device) {
            self.evict(device, short, Request::COPIES);
        }
    }

    /// Evicts for the deferred allocation around an address, which has budgets already.
    fn placing_after_room_for(&self, address: CUdeviceptr, hint: PlacementHint) -> Placing<'_> {
        let known = {
            let table = self.memory.table();
            let allocation = table.find(address);
            allocation.and_then(|it| it.deferred.as_ref().map(|deferred| (it.device, it.span, deferred.vram)))
        };
        let device = known.and_then(|(ordinal, span, owned)| Some((self.memory.device(ordinal).ok()?, span, owned)));
        match device {
            Some((device, span, owned)) => self.placing_with_room(device, span, owned, Request { hint, size: span }),
            None => self.memory.placing(),
        }
    }

    /// The deferred allocation around an address, as it is to be filled, and what was taken for it. Its fills are taken out:
    /// none is added while nobody else places.
    fn deferred_at(&self, address: CUdeviceptr) -> Option<(Allocation, greenboost_memory::allocation::Deferred)> {
        let mut table = self.memory.table_mut();
        let base = table.find(address)?.base;
        let allocation = table.get_mut(base)?;
        let deferred = allocation.deferred.as_mut()?.take_fills();
        let (chunks, files, given_away) = (Vec::new(), Vec::new(), Vec::new());
        let filled = Allocation { chunks, files, given_away, deferred: None, ..*allocation };
        Some((filled, deferred))
    }

    /// Makes the fills that were put off. Done when it returns: what comes next may be on any stream. They have a stream of their
    /// own, so that they wait for nothing that the program has submitted: others wait for what is placed here.
    fn make_up(&self, fills: &[Fill]) -> Result<(), Status> {
        if fills.is_empty() {
            return Ok(());
        }
        let (driver, mut stream) = (self.memory.driver, std::ptr::null_mut());
        // SAFETY: writes a handle to a live local.
        unsafe { driver.cuStreamCreateWithPriority(&mut stream, NON_BLOCKING, 0) }?;
        let filled = fills.iter().try_for_each(|fill| self.make_fill(fill, stream));
        // SAFETY: a stream of ours, which is used no more.
        unsafe {
            let done = driver.cuStreamSynchronize(stream);
            let _ = driver.cuStreamDestroy_v2(stream);
            filled.and(done)
        }
    }

    fn make_fill(&self, fill: &Fill, on: CUstream) -> Result<(), Status> {
        // Padding is far smaller than a chunk, and a boundary inside it would only leave padding unset; elements are
        // filled one side of a granule border at a time all the same.
        let (driver, mut at, mut left) = (self.memory.driver, fill.at, fill.count);
        while left > 0 {
            let to_border = (GRANULE - at % GRANULE) as usize / fill.width;
            let count = left.min(to_border.max(1));
            // SAFETY: inside an allocation whose chunks have just been made.
            unsafe {
                match fill.width {
                    1 => driver.cuMemsetD8Async(at, fill.value as u8, count, on),
                    2 => driver.cuMemsetD16Async(at, fill.value as u16, count, on),
                    _ => driver.cuMemsetD32Async(at, fill.value, count, on),
                }
            }?;
            at += (count * fill.width) as u64;
            left -= count;
        }
        Ok(())
    }
}
