//! Streaming: weights outside VRAM are copied into staging slots in VRAM ahead of the kernels that read them.
//! `docs/streaming.md` has the picture.
//!
//! * `ring` gives out staging slots, `history` guesses what comes next;
//! * `rules` say which kernels get copies, and `signature` which write;
//! * `launch` is what is done at a launch: `layout` asks the driver where a kernel's parameters are, `params` finds and
//!   replaces addresses in them;
//! * `index` has the weights that a launch looks for;
//! * `prefetch` streams at the copies of a framework that keeps layers in RAM, not at launches;
//! * `trace` shows when what happened, for people;
//! * `copy_queue` keeps `copies` and readers apart; `engine` has the copy queues of a device, `staging` its VRAM;
//! * [`experts`] keeps a mixture's most used experts in VRAM;
//! * [`upload`] copies weights to the device with several threads.
//!
//! Lock order: the gate is entered, or `placing` held, before an engine's lock; nobody who holds that lock waits for
//! either.

// Contexts and streams are names of the driver's; their types are pointers that nobody here follows.
#![allow(clippy::not_unsafe_ptr_arg_deref)]

mod copies;
mod copy_queue;
mod engine;
pub mod experts;
mod history;
mod index;
pub mod json;
mod launch;
mod layout;
mod linear;
mod params;
mod prefetch;
mod reindex;
mod ring;
mod rules;
mod signature;
mod spread;
mod staging;
mod trace;
pub mod upload;

use engine::Engines;
use experts::Experts;
pub use experts::launched::Dimensions;
use greenboost_contract::settings::{GRANULE, RING_SHARE};
use greenboost_contract::{HostCopyPrefetch, Stream, format_size};
use greenboost_cuda::abi::*;
use greenboost_cuda::{Current, RelaxedCapture};
use greenboost_memory::Memory;
use greenboost_memory::device::Device;
use greenboost_weights::registry::Registry;
use index::CurrentIndex;
use layout::Layouts;
use prefetch::known::Known;
use rules::Rules;
use staging::StagingMemory;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The streaming of a process.
pub struct Streaming {
    memory: &'static Memory,
    tensors: &'static Registry,
    /// Called when a device has got its first staging slots.
    started: fn(),
    rules: Rules,
    layouts: Layouts,
    index: CurrentIndex,
    engines: Engines,
    experts: Experts,
    prefetch: Mutex<Known>,
    /// Whether any device has an engine.
    on: AtomicBool,
    /// Whether a write of weights has been captured: launches of that graph are writes that nobody else hears of.
    graphs_write: AtomicBool,
    /// Whether the program has ended, and everything was reported.
    is_over: AtomicBool,
}

/// Ranges that are written by what is submitted while this lives: copies of weights in them are given up before, and
/// again after, since another thread may have made new ones meanwhile.
pub struct Writing<'a>(Option<(&'a Streaming, Vec<(CUdevice, u64)>)>);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if let Some((streaming, keys)) = self.0.take() {
            streaming.give_up(&keys);
        }
    }
}

/// A capture that is about to begin; to be told how that went.
pub struct Beginning<'a>(&'a Streaming);

impl Beginning<'_> {
    /// It has begun, and is counted.
    pub fn begun(&self, stream: CUstream) {
        let Self(streaming) = self;
        if streaming.is_on() {
            let _relaxed = RelaxedCapture::enter(streaming.memory.driver);
            streaming.engines.each(|_, engine| engine.capture_begun(streaming.memory, stream));
        }
    }
}

impl Drop for Beginning<'_> {
    fn drop(&mut self) {
        self.0.memory.captures.is_decided();
    }
}

impl Streaming {
    /// Of a process whose memory and tensors these are.
    pub fn new(memory: &'static Memory, tensors: &'static Registry, started: fn()) -> Self {
        Self {
            memory,
            tensors,
            started,
            rules: Rules::new(&memory.settings.kernels),
            layouts: Layouts::new(),
            index: CurrentIndex::default(),
            engines: Engines::default(),
            experts: Experts::new(memory, tensors),
            prefetch: Mutex::default(),
            on: AtomicBool::new(false),
            graphs_write: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        }
    }

