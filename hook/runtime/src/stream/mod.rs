//! Streaming: weights outside VRAM are copied into VRAM slots ahead of the kernels that read them. `docs/streaming.md`
//! has the picture.
//!
//! * `ring` gives out slots, `order` guesses what comes next;
//! * `rules` say which kernels get copies;
//! * `launch` is what is done at a launch: `layout` asks the driver where a kernel's parameters are, `params` finds and
//!   replaces addresses in them;
//! * `weights` is the index that a launch looks into;
//! * `assist` streams at the copies of a framework that keeps layers in RAM, not at launches;
//! * `trace` shows when what happened, for people; `exit` reports at the program's end;
//! * `lane` keeps `copies` and readers apart, with `events`; `engine` has the lanes of a device, `slots` its VRAM.
//!
//! Lock order: the gate is entered, or `placing` held, before an engine's lock; nobody who holds that lock waits for
//! either.

mod assist;
mod copies;
mod engine;
mod exit;
mod lane;
mod launch;
mod layout;
mod order;
mod params;
pub mod plant;
mod ring;
mod rules;
mod slots;
mod trace;
mod weights;

use crate::ggml::registry;
use crate::memory::device::Device;
use crate::memory::{Memory, captures};
use greenboost_contract::settings::{GRANULE, RING_SHARE};
use greenboost_contract::{Assist, Stream, format_size};
use greenboost_cuda::abi::*;
use greenboost_cuda::{Current, RelaxedCapture};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

pub use assist::{context_gone as files_gone, copy as assist, host_memory_goes, knows_pinned};
pub use launch::{launch, launch_graph};
pub use layout::forget as forget_layouts;

/// Whether any device has an engine.
static ON: AtomicBool = AtomicBool::new(false);
/// Captures that are about to begin and are not counted yet.
static BEGINNING: AtomicUsize = AtomicUsize::new(0);

/// Whether a write of weights has been captured: launches of that graph are writes that nobody else hears of.
static GRAPHS_WRITE: AtomicBool = AtomicBool::new(false);

/// Whether anything is to be done at a launch at all.
#[inline]
pub fn is_on() -> bool {
    ON.load(Relaxed)
}

fn may_capture() -> bool {
    BEGINNING.load(SeqCst) != 0 || captures::maybe_any()
}

/// Streams without a name of their own: what they stand for depends on the function and thread that say it.
pub fn has_name(stream: CUstream) -> bool {
    stream as usize > STREAM_PER_THREAD as usize
}

/// Bytes of slots that a device wants and does not have: 0 when it is not to have any, or has them.
pub fn wanted(memory: &Memory, device: &Device) -> u64 {
    if memory.settings.stream == Stream::Off || !layout::is_known() || engine::exists(device.ordinal) {
        return 0;
    }
    ring_bytes(memory, device)
}

/// Bytes of slots for a device that has any.
fn ring_bytes(memory: &Memory, device: &Device) -> u64 {
    let bytes = memory.settings.ring.unwrap_or(device.budget.limit() / RING_SHARE);
    (bytes / GRANULE * GRANULE).max(GRANULE)
}

/// Bytes of VRAM that will be asked for when the first weight is copied a second time, and that a program which fills
/// what is free should leave.
pub fn kept_free(memory: &Memory, device: &Device) -> u64 {
    let later = memory.settings.assist == Assist::On && !engine::exists(device.ordinal);
    if later { ring_bytes(memory, device) } else { 0 }
}

/// Gives a device its slots, in the current context: so many bytes, or half or a quarter of that where there is no room for
/// more. Without any, weights are read in place.
pub fn begin(memory: &Memory, device: &Device, bytes: u64) {
    let Ok(context) = memory.current_context() else { return };
    let sizes = [bytes, bytes / 2, bytes / 4].map(|bytes| (bytes / GRANULE * GRANULE).max(GRANULE));
    let make = |bytes| {
        let slots = slots::SlotMemory::make(memory, device, bytes)?;
        engine::install(memory, device.ordinal, context, slots).map_err(|(status, slots)| {
            slots.release(memory, device);
            status
        })
    };
    let mut refusal = SUCCESS;
    for bytes in sizes {
        match make(bytes) {
            Ok(()) => {
                ON.store(true, Relaxed);
                exit::watch();
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

/// Whether a device's slots could give VRAM back.
pub fn may_shrink(device: &Device) -> bool {
    let mut may = false;
    if is_on() {
        engine::each(|of, engine| may |= of == device.ordinal && engine.may_shrink());
    }
    may
}

/// Gives back at least so many bytes of a device's slots, if half of them are enough: before what is hot leaves VRAM. The
/// device is idle, and nobody submits work. Returns how many.
pub fn shrink(memory: &Memory, device: &Device, needed: u64) -> u64 {
    let mut given_back = 0;
    engine::each(|of, engine| {
        if of == device.ordinal {
            given_back += engine.shrink(memory, device, needed);
        }
    });
    if given_back > 0 {
        log::info!("device {}: slots gave back {} of VRAM", device.ordinal, format_size(given_back));
    }
    given_back
}

/// Homes have changed.
pub fn homes_changed(memory: &Memory) {
    if memory.settings.stream == Stream::On {
        weights::rebuild(memory);
    }
}

/// Ranges that are written by what is submitted while this lives: copies of weights in them are given up before, and
/// again after, since another thread may have made new ones meanwhile.
pub struct Writing<'a>(Option<(&'a Memory, Vec<(CUdevice, u64)>)>);

/// Ranges of device memory are about to be written.
pub fn writing<'a>(memory: &'a Memory, ranges: impl IntoIterator<Item = (CUdeviceptr, u64)>) -> Writing<'a> {
    // Also of weights that are in VRAM: when the graph is launched, they may be outside.
    let may_be_captured = memory.settings.stream == Stream::On && may_capture();
    if !is_on() && !may_be_captured {
        return Writing(None);
    }
    let index = weights::index();
    let mut keys = Vec::new();
    for (at, bytes) in ranges {
        if may_be_captured && registry::has_weight(at, bytes) {
            GRAPHS_WRITE.store(true, Relaxed);
        }
        keys.extend(index.within(at, bytes).map(|weight| (weight.device, weight.at)));
    }
    if keys.is_empty() {
        return Writing(None);
    }
    give_up(memory, &keys);
    Writing(Some((memory, keys)))
}

