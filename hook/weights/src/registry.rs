//! The tensors of the process, by address.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file, as the kernel names it in mappings.
    pub file: PathBuf,
    /// Where in it, bytes.
    pub offset: u64,
}

/// A tensor as ggml told us of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tensor {
    /// Its name, `blk.12.ffn_up.weight`.
    pub name: String,
    /// Bytes of its data.
    pub bytes: u64,
    /// Rows of it, in all its dimensions; 0: not known.
    pub rows: u64,
    /// The kind of memory it is in as ggml names it, `CUDA0` or `CPU_Mapped`, if it tells; of weights alone.
    pub device: Option<Arc<str>>,
    /// Whether its buffer holds weights: written once, then only read.
    pub is_weight: bool,
    /// Bytes that were seen to arrive. What a program reads straight into its own memory is not seen.
    pub uploaded: u64,
    /// Where its first byte came from, if that was a mapping of a file. How it was when the bytes came: the file may
    /// have changed since, and the mapping be gone.
    pub source: Option<Source>,
}

/// What ggml said that a buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Weights.
    Weights,
    /// What is computed: every batch has other tensors there, at other addresses, and nothing is decided by their names.
    Computing,
}

/// A buffer of ggml's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Buffer {
    base: u64,
    bytes: u64,
    is_for: Use,
}

/// Tensors by their first address; no two of them share a byte.
#[derive(Debug, Default)]
struct Tensors {
    by_address: BTreeMap<u64, Tensor>,
    /// How many of them are weights: asked whenever memory goes.
    weights: usize,
}

impl Tensors {
    const fn new() -> Self {
        Self { by_address: BTreeMap::new(), weights: 0 }
    }

    fn remove(&mut self, at: u64) {
        let removed = self.by_address.remove(&at);
        self.weights -= usize::from(removed.is_some_and(|tensor| tensor.is_weight));
    }

    /// A tensor is where others may have been: what it has bytes of is gone.
    fn insert(&mut self, at: u64, tensor: Tensor) {
        let end = at.saturating_add(tensor.bytes);
        // From the last that begins before its end down: before the first one that ends before it, all do.
        while let Some((&other, known)) = self.by_address.range(..end).next_back()
            && other.saturating_add(known.bytes) > at
        {
            self.remove(other);
        }
        self.weights += usize::from(tensor.is_weight);
        self.by_address.insert(at, tensor);
    }
}

/// All tensors that are known, and buffers with what they are for. Its locks are leaves: nothing is called while one is held.
#[derive(Debug, Default)]
pub struct Registry {
    tensors: RwLock<Tensors>,
    /// Buffers by ggml's handle: one that goes is not to be asked any more.
    buffers: RwLock<BTreeMap<usize, Buffer>>,
}