    /// Whether anything is to be done at a launch at all.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    fn may_capture(&self) -> bool {
        self.memory.captures.may_be_any_soon()
    }

    /// Bytes of staging slots that a device wants and does not have: 0 when it is not to have any, or has them.
    pub fn wanted(&self, device: &Device) -> u64 {
        if self.memory.settings.stream == Stream::Off || !self.layouts.is_known() || self.engines.has(device.ordinal) {
            return 0;
        }
        self.ring_bytes(device)
    }

    /// Bytes of staging slots for a device that has any.
    fn ring_bytes(&self, device: &Device) -> u64 {
        let bytes = self.memory.settings.ring.unwrap_or(device.budget.limit() / RING_SHARE);
        (bytes / GRANULE * GRANULE).max(GRANULE)
    }

    /// Bytes of VRAM that will be asked for when the first weight is copied a second time, and that a program which fills
    /// what is free should leave.
    pub fn kept_free(&self, device: &Device) -> u64 {
        let later =
            self.memory.settings.host_copy_prefetch == HostCopyPrefetch::On && !self.engines.has(device.ordinal);
        if later { self.ring_bytes(device) } else { 0 }
    }

    /// Gives a device its staging slots, in the current context: `bytes` of them, or half or a quarter of that where
    /// more does not fit. Without any, weights are read in place.
    pub fn begin(&self, device: &Device, bytes: u64) {
        let Ok(context) = self.memory.current_context() else { return };
        let sizes = [bytes, bytes / 2, bytes / 4].map(|bytes| (bytes / GRANULE * GRANULE).max(GRANULE));
        let make = |bytes| {
            let slots = StagingMemory::make(self.memory, device, bytes)?;
            self.engines.install(self.memory, self.tensors, device.ordinal, context, slots).map_err(
                |(status, slots)| {
                    slots.release(self.memory, device);
                    status
                },
            )
        };
        let mut refusal = SUCCESS;
        for bytes in sizes {
            match make(bytes) {
                Ok(()) => {
                    self.on.store(true, Relaxed);
                    (self.started)();
                    let size = format_size(bytes);
                    log::info!("device {}: weights outside VRAM are streamed through {size}", device.ordinal);
                    return;
                }
                Err(status) => refusal = status,
            }
        }
        log::warn!(
            "device {}: not even {} of VRAM to stream through ({refusal}): weights outside VRAM are read in place",
            device.ordinal,
            format_size(sizes[2])
        );
    }

    /// The copies of experts.
    pub fn experts(&self) -> &Experts {
        &self.experts
    }

    /// Whether a device's staging slots could give VRAM back.
    pub fn may_shrink(&self, device: &Device) -> bool {
        let mut may = false;
        if self.is_on() {
            self.engines.of(device.ordinal, |engine| may = engine.may_shrink());
        }
        may
    }

    /// Gives back at least `needed` bytes of a device's staging slots, if half of them are enough: before what is hot leaves
    /// VRAM. The device is idle, and nobody submits work. Returns how many.
    pub fn shrink(&self, device: &Device, needed: u64) -> u64 {
        let mut given_back = 0;
        self.engines.of(device.ordinal, |engine| given_back = engine.shrink(self.memory, device, needed));
        if given_back > 0 {
            log::info!("device {}: slots gave back {} of VRAM", device.ordinal, format_size(given_back));
        }
        given_back
    }

    /// Forgets where kernels have their parameters: a module is going, and its functions' handles may come back as others.
    pub fn forget_layouts(&self) {
        self.layouts.forget();
    }

    /// Chunks have changed their residency. Called without the table held.
    pub fn residency_changed(&self) {
        if self.memory.settings.stream == Stream::On {
            self.rebuild();
        }
    }

    /// Ranges of device memory are about to be written.
    pub fn writing(&self, ranges: impl IntoIterator<Item = (CUdeviceptr, u64)>) -> Writing<'_> {
        // Also of weights that are in VRAM: when the graph is launched, they may be outside.
        let may_be_captured = self.memory.settings.stream == Stream::On && self.may_capture();
        if !self.is_on() && !may_be_captured {
            return Writing(None);
        }
        let index = self.index.get();
        let mut keys = Vec::new();
        for (at, bytes) in ranges {
            if may_be_captured && self.tensors.has_weight(at, bytes) {
                self.note_graphs_write();
            }
            keys.extend(index.within(at, bytes).map(|weight| (weight.device, weight.at)));
        }
        if keys.is_empty() {
            return Writing(None);
        }
        self.give_up(&keys);
        Writing(Some((self, keys)))
    }

    /// A write of weights has been captured.
    pub(crate) fn note_graphs_write(&self) {
        self.graphs_write.store(true, Relaxed);
        self.experts.graphs_write();
    }

    fn give_up(&self, keys: &[(CUdevice, u64)]) {
        self.experts.written(keys);
        let _relaxed = self.may_capture().then(|| RelaxedCapture::enter(self.memory.driver));
        // Of these devices alone: another one's engine may be with a launch that does not return.
        let mut devices: Vec<_> = keys.iter().map(|(device, _)| *device).collect();
        devices.dedup();
        for device in devices {
            let keys: Vec<_> = keys.iter().filter(|(of, _)| *of == device).map(|(_, key)| *key).collect();
            self.engines.of(device, |engine| engine.written(self.memory, device, &keys));
        }
    }

    /// Memory has been taken out of the table and will be released; what is submitted to `behind` next follows the copies
    /// that still read it.
    pub fn forget(&self, from: CUdeviceptr, bytes: u64, behind: Option<CUstream>) {
        if !self.is_on() {
            return;
        }
        self.rebuild();
        self.experts.forget(from, bytes);
        let _relaxed = self.may_capture().then(|| RelaxedCapture::enter(self.memory.driver));
        self.engines.each(|device, engine| engine.forget(self.memory, device, from, bytes, behind));
    }

    /// Whether a context has staging slots or expert slots.
    pub fn is_of(&self, context: CUcontext) -> bool {
        let mut found = self.experts.is_of(context);
        if self.is_on() {
            self.engines.each(|_, engine| found |= engine.is_of(context));
        }
        found
    }

    /// A context is gone or about to go, and its work is done. While it `is_alive` it is current.
    pub fn context_gone(&self, context: CUcontext, is_alive: bool) {
        self.experts.context_gone(context);
        for (device, slots, trace) in self.engines.take(context) {
            if let Ok(device) = self.memory.device(device) {
                let driver = is_alive.then_some(self.memory.driver);
                let measured = trace.and_then(|trace| trace.finish(driver, device.record));
                if !self.is_over.load(Relaxed) {
                    self.report(device, measured.as_deref());
                }
                slots.release(self.memory, device);
            }
        }
    }

    /// A context may be about to go, and cannot be asked afterwards. Not waited for.
    pub fn context_may_go(&self, context: CUcontext) {
        if self.is_of(context)
            && let Ok(_current) = Current::push(self.memory.driver, context)
        {
            self.engines.each(|_, engine| {
                let ours = engine.is_of(context);
                if let Some(trace) = engine.trace().as_mut().filter(|_| ours) {
                    trace.look_at_all(self.memory.driver);
                }
            });
        }
    }

    /// What streaming did, in one line of the log, with what was measured if it was.
    fn report(&self, device: &Device, measured: Option<&str>) {
        let record = device.record;
        let [hits, late, misses, in_place] =
            [&record.slot_hits, &record.slot_late, &record.slot_misses, &record.in_place]
                .map(|count| count.load(Relaxed));
        log::info!(
            "device {}: streamed {}, {} more captured in graphs; {hits} launches found their weight in a slot or on its way ({late} \
             of them had to wait), {misses} had to ask for it, {in_place} read it in place{}{}",
            device.ordinal,
            format_size(record.streamed.load(Relaxed)),
            format_size(record.captured.load(Relaxed)),
            if measured.is_some() { "; " } else { "" },
            measured.unwrap_or_default(),
        );
    }

    /// A stream is about to be destroyed.
    pub fn stream_gone(&self, stream: CUstream) {
        if self.is_on() {
            self.experts.stream_gone(stream);
            let _relaxed = self.may_capture().then(|| RelaxedCapture::enter(self.memory.driver));
            self.engines.each(|device, engine| engine.settle(self.memory, device, Some(stream)));
        }
    }

    /// The capture that began on a stream and has not ended, as far as is known.
    pub fn begun_on(&self, stream: CUstream) -> Option<u64> {
        let mut begun = None;
        if self.is_on() {
            self.engines.each(|_, engine| begun = engine.begun_on(self.memory, stream).or(begun));
        }
        begun
    }

    /// A capture is about to begin: launches on other threads must leave nothing open from here on.
    pub fn capture_begins(&self) -> Beginning<'_> {
        self.memory.captures.about_to_begin();
        if self.is_on() {
            let _relaxed = RelaxedCapture::enter(self.memory.driver);
            self.engines.each(|device, engine| engine.settle(self.memory, device, None));
        }
        Beginning(self)
    }

    /// A capture is about to end on a stream: names what `capture_over` is to forget.
    pub fn capture_ends(&self, stream: CUstream) -> Option<u64> {
        if !self.is_on() {
            return None;
        }
        let _relaxed = RelaxedCapture::enter(self.memory.driver);
        let mut ending = None;
        self.engines.each(|device, engine| ending = engine.capture_ends(self.memory, device, stream).or(ending));
        ending
    }

    /// A capture is over, and `has_made` its graph or not.
    pub fn capture_over(&self, id: u64, has_made: bool) {
        self.engines.each(|device, engine| {
            let copied = engine.capture_over(self.memory, id);
            if let Ok(device) = self.memory.device(device)
                && has_made
            {
                device.record.captured.fetch_add(copied, Relaxed);
            }
        });
    }

    /// The program ends: what streaming did is reported, and its traces closed. Nothing is waited for: what has not been done is
    /// not in a trace.
    pub fn program_ends(&self) {
        self.is_over.store(true, Relaxed);
        self.experts.report();
        self.engines.each_now(|device, engine| {
            let Ok(device) = self.memory.device(device) else { return };
            let measured = engine.trace().take().and_then(|trace| {
                let current = Current::push(self.memory.driver, engine.context());
                trace.finish(current.is_ok().then_some(self.memory.driver), device.record)
            });
            self.report(device, measured.as_deref());
        });
    }
}