fn give_up(memory: &Memory, keys: &[(CUdevice, u64)]) {
    let _relaxed = may_capture().then(|| RelaxedCapture::enter(memory.driver));
    engine::each(|device, engine| {
        let keys: Vec<_> = keys.iter().filter(|(of, _)| *of == device).map(|(_, key)| *key).collect();
        engine.written(memory, device, &keys);
    });
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if let Some((memory, keys)) = self.0.take() {
            give_up(memory, &keys);
        }
    }
}

/// Memory has been taken out of the table and will be released; what is submitted to `behind` next follows the copies
/// that still read it.
pub fn forget(memory: &Memory, from: CUdeviceptr, bytes: u64, behind: Option<CUstream>) {
    if !is_on() {
        return;
    }
    weights::rebuild(memory);
    let _relaxed = may_capture().then(|| RelaxedCapture::enter(memory.driver));
    engine::each(|device, engine| engine.forget(memory, device, from, bytes, behind));
}

/// Whether a context has slots.
pub fn is_of(context: CUcontext) -> bool {
    let mut found = false;
    if is_on() {
        engine::each(|_, engine| found |= engine.is_of(context));
    }
    found
}

/// A context is gone or about to go, and its work is done. While it `is_alive` it is current.
pub fn context_gone(memory: &Memory, context: CUcontext, is_alive: bool) {
    for (device, slots, trace) in engine::take(context) {
        if let Ok(device) = memory.device(device) {
            let driver = is_alive.then_some(memory.driver);
            let measured = trace.and_then(|trace| trace.finish(driver, device.record));
            if !exit::is_over() {
                report(device, measured.as_deref());
            }
            slots.release(memory, device);
        }
    }
}

/// A context may be about to go, and cannot be asked afterwards. Not waited for.
pub fn context_may_go(memory: &Memory, context: CUcontext) {
    if is_of(context)
        && let Ok(_current) = Current::push(memory.driver, context)
    {
        engine::each(|_, engine| {
            let ours = engine.is_of(context);
            if let Some(trace) = engine.trace().as_mut().filter(|_| ours) {
                trace.look_at_all(memory.driver);
            }
        });
    }
}

/// What streaming did, in one line of the log, with what was measured if it was.
fn report(device: &Device, measured: Option<&str>) {
    let record = device.record;
    let [hits, late, misses, in_place] =
        [&record.slot_hits, &record.slot_late, &record.slot_misses, &record.in_place].map(|count| count.load(Relaxed));
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
pub fn stream_gone(memory: &Memory, stream: CUstream) {
    if is_on() {
        engine::each(|device, engine| engine.settle(memory, device, Some(stream)));
    }
}

/// A capture that is about to begin; to be told how that went.
pub struct Beginning(());

/// A capture is about to begin: launches on other threads must leave nothing open from here on.
pub fn capture_begins(memory: &Memory) -> Beginning {
    BEGINNING.fetch_add(1, SeqCst);
    if is_on() {
        let _relaxed = RelaxedCapture::enter(memory.driver);
        engine::each(|device, engine| engine.settle(memory, device, None));
    }
    Beginning(())
}

impl Beginning {
    /// It has begun, and is counted.
    pub fn begun(&self, memory: &Memory, stream: CUstream) {
        if is_on() {
            let _relaxed = RelaxedCapture::enter(memory.driver);
            engine::each(|_, engine| engine.capture_begun(memory, stream));
        }
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        BEGINNING.fetch_sub(1, SeqCst);
    }
}

/// A capture is about to end on a stream: names what [`capture_over`] is to forget.
pub fn capture_ends(memory: &Memory, stream: CUstream) -> Option<u64> {
    if !is_on() {
        return None;
    }
    let _relaxed = RelaxedCapture::enter(memory.driver);
    let mut ending = None;
    engine::each(|device, engine| ending = engine.capture_ends(memory, device, stream).or(ending));
    ending
}

/// A capture is over, and `has_made` its graph or not.
pub fn capture_over(memory: &Memory, id: u64, has_made: bool) {
    engine::each(|device, engine| {
        let copied = engine.capture_over(id);
        if let Ok(device) = memory.device(device)
            && has_made
        {
            device.record.captured.fetch_add(copied, Relaxed);
        }
    });
}