impl Registry {
    /// Nothing is known.
    pub const fn new() -> Self {
        Self { tensors: RwLock::new(Tensors::new()), buffers: RwLock::new(BTreeMap::new()) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Tensors> {
        self.tensors.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tensors> {
        self.tensors.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer is where it says, and what it is for.
    pub fn note_buffer(&self, handle: usize, base: u64, bytes: u64, is_for: Use) {
        let buffer = Buffer { base, bytes, is_for };
        self.buffers.write().unwrap_or_else(PoisonError::into_inner).insert(handle, buffer);
    }

    /// What a buffer was said to be for.
    pub fn use_of(&self, handle: usize) -> Option<Use> {
        self.buffers.read().unwrap_or_else(PoisonError::into_inner).get(&handle).map(|buffer| buffer.is_for)
    }

    /// A buffer goes. Returns where it was, if its use was known.
    pub fn take_buffer(&self, handle: usize) -> Option<(u64, u64)> {
        let taken = self.buffers.write().unwrap_or_else(PoisonError::into_inner).remove(&handle);
        taken.map(|buffer| (buffer.base, buffer.bytes))
    }

    /// A tensor was given an address. Tensors that were there are no more; views and scratch tensors without a name of their own
    /// are not kept.
    pub fn note(&self, address: u64, bytes: u64, name: String) {
        if !name.is_empty() && bytes > 0 {
            self.write().insert(address, Tensor { name, bytes, ..Tensor::default() });
        }
    }

    /// Notes how many rows the tensor at an address has.
    pub fn note_rows(&self, address: u64, rows: u64) {
        if let Some(tensor) = self.tensors.write().unwrap_or_else(PoisonError::into_inner).by_address.get_mut(&address)
        {
            tensor.rows = rows;
        }
    }

    /// The tensor at exactly this address.
    pub fn at(&self, address: u64) -> Option<Tensor> {
        self.tensors.read().unwrap_or_else(PoisonError::into_inner).by_address.get(&address).cloned()
    }

    /// First address and bytes of the tensor that an address is in. Of host memory, nobody tells when a tensor is gone.
    pub fn around(&self, address: u64) -> Option<(u64, u64)> {
        self.around_if(address, |_| true)
    }

    /// The same, if the tensor is as asked for.
    fn around_if(&self, address: u64, is_so: impl Fn(&Tensor) -> bool) -> Option<(u64, u64)> {
        let tensors = self.read();
        let (at, tensor) = tensors.by_address.range(..=address).next_back()?;
        (address - at < tensor.bytes && is_so(tensor)).then_some((*at, tensor.bytes))
    }

    /// The same, if the tensor is a weight.
    pub fn weight_around(&self, address: u64) -> Option<(u64, u64)> {
        self.around_if(address, |tensor| tensor.is_weight)
    }

    /// Whether any byte of a range is in a weight.
    pub fn has_weight(&self, at: u64, bytes: u64) -> bool {
        let tensors = self.read();
        let inside = tensors.by_address.range(at..at.saturating_add(bytes)).any(|(_, tensor)| tensor.is_weight);
        drop(tensors);
        inside || self.weight_around(at).is_some()
    }

    /// A buffer of a device holds weights: its tensors do. Returns how many weight tensors there are in all.
    pub fn mark_weights(&self, base: u64, bytes: u64, device: Option<String>) -> usize {
        let device: Option<Arc<str>> = device.map(Into::into);
        let mut tensors = self.write();
        let Tensors { by_address, weights } = &mut *tensors;
        by_address.range_mut(base..base.saturating_add(bytes)).for_each(|(_, tensor)| {
            *weights += usize::from(!tensor.is_weight);
            (tensor.is_weight, tensor.device) = (true, device.clone());
        });
        *weights
    }

    /// Whether the tensor at an address is a weight of which nothing was seen to arrive yet.
    pub fn is_awaited(&self, at: u64) -> bool {
        let tensors = self.read();
        tensors.by_address.get(&at).is_some_and(|tensor| tensor.is_weight && tensor.uploaded == 0)
    }

    /// Whether an address is in a weight of which bytes are still to arrive: nothing reads it before it is whole.
    pub fn is_arriving(&self, at: u64) -> bool {
        self.around_if(at, |tensor| tensor.is_weight && tensor.uploaded < tensor.bytes).is_some()
    }

    /// Bytes of the tensor at an address have arrived; `source` is where the tensor's first byte came from.
    pub fn note_upload(&self, at: u64, bytes: u64, source: Option<Source>) {
        let known = |tensor: &Tensor| tensor.is_weight && (tensor.uploaded < tensor.bytes || source.is_some());
        // Inputs arrive with every token: they are told apart without keeping others from looking.
        if !self.read().by_address.get(&at).is_some_and(known) {
            return;
        }
        if let Some(tensor) = self.write().by_address.get_mut(&at) {
            tensor.uploaded = tensor.uploaded.saturating_add(bytes).min(tensor.bytes);
            if source.is_some() {
                tensor.source = source;
            }
        }
    }

    /// The memory of a range is gone, and its tensors with it. Returns how many weight tensors are left, if any tensor went.
    pub fn forget(&self, base: u64, bytes: u64) -> Option<usize> {
        let range = base..base.saturating_add(bytes);
        // Most memory that goes has none: that is found out without keeping others from looking.
        self.read().by_address.range(range.clone()).next()?;
        let mut tensors = self.write();
        let gone: Vec<_> = tensors.by_address.range(range).map(|(address, _)| *address).collect();
        gone.into_iter().for_each(|address| tensors.remove(address));
        Some(tensors.weights)
    }

    /// The tensors in a range, in order of address.
    pub fn within(&self, base: u64, bytes: u64) -> Vec<(u64, Tensor)> {
        self.within_if(base..base.saturating_add(bytes), |_| true)
    }

    fn within_if(&self, range: Range<u64>, is_so: impl Fn(&Tensor) -> bool) -> Vec<(u64, Tensor)> {
        let tensors = self.read();
        let inside = tensors.by_address.range(range).filter(|(_, tensor)| is_so(tensor));
        inside.map(|(address, tensor)| (*address, tensor.clone())).collect()
    }

    /// All weight tensors, in order of address.
    pub fn weights(&self) -> Vec<(u64, Tensor)> {
        self.within_if(0..u64::MAX, |tensor| tensor.is_weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_become_weights_with_their_buffer_and_go_with_their_memory() {
        let registry = Registry::new();
        const AT: u64 = 1 << 60;
        registry.note(AT, 10, "a".into());
        registry.note(AT + 16, 10, "b".into());
        registry.note(AT + 64, 10, "other".into());
        registry.note(AT + 80, 10, String::new());
        registry.mark_weights(AT, 32, Some("CUDA0".into()));
        let devices: Vec<_> = registry.within(AT, 128).into_iter().map(|(_, it)| it.device).collect();
        assert_eq!(devices, [Some("CUDA0".into()), Some("CUDA0".into()), None]);
        let names =
            |all: Vec<(u64, Tensor)>| all.into_iter().map(|(_, it)| (it.name, it.is_weight)).collect::<Vec<_>>();
        let want = |name: &str, weight| (name.to_owned(), weight);
        assert_eq!(names(registry.within(AT, 128)), [want("a", true), want("b", true), want("other", false)]);
        assert_eq!(registry.forget(AT + 4096, 32), None);
        assert!(registry.forget(AT, 32).is_some());
        assert_eq!(names(registry.within(AT, 128)), [want("other", false)]);
        registry.forget(AT, 128);
    }

    #[test]
    fn uploads_are_followed_for_weights_alone() {
        let registry = Registry::new();
        const AT: u64 = 2 << 60;
        registry.note(AT, 10, "weight".into());
        registry.note(AT + 64, 10, "input".into());
        registry.mark_weights(AT, 32, Some("CUDA0".into()));
        assert!(registry.is_awaited(AT) && !registry.is_awaited(AT + 64) && !registry.is_awaited(AT + 1));
        assert!(
            registry.is_arriving(AT)
                && registry.is_arriving(AT + 9)
                && !registry.is_arriving(AT + 10)
                && !registry.is_arriving(AT + 64)
        );
        let source = Source { file: "/model.gguf".into(), offset: 4096 };
        registry.note_upload(AT, 4, Some(source.clone()));
        registry.note_upload(AT, 6, None);
        registry.note_upload(AT + 64, 10, Some(source.clone()));
        let all: Vec<_> = registry.within(AT, 128).into_iter().map(|(_, it)| (it.uploaded, it.source)).collect();
        assert_eq!(all, [(10, Some(source)), (0, None)]);
        assert!(!registry.is_awaited(AT) && !registry.is_arriving(AT));
        // Another tensor at the address begins anew.
        registry.note(AT, 10, "weight".into());
        registry.mark_weights(AT, 32, Some("CUDA0".into()));
        assert!(registry.is_awaited(AT));
        registry.forget(AT, 128);
    }

    #[test]
    fn a_buffer_goes_once_and_is_known_until_then() {
        let registry = Registry::new();
        assert_eq!(registry.use_of(1 << 60), None);
        registry.note_buffer(1 << 60, 7, 9, Use::Weights);
        registry.note_buffer(2 << 60, 70, 90, Use::Computing);
        assert_eq!(
            [1 << 60, 2 << 60].map(|handle| registry.use_of(handle)),
            [Some(Use::Weights), Some(Use::Computing)]
        );
        assert_eq!((registry.take_buffer(1 << 60), registry.take_buffer(1 << 60)), (Some((7, 9)), None));
        assert_eq!(registry.take_buffer(2 << 60), Some((70, 90)));
    }

    #[test]
    fn a_tensor_takes_the_place_of_those_that_it_has_bytes_of() {
        let registry = Registry::new();
        let places = || registry.within(0, u64::MAX).into_iter().map(|(at, it)| (at, it.bytes)).collect::<Vec<_>>();
        for at in [100, 200, 300, 400] {
            registry.note(at, 100, "old".into());
        }
        assert_eq!(registry.mark_weights(0, 1000, None), 4);
        // Half of one, all of the next, and up to the one after.
        registry.note(250, 150, "new".into());
        assert_eq!(places(), [(100, 100), (250, 150), (400, 100)]);
        registry.note(499, 1, "last byte".into());
        assert_eq!(places(), [(100, 100), (250, 150), (499, 1)]);
        registry.note(0, u64::MAX, "all".into());
        assert_eq!(places(), [(0, u64::MAX)]);
        assert_eq!(registry.mark_weights(1, 10, None), 0);
    }

    #[test]
    fn weights_are_counted_as_they_come_and_go() {
        let registry = Registry::new();
        for at in [0, 10, 20, 30] {
            registry.note(at, 10, "a".into());
        }
        assert_eq!(registry.mark_weights(0, 20, None), 2);
        assert_eq!(registry.mark_weights(0, 30, None), 3);
        assert_eq!(registry.forget(30, 10), Some(3));
        assert_eq!(registry.forget(0, 10), Some(2));
        // What takes a weight's place is none until it is said to be.
        registry.note(10, 10, "b".into());
        assert_eq!(registry.mark_weights(1000, 1, None), 1);
        assert_eq!(registry.weights().len(), 1);
    }

    /// What ggml's allocator of graphs does: each batch gives its nodes other addresses in the same buffer.
    #[test]
    fn batches_of_computed_tensors_do_not_add_up() {
        let registry = Registry::new();
        for batch in 1..2000 {
            for node in 0..20 {
                registry.note(node * batch, batch, "node".into());
            }
        }
        assert!(registry.within(0, u64::MAX).len() <= 40);
    }
}
