//! Streaming at the copy: a framework that keeps layers in RAM copies their weights to the GPU anew for every batch of a
//! prompt, in the same order, from its mapping of the model file or from pinned memory. What comes again is copied ahead
//! into slots, over the link at full speed, and the framework's own copy becomes one within VRAM. `docs/streaming.md` has
//! the picture.
//!
//! Only bytes that stay what they are are served (`origin` says which, and why); nothing during captures; on any doubt the
//! program's own call is made.

mod ends;
mod origin;

use super::index::Weight;
use super::rules::NOT_FOR_KERNELS;
use crate::Streaming;
use crate::engine::Session;
use greenboost_contract::Assist;
use greenboost_cuda::RelaxedCapture;
use greenboost_cuda::abi::*;
use greenboost_memory::device::Device;
use greenboost_memory::split;
use greenboost_weights::registry::Registry;
use origin::Origin;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Smaller copies are not looked at: they are no weights that cost time.
const LEAST: u64 = 32 << 10;
/// A tensor whose pages could not be registered so often is left alone.
const MOST_REFUSALS: u32 = 3;
/// How long slots are not asked for again where there was no VRAM for them.
const PAUSE: Duration = Duration::from_secs(10);
/// What a trace calls a copy out of a slot.
const SERVED: &str = "the program's copy";

/// A tensor in RAM: all of it, of which the program may copy parts.
#[derive(Debug)]
struct Tensor {
    whole: Origin,
    device: CUdevice,
    /// Bytes copied since another tensor was.
    copied: u64,
    /// Bytes copied before that, the last time it was this one's turn.
    last: u64,
    refusals: u32,
    /// It may be streamed.
    is_ready: bool,
}

/// Tensors that do not overlap, by the address at which the device reads them.
#[derive(Debug, Default)]
pub struct Known {
    tensors: BTreeMap<u64, Tensor>,
    /// Whose turn it is.
    current: Option<u64>,
    /// When there was no VRAM for slots.
    no_slots: Option<Instant>,
}

/// What is to be done about a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Advice {
    /// The program's own call.
    Pass,
    /// It came before: make its tensor ready.
    Prepare(u64),
    /// Its tensor is ready.
    Serve,
}

impl Known {
    /// Notes a copy of `part`, out of a tensor of `bytes` that begins `before` bytes in front of it. Tensors that turn
    /// out to be parts of this one go to `replaced`.
    fn note(
        &mut self,
        tensors: &Registry,
        part: &Origin,
        before: u64,
        bytes: u64,
        device: CUdevice,
        replaced: &mut Vec<(u64, u64)>,
    ) -> Advice {
        let at = match self.find(part) {
            Some(at) => at,
            None => {
                let Some(whole) = part.around(tensors, before, bytes) else { return Advice::Pass };
                let Some(at) = self.insert(whole, device, replaced) else { return Advice::Pass };
                at
            }
        };
        if self.current != Some(at) {
            let before = self.current.replace(at);
            if let Some(left) = before.and_then(|before| self.tensors.get_mut(&before)) {
                left.end_turn();
            }
        }
        let Some(tensor) = self.tensors.get_mut(&at) else { return Advice::Pass };
        // What the program uses little of is not brought whole.
        let is_worth_it = tensor.last.saturating_mul(2) >= tensor.whole.bytes();
        tensor.copied += part.bytes();
        if tensor.copied >= tensor.whole.bytes() {
            tensor.end_turn();
        }
        match is_worth_it && tensor.refusals < MOST_REFUSALS {
            true if tensor.is_ready => Advice::Serve,
            true => Advice::Prepare(at),
            false => Advice::Pass,
        }
    }

    /// The tensor that has all of a range.
    fn find(&self, part: &Origin) -> Option<u64> {
        let (at, tensor) = self.tensors.range(..=part.address()).next_back()?;
        (part.address() + part.bytes() <= at + tensor.whole.bytes()).then_some(*at)
    }

    /// Adds a tensor in the place of those that it contains. `None` when it overlaps one in part: nobody knows then what
    /// is a tensor.
    fn insert(&mut self, whole: Origin, device: CUdevice, replaced: &mut Vec<(u64, u64)>) -> Option<u64> {
        let (at, end) = (whole.address(), whole.address() + whole.bytes());
        let first = self.tensors.range(..at).next_back().filter(|(other, it)| *other + it.whole.bytes() > at);
        let mut inside = self.tensors.range(at..end).map(|(other, it)| (*other, it.whole.bytes()));
        if first.is_some() || inside.clone().any(|(other, bytes)| other + bytes > end) {
            return None;
        }
        replaced.extend(inside.by_ref());
        replaced.iter().for_each(|(other, _)| drop(self.tensors.remove(other)));
        self.tensors.insert(at, Tensor { whole, device, copied: 0, last: 0, refusals: 0, is_ready: false });
        Some(at)
    }
}

