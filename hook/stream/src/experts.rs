//! Experts that are used most have copies in VRAM. `docs/experts.md` has the picture.
//!
//! * `window`: where an expert is, and the number by which a kernel finds it in place or in an expert slot;
//! * `launch`: what is done at a launch over experts: ids are rewritten by a small kernel in front of it;
//! * `cache`: the experts of a device, `layers`: their tensors, tables and expert slots;
//! * `policy`: which experts of a layer are in its expert slots; `worker` does what it says, in a thread of its own;
//! * `lanes`: which launches may still read an expert slot that is to be filled anew;
//! * `warm`: what earlier sessions of a model used;
//! * `source`: copies of whole tensors take experts out of their expert slots;
//! * `ground`: what all this needs of the driver; `slots`: the VRAM.
//!
//! Why no kernel ever reads a wrong byte:
//!
//! * a table names an expert slot only after the copy into it has been waited for;
//! * before an expert slot gets another expert the table stops naming it, and everything submitted until then is waited for;
//! * what writes weights empties the tables of their layers before and after, and their copies are made anew from the device at rest;
//! * a tensor never changes its address, and is right for every id that no table maps.
//!
//! Lock order: the gate is entered before a device's state is locked; who holds that lock submits copies of ours, and waits for
//! nothing but them.

mod cache;
mod ground;
mod lanes;
mod launch;
pub(crate) mod launched;
mod layers;
pub mod policy;
mod slots;
mod source;
mod warm;
mod window;
mod worker;

use cache::Cache;
use greenboost_contract::record::MAX_DEVICES;
use greenboost_contract::{ExpertCache, format_size};
use greenboost_cuda::abi::*;
use greenboost_intercept::guard;
use greenboost_memory::Memory;
use greenboost_memory::device::Device;
use greenboost_weights::registry::Registry;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, MutexGuard, OnceLock, PoisonError};

/// The experts of a process, by device.
pub struct Experts {
    memory: &'static Memory,
    tensors: &'static Registry,
    is_on: bool,
    /// Whether a write of weights has been captured, also before there was any cache.
    graphs_write: AtomicBool,
    caches: [OnceLock<Arc<Cache>>; MAX_DEVICES],
}

impl Experts {
    /// Of a process whose memory and tensors these are.
    pub fn new(memory: &'static Memory, tensors: &'static Registry) -> Self {
        let is_on = memory.settings.experts == ExpertCache::On;
        if is_on {
            memory.record.experts.set("no launch over experts outside VRAM yet");
        }
        let graphs_write = AtomicBool::new(false);
        Self { memory, tensors, is_on, graphs_write, caches: [const { OnceLock::new() }; MAX_DEVICES] }
    }

    /// Whether experts are to have copies in VRAM.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// The cache of a device, made at its first use.
    fn cache(&self, device: CUdevice) -> Option<&Arc<Cache>> {
        let cell = self.caches.get(usize::try_from(device).ok()?)?;
        if cell.get().is_none() {
            let record = self.memory.device(device).ok()?.record;
            let _ = cell.set(Arc::new(Cache::new(self.memory, self.tensors, device, record, worker::start)));
        }
        cell.get().map(|cache| self.checked(cache))
    }

    /// A cache, ended if weights may have been written without its knowing.
    fn checked<'a>(&self, cache: &'a Arc<Cache>) -> &'a Arc<Cache> {
        if !cache.is_stopped() {
            if self.graphs_write.load(SeqCst) {
                cache.stop("a graph writes weights");
            } else if guard::failures() > 0 {
                cache.stop("after an internal failure nobody knows what was written");
            }
        }
        cache
    }

    fn made(&self, device: CUdevice) -> Option<&Arc<Cache>> {
        self.caches.get(usize::try_from(device).ok()?)?.get().map(|cache| self.checked(cache))
    }

    fn each(&self, work: impl FnMut(&Arc<Cache>)) {
        self.caches.iter().filter_map(OnceLock::get).for_each(work);
    }

    /// Whether experts of a device could give VRAM back.
    pub fn may_shrink(&self, device: &Device) -> bool {
        let cache = self.caches.get(device.ordinal as usize).and_then(OnceLock::get);
        cache.is_some_and(|cache| cache.has_slots())
    }

    /// Gives back at least this many bytes of a device's expert slots, or all of them. The device is idle, and nobody submits work.
    /// Returns how many.
    pub fn shrink(&self, device: &Device, needed: u64) -> u64 {
        let cache = self.caches.get(device.ordinal as usize).and_then(OnceLock::get);
        cache.map_or(0, |cache| cache.shrink(device, needed))
    }

    /// Weights are about to be written, or were.
    pub fn written(&self, keys: &[(CUdevice, CUdeviceptr)]) {
        self.each(|cache| cache.written(keys));
    }

    /// A write of weights has been captured: from now on they may change at any launch of a graph, unheard.
    pub fn graphs_write(&self) {
        self.graphs_write.store(true, SeqCst);
        self.each(|cache| cache.stop("a graph writes weights"));
    }

    /// Memory has been taken out of the table and will be released.
    pub fn forget(&self, from: CUdeviceptr, bytes: u64) {
        self.each(|cache| cache.forget(from, bytes));
    }

    /// Keeps the threads that bring experts in from using a context that may go, while this lives.
    pub fn pause(&self) -> Vec<MutexGuard<'_, ()>> {
        let made = self.caches.iter().filter_map(OnceLock::get);
        made.map(|cache| cache.working.lock().unwrap_or_else(PoisonError::into_inner)).collect()
    }

    /// A context is about to go, and its work is done; or it is gone. To be told while paused.
    pub fn context_gone(&self, context: CUcontext) {
        self.each(|cache| cache.context_gone(context));
    }

    /// Whether there is anything of ours in a context.
    pub fn is_of(&self, context: CUcontext) -> bool {
        let mut found = false;
        self.each(|cache| found |= cache.is_of(context));
        found
    }

    /// The program ends: what was kept in VRAM, and what that did, in a line of the log.
    pub fn report(&self) {
        self.each(|cache| {
            cache.halt();
            // What another thread has locked is not waited for.
            cache.state_now().map(|state| warm::counted(&state)).into_iter().for_each(warm::keep);
            let record = cache.record;
            let [reads, hits, moves, bytes, unfit] = [
                &record.expert_reads,
                &record.expert_hits,
                &record.expert_moves,
                &record.expert_bytes,
                &record.expert_unfit,
            ]
            .map(|count| count.load(Relaxed));
            let percent = if reads == 0 { 0.0 } else { 100.0 * hits as f64 / reads as f64 };
            log::info!(
                "device {}: {} experts of {} a layer in VRAM; {hits} of {reads} reads found them there ({percent:.1}%); {moves} \
                 brought in, {}; {unfit} launches were not as the profile says",
                cache.device,
                record.expert_slots.load(Relaxed),
                record.experts.load(Relaxed),
                format_size(bytes),
            );
        });
    }

    /// A stream is about to be destroyed.
    pub fn stream_gone(&self, stream: CUstream) {
        self.each(|cache| cache.lanes.stream_gone(stream));
    }
}
