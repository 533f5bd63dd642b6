//! The tensors of the process, by address.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

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

/// All tensors that are known, and the buffers of weights. Its locks are leaves: nothing is called while one is held.
#[derive(Debug, Default)]
pub struct Registry {
    tensors: RwLock<BTreeMap<u64, Tensor>>,
    /// Buffers of weights by ggml's handle, with first address and bytes: one that goes is not to be asked any more.
    buffers: RwLock<BTreeMap<usize, (u64, u64)>>,
}

impl Registry {
    /// Nothing is known.
    pub const fn new() -> Self {
        Self { tensors: RwLock::new(BTreeMap::new()), buffers: RwLock::new(BTreeMap::new()) }
    }

    /// A buffer of weights is where it says.
    pub fn note_buffer(&self, handle: usize, base: u64, bytes: u64) {
        self.buffers.write().unwrap_or_else(PoisonError::into_inner).insert(handle, (base, bytes));
    }

    /// Whether a buffer was said to hold weights.
    pub fn holds_weights(&self, handle: usize) -> bool {
        self.buffers.read().unwrap_or_else(PoisonError::into_inner).contains_key(&handle)
    }

    /// A buffer goes. Returns where it was, if it held weights.
    pub fn take_buffer(&self, handle: usize) -> Option<(u64, u64)> {
        self.buffers.write().unwrap_or_else(PoisonError::into_inner).remove(&handle)
    }

    /// A tensor was given an address. Views and scratch tensors without a name of their own are not kept.
    pub fn note(&self, address: u64, bytes: u64, name: String) {
        if !name.is_empty() && bytes > 0 {
            let tensor = Tensor { name, bytes, ..Tensor::default() };
            self.tensors.write().unwrap_or_else(PoisonError::into_inner).insert(address, tensor);
        }
    }

    /// The tensor at an address has so many rows.
    pub fn note_rows(&self, address: u64, rows: u64) {
        if let Some(tensor) = self.tensors.write().unwrap_or_else(PoisonError::into_inner).get_mut(&address) {
            tensor.rows = rows;
        }
    }

    /// The tensor at exactly this address.
    pub fn at(&self, address: u64) -> Option<Tensor> {
        self.tensors.read().unwrap_or_else(PoisonError::into_inner).get(&address).cloned()
    }

    /// First address and bytes of the tensor that an address is in. Of host memory, nobody tells when a tensor is no more.
    pub fn around(&self, address: u64) -> Option<(u64, u64)> {
        self.around_if(address, |_| true)
    }

    /// The same, if the tensor is as asked for.
    fn around_if(&self, address: u64, is_so: impl Fn(&Tensor) -> bool) -> Option<(u64, u64)> {
        let tensors = self.tensors.read().unwrap_or_else(PoisonError::into_inner);
        let (at, tensor) = tensors.range(..=address).next_back()?;
        (address - at < tensor.bytes && is_so(tensor)).then_some((*at, tensor.bytes))
    }

    /// The same, if the tensor is a weight.
    pub fn weight_around(&self, address: u64) -> Option<(u64, u64)> {
        self.around_if(address, |tensor| tensor.is_weight)
    }

    /// Whether any byte of a range is in a weight.
    pub fn has_weight(&self, at: u64, bytes: u64) -> bool {
        let tensors = self.tensors.read().unwrap_or_else(PoisonError::into_inner);
        let inside = tensors.range(at..at.saturating_add(bytes)).any(|(_, tensor)| tensor.is_weight);
        drop(tensors);
        inside || self.weight_around(at).is_some()
    }

    /// A buffer of a device holds weights: its tensors do. Returns how many weight tensors there are in all.
    pub fn mark_weights(&self, base: u64, bytes: u64, device: Option<String>) -> usize {
        let device: Option<Arc<str>> = device.map(Into::into);
        let mut tensors = self.tensors.write().unwrap_or_else(PoisonError::into_inner);
        tensors.range_mut(base..base.saturating_add(bytes)).for_each(|(_, tensor)| {
            (tensor.is_weight, tensor.device) = (true, device.clone());
        });
        tensors.values().filter(|tensor| tensor.is_weight).count()
    }

    /// Whether the tensor at an address is a weight of which nothing was seen to arrive yet.
    pub fn is_awaited(&self, at: u64) -> bool {
        let tensors = self.tensors.read().unwrap_or_else(PoisonError::into_inner);
        tensors.get(&at).is_some_and(|tensor| tensor.is_weight && tensor.uploaded == 0)
    }

    /// Whether an address is in a weight of which bytes are still to arrive: nothing reads it before it is whole.
    pub fn is_arriving(&self, at: u64) -> bool {
        self.around_if(at, |tensor| tensor.is_weight && tensor.uploaded < tensor.bytes).is_some()
    }

    /// Bytes of the tensor at an address have arrived; `source` is where the tensor's first byte came from.
    pub fn note_upload(&self, at: u64, bytes: u64, source: Option<Source>) {
        let known = |tensor: &Tensor| tensor.is_weight && (tensor.uploaded < tensor.bytes || source.is_some());
        // Inputs arrive with every token: they are told apart without keeping others from looking.
        if !self.tensors.read().unwrap_or_else(PoisonError::into_inner).get(&at).is_some_and(known) {
            return;
        }
        if let Some(tensor) = self.tensors.write().unwrap_or_else(PoisonError::into_inner).get_mut(&at) {
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
        self.tensors.read().unwrap_or_else(PoisonError::into_inner).range(range.clone()).next()?;
        let mut tensors = self.tensors.write().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<_> = tensors.range(range).map(|(address, _)| *address).collect();
        gone.into_iter().for_each(|address| drop(tensors.remove(&address)));
        Some(tensors.values().filter(|tensor| tensor.is_weight).count())
    }

    /// The tensors in a range, in order of address.
    pub fn within(&self, base: u64, bytes: u64) -> Vec<(u64, Tensor)> {
        let tensors = self.tensors.read().unwrap_or_else(PoisonError::into_inner);
        tensors.range(base..base.saturating_add(bytes)).map(|(address, tensor)| (*address, tensor.clone())).collect()
    }

    /// All weight tensors, in order of address.
    pub fn weights(&self) -> Vec<(u64, Tensor)> {
        self.within(0, u64::MAX).into_iter().filter(|(_, tensor)| tensor.is_weight).collect()
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
    fn a_buffer_goes_once() {
        let registry = Registry::new();
        assert!(!registry.holds_weights(1 << 60));
        registry.note_buffer(1 << 60, 7, 9);
        assert!(registry.holds_weights(1 << 60));
        assert_eq!((registry.take_buffer(1 << 60), registry.take_buffer(1 << 60)), (Some((7, 9)), None));
    }
}