impl Tensor {
    fn end_turn(&mut self) {
        if self.copied > 0 {
            self.last = std::mem::take(&mut self.copied);
        }
    }
}

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
        if self.memory.settings.assist == Assist::Off || bytes < LEAST || self.may_capture() {
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
        device.record.assist_copies.fetch_add(1, Relaxed);
        device.record.assist_bytes.fetch_add(bytes, Relaxed);
        if !wait {
            return Some(SUCCESS);
        }
        // SAFETY: the program's own stream.
        Some(unsafe { self.memory.driver.cuStreamSynchronize(stream) }.err().unwrap_or(SUCCESS))
    }

    /// Copies a part of a tensor out of its slot.
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

    /// Makes a tensor ready: there are slots, and the device can read its pages.
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

    /// Bytes of slots of a device, which are made if it has none.
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

    /// Tensors are no more: nothing is copied ahead for them.
    pub(super) fn forget_copies(&self, gone: &[(u64, u64)]) {
        if !gone.is_empty() {
            self.rebuild();
            gone.iter().for_each(|(at, bytes)| {
                self.engines.each(|device, engine| engine.forget(self.memory, device, *at, *bytes, None));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use greenboost_weights::files::Files;
    use greenboost_weights::files::testing::{MappedFile, PAGE};

    /// Tells of copies out of a mapped file, in pages.
    struct Told {
        known: Known,
        files: Files,
        file: MappedFile,
    }

    impl Told {
        fn new() -> Option<Self> {
            let file = MappedFile::new("model", 64 * PAGE, libc::MAP_SHARED, libc::PROT_READ);
            // A kernel that cannot be asked at every use is not believed without hooks.
            let files = Files::new();
            files.source(file.at, PAGE)?;
            Some(Self { known: Known::default(), files, file })
        }

        /// A copy of pages out of a tensor of pages; the advice, and tensors that went.
        fn copy(&mut self, part: (u64, u64), whole: (u64, u64)) -> (Advice, usize) {
            let source = self.files.source(self.file.at + part.0 * PAGE, part.1 * PAGE).expect("mapped");
            let source = Origin::File(source);
            let mut replaced = Vec::new();
            let advice =
                self.known.note(&Registry::new(), &source, (part.0 - whole.0) * PAGE, whole.1 * PAGE, 0, &mut replaced);
            (advice, replaced.len())
        }
    }

    #[test]
    fn a_tensor_is_prepared_when_it_comes_again_and_served_once_it_is_ready() {
        let Some(mut told) = Told::new() else { return };
        let whole = (8, 4);
        assert_eq!(told.copy(whole, whole), (Advice::Pass, 0));
        let (Advice::Prepare(at), 0) = told.copy(whole, whole) else { panic!("it came again") };
        told.known.tensors.get_mut(&at).expect("known").is_ready = true;
        assert_eq!(told.copy(whole, whole).0, Advice::Serve);
        assert_eq!(told.copy((9, 1), (9, 1)).0, Advice::Serve, "a part of what was copied whole");
        assert_eq!(told.copy((12, 1), (12, 1)).0, Advice::Pass, "its neighbour");
        let tensor = told.known.tensors.get_mut(&at).expect("known");
        (tensor.is_ready, tensor.refusals) = (false, MOST_REFUSALS);
        assert_eq!(told.copy(whole, whole).0, Advice::Pass, "refused too often");
    }

    #[test]
    fn a_tensor_of_which_less_than_half_is_used_is_left_to_its_parts() {
        let Some(mut told) = Told::new() else { return };
        let (whole, other) = ((0, 8), (20, 1));
        for (parts, advice) in [(3, Advice::Pass), (4, Advice::Pass), (0, Advice::Prepare(0))] {
            for part in 0..parts {
                let told = told.copy((part * 2, 1), whole).0;
                assert_eq!(told, Advice::Pass, "{parts} parts of 8 are decided by what was before them");
            }
            told.copy(other, other);
            if parts == 0 {
                let now = told.copy((5, 1), whole).0;
                assert_eq!(std::mem::discriminant(&now), std::mem::discriminant(&advice), "four were half of it");
            }
        }
    }

    #[test]
    fn a_whole_takes_the_place_of_its_parts_and_what_overlaps_is_left_alone() {
        let Some(mut told) = Told::new() else { return };
        told.copy((10, 2), (10, 2));
        told.copy((13, 1), (13, 1));
        assert_eq!(told.copy((11, 2), (11, 2)), (Advice::Pass, 0));
        assert_eq!(told.known.tensors.len(), 2, "what overlaps is no tensor");
        assert_eq!(told.copy((10, 6), (10, 6)), (Advice::Pass, 2));
        assert_eq!(told.known.tensors.len(), 1);
        assert!(matches!(told.copy((12, 3), (12, 3)), (Advice::Prepare(_), 0)), "a part of the whole");
        // Behind the end of the file.
        assert_eq!(told.copy((60, 4), (60, 5)), (Advice::Pass, 0));
        assert_eq!(told.known.tensors.len(), 1);
    }
}
