//! The end of what weights are copied ahead from: of pinned memory, and of a context with all that was registered in it.

use super::super::engine;
use super::{forget, known, origin};
use crate::files;
use crate::memory::Memory;
use crate::stream::plant::{self, Fault};
use greenboost_contract::Assist;
use greenboost_cuda::RelaxedCapture;
use greenboost_cuda::abi::CUcontext;
use std::sync::atomic::Ordering::Relaxed;

/// A context is about to go, and its work is done: what was registered or pinned in it cannot be read any more. Pinned
/// memory does not say whose it is.
pub fn context_gone(memory: &Memory, context: CUcontext) {
    pinned_gone(memory, |_, _| true);
    if !files::is_of(context) {
        return;
    }
    let all: Vec<_> = {
        let mut known = known();
        known.tensors.values_mut().for_each(|tensor| tensor.is_ready = false);
        known.tensors.iter().map(|(at, tensor)| (*at, tensor.whole.bytes())).collect()
    };
    forget(memory, &all);
    files::context_gone(memory, context);
    memory.record.file_bytes.store(files::registered(), Relaxed);
}

/// Whether anything is known of pinned memory, which a context's end takes with it.
pub fn knows_pinned() -> bool {
    known().tensors.values().any(|tensor| tensor.whole.is_pinned())
}

/// The driver is about to give back pinned memory, all that belongs to an address. On return nothing reads it any more.
pub fn host_memory_goes(memory: &Memory, at: u64) {
    if memory.settings.assist == Assist::Off || !knows_pinned() || plant::is(Fault::PinnedStays) {
        return;
    }
    // Where the driver does not tell how much goes, all of it may.
    let (start, bytes) = origin::going_with(memory.driver, at).unwrap_or((0, u64::MAX));
    let end = start.saturating_add(bytes);
    pinned_gone(memory, |at, bytes| start < at + bytes && at < end);
}

/// Forgets pinned tensors, and waits for the copies that still read them.
fn pinned_gone(memory: &Memory, goes: impl Fn(u64, u64) -> bool) {
    let gone: Vec<_> = {
        let mut known = known();
        let ranges = known.tensors.iter().filter(|(_, tensor)| tensor.whole.is_pinned());
        let ranges = ranges.map(|(at, tensor)| (*at, tensor.whole.bytes()));
        let gone: Vec<_> = ranges.filter(|(at, bytes)| goes(*at, *bytes)).collect();
        gone.iter().for_each(|(at, _)| drop(known.tensors.remove(at)));
        gone
    };
    if !gone.is_empty() {
        forget(memory, &gone);
        let _relaxed = RelaxedCapture::enter(memory.driver);
        engine::each(|_, engine| engine.finish_copies(memory));
    }
}
