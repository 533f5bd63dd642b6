//! Streaming at the copy: a framework that keeps layers in RAM copies their weights to the GPU anew for every batch of a
//! prompt, in the same order, from its mapping of the model file or from pinned memory. What comes again is copied ahead
//! into staging slots, over the link at full speed, and the framework's own copy becomes one within VRAM. `docs/streaming.md` has
//! the picture.
//!
//! Only bytes that stay what they are are served (`origin` says which, and why); nothing during captures; on any doubt the
//! program's own call is made.

mod ends;
pub mod known;
mod origin;

use super::index::Weight;
use super::rules::NOT_FOR_KERNELS;
use crate::Streaming;
use crate::engine::session::Session;
use greenboost_contract::HostCopyPrefetch;
use greenboost_cuda::RelaxedCapture;
use greenboost_cuda::abi::*;
use greenboost_memory::device::Device;
use greenboost_memory::split;
use known::{Advice, Known};
use origin::Origin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Smaller copies are not looked at: weights that cost time are larger.
const LEAST: u64 = 32 << 10;
/// How long no ring is asked for again where there was no VRAM for it.
const PAUSE: Duration = Duration::from_secs(10);
/// What a trace calls a copy out of a staging slot.
const SERVED: &str = "the program's copy";

impl Streaming {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.prefetch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Weights that may be copied ahead, for the index.
    pub fn prefetched_weights(&self) -> Vec<Weight> {
        let known = self.known();
        let ready =
            known.tensors.iter().filter(|(_, tensor)| tensor.is_ready && tensor.whole.is_unchanged(self.tensors));
        ready
            .map(|(at, tensor)| {
                let bytes = tensor.whole.bytes();
                Weight { at: *at, bytes, copied: bytes, device: tensor.device, rules: NOT_FOR_KERNELS }
            })
            .collect()
    }

    /// Does a copy from the host in the program's place. `None`: it is not one that came before, and nothing has been done.
    /// `stream` is where the copy belongs, by a name that says so whoever asks; with `wait`, it is complete on return.
    ///
    /// # Safety
    /// The arguments of a copy that the program makes, which the driver would believe as well.
    pub unsafe fn copy_from_host(
        &self,
        dst: CUdeviceptr,
        src: u64,
        bytes: u64,
        stream: CUstream,
        wait: bool,
    ) -> Option<Status> {
        if self.memory.settings.host_copy_prefetch == HostCopyPrefetch::Off || bytes < LEAST || self.may_capture() {
            return None;
        }
        let part = Origin::of(self.memory, self.tensors, src, bytes)?;
        let device = self.memory.current_device().ok()?;
        // ggml says what a tensor is; else it is what was copied at once.
        let (before, whole) = self
            .tensors
            .around(src)
            .filter(|(at, tensor_bytes)| src + bytes <= at + tensor_bytes)
            .map_or((0, bytes), |(at, tensor_bytes)| (src - at, tensor_bytes));
        let mut replaced = Vec::new();
        let advice = self.known().note(self.tensors, &part, before, whole, device.ordinal, &mut replaced);
        self.forget_copies(&replaced);
        match advice {
            Advice::Pass => return None,
            Advice::Prepare(at) => self.prepare(device, at)?,
            Advice::Serve => {}
        }
        self.serve(device, dst, &part, stream)?;
        device.record.prefetched_copies.fetch_add(1, Relaxed);
        device.record.prefetched_bytes.fetch_add(bytes, Relaxed);
        if !wait {
            return Some(SUCCESS);
        }
        // SAFETY: the program's own stream.
        Some(unsafe { self.memory.driver.cuStreamSynchronize(stream) }.err().unwrap_or(SUCCESS))
    }

    /// Copies a part of a tensor out of its staging slot.
    fn serve(&self, device: &Device, dst: CUdeviceptr, part: &Origin, stream: CUstream) -> Option<()> {
        let (from, bytes) = (part.address(), part.bytes());
        let index = self.index.get();
        let weight = index.find(from).filter(|weight| from + bytes <= weight.at + weight.bytes)?;
        let mut session = Session::begin(self, device.ordinal, stream, false)?;
        let slot = session.slot(weight)? + (from - weight.at);
        if !session.before_launch() {
            return None;
        }
        let run = |at, bytes| self.memory.run(at, bytes);
        let status = split::linear(&run, [dst], bytes as usize, |at, piece| {
            let at = at as u64;
            // SAFETY: the program's own target; a slot that stays as it is until what is submitted here has read it.
            unsafe { self.memory.driver.cuMemcpyAsync(dst + at, slot + at, piece, stream) }.err().unwrap_or(SUCCESS)
        });
        session.after_launch(&index, &SERVED.into());
        // If it was refused, it is the program's call that should be.
        (status == SUCCESS).then_some(())
    }

    /// Makes a tensor ready: there is a ring, and the device can read its pages.
    fn prepare(&self, device: &Device, at: u64) -> Option<()> {
        let _relaxed = RelaxedCapture::enter(self.memory.driver);
        let capacity = self.capacity(device)?;
        let is_ready = {
            let mut known = self.known();
            let tensor = known.tensors.get_mut(&at)?;
            tensor.is_ready = tensor.whole.bytes() <= capacity && tensor.whole.register(self.memory);
            tensor.refusals += u32::from(!tensor.is_ready);
            tensor.is_ready
        };
        self.memory.record.file_bytes.store(self.memory.files.pinned.bytes(), Relaxed);
        self.rebuild();
        is_ready.then_some(())
    }

    /// Bytes of a device's ring, which is made if there is none.
    fn capacity(&self, device: &Device) -> Option<u64> {
        let there_are = self.engines.capacity(device.ordinal);
        if there_are.is_some() || self.known().no_slots.is_some_and(|when| when.elapsed() < PAUSE) {
            return there_are;
        }
        self.begin(device, self.ring_bytes(device));
        let made = self.engines.capacity(device.ordinal);
        self.known().no_slots = made.is_none().then(Instant::now);
        made
    }

    /// Tensors are gone: nothing is copied ahead for them.
    pub(super) fn forget_copies(&self, gone: &[(u64, u64)]) {
        if !gone.is_empty() {
            self.rebuild();
            gone.iter().for_each(|(at, bytes)| {
                self.engines.each(|device, engine| engine.forget(self.memory, device, *at, *bytes, None));
            });
        }
    }
}
