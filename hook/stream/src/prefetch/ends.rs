//! The end of what weights are copied ahead from: of pinned memory, and of a context with all that was registered in it.

use super::origin;
use crate::Streaming;
use greenboost_contract::HostCopyPrefetch;
use greenboost_cuda::abi::CUcontext;
use greenboost_cuda::{Current, RelaxedCapture, event};
use greenboost_intercept::failpoint::{self, Fault};
use greenboost_memory::backing::file_pages::unpin;
use std::sync::atomic::Ordering::Relaxed;

impl Streaming {
    /// A context is about to go, and its work is done: what was registered or pinned in it cannot be read any more. Pinned
    /// memory does not say whose it is.
    pub fn sources_gone(&self, context: CUcontext) {
        self.pinned_gone(|_, _| true);
        let files = self.memory.files;
        if !files.is_of(context as usize) {
            return;
        }
        let all: Vec<_> = {
            let mut known = self.known();
            known.tensors.values_mut().for_each(|tensor| tensor.is_ready = false);
            known.tensors.iter().map(|(at, tensor)| (*at, tensor.whole.bytes())).collect()
        };
        self.forget_copies(&all);
        files.context_gone(context as usize, |at| {
            let Ok(_current) = Current::push(self.memory.driver, context) else { return files.pinned.remove(at) };
            if let Err(status) = unpin(self.memory.driver, &files.pinned, at) {
                log::error!("a model file's pages at {at:#x} were not unregistered: {status}");
            }
        });
        self.memory.record.file_bytes.store(files.pinned.bytes(), Relaxed);
    }

    /// Whether anything is known of pinned memory, which a context's end takes with it.
    pub fn knows_pinned(&self) -> bool {
        self.known().tensors.values().any(|tensor| tensor.whole.is_pinned())
    }

    /// The driver is about to give back pinned memory, all that belongs to an address. On return nothing reads it any more.
    pub fn host_memory_goes(&self, at: u64) {
        let is_off = self.memory.settings.host_copy_prefetch == HostCopyPrefetch::Off;
        if is_off || !self.knows_pinned() || failpoint::is(Fault::PinnedStays) {
            return;
        }
        // Where the driver does not tell how much goes, all of it may.
        let (start, bytes) = origin::going_with(self.memory.driver, at).unwrap_or((0, u64::MAX));
        let end = start.saturating_add(bytes);
        self.pinned_gone(|at, bytes| start < at + bytes && at < end);
    }

    /// Forgets pinned tensors, and waits for the copies that still read them.
    fn pinned_gone(&self, goes: impl Fn(u64, u64) -> bool) {
        let gone: Vec<_> = {
            let mut known = self.known();
            let ranges = known.tensors.iter().filter(|(_, tensor)| tensor.whole.is_pinned());
            let ranges = ranges.map(|(at, tensor)| (*at, tensor.whole.bytes()));
            let gone: Vec<_> = ranges.filter(|(at, bytes)| goes(*at, *bytes)).collect();
            gone.iter().for_each(|(at, _)| drop(known.tensors.remove(at)));
            gone
        };
        if !gone.is_empty() {
            self.forget_copies(&gone);
            let _relaxed = RelaxedCapture::enter(self.memory.driver);
            let mut copies = Vec::new();
            self.engines.each(|_, engine| copies.extend(engine.copies_so_far(self.memory)));
            // Without the engines: launches of other threads may be what the copies wait for.
            for event in copies {
                // SAFETY: an event that was made for this.
                let _ = unsafe { self.memory.driver.cuEventSynchronize(event) };
                event::destroy(self.memory.driver, event);
            }
        }
    }
}
