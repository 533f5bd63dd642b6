//! Which tensors a framework copies again and again, learnt from its copies.

use super::origin::Origin;
use greenboost_cuda::abi::CUdevice;
use greenboost_weights::registry::Registry;
use std::collections::BTreeMap;
use std::time::Instant;

/// A tensor whose pages could not be registered this many times is left alone.
const MOST_REFUSALS: u32 = 3;

/// A tensor in RAM: all of it, of which the program may copy parts.
#[derive(Debug)]
pub struct Tensor {
    /// All of its bytes.
    pub whole: Origin,
    /// The device that they are copied to.
    pub device: CUdevice,
    /// Bytes copied since another tensor was.
    pub copied: u64,
    /// Bytes copied before that, the last time it was this one's turn.
    pub last: u64,
    /// How often its pages could not be registered.
    pub refusals: u32,
    /// It may be streamed.
    pub is_ready: bool,
}

/// Tensors that do not overlap, by the address at which the device reads them.
#[derive(Debug, Default)]
pub struct Known {
    /// By that address.
    pub tensors: BTreeMap<u64, Tensor>,
    /// The tensor that was copied last.
    pub current: Option<u64>,
    /// When there was no VRAM for a ring.
    pub no_slots: Option<Instant>,
}

/// What is to be done about a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
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
    pub fn note(
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
