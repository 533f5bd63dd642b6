//! The tensors of the process, by address.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

/// A tensor as ggml told us of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name, `blk.12.ffn_up.weight`.
    pub name: String,
    /// Bytes of its data.
    pub bytes: u64,
    /// Whether its buffer holds weights: written once, then only read.
    pub is_weight: bool,
}

static TENSORS: RwLock<BTreeMap<u64, Tensor>> = RwLock::new(BTreeMap::new());

/// A tensor was given an address. Views and scratch tensors without a name of their own are not kept.
pub fn note(address: u64, bytes: u64, name: String) {
    if !name.is_empty() && bytes > 0 {
        let tensor = Tensor { name, bytes, is_weight: false };
        TENSORS.write().unwrap_or_else(PoisonError::into_inner).insert(address, tensor);
    }
}

/// First address and bytes of the tensor that an address is in. Of host memory, nobody tells when a tensor is no more.
pub fn around(address: u64) -> Option<(u64, u64)> {
    let tensors = TENSORS.read().unwrap_or_else(PoisonError::into_inner);
    let (at, tensor) = tensors.range(..=address).next_back()?;
    (address - at < tensor.bytes).then_some((*at, tensor.bytes))
}

/// A buffer holds weights: its tensors do. Returns how many weight tensors there are in all.
pub fn mark_weights(base: u64, bytes: u64) -> usize {
    let mut tensors = TENSORS.write().unwrap_or_else(PoisonError::into_inner);
    tensors.range_mut(base..base.saturating_add(bytes)).for_each(|(_, tensor)| tensor.is_weight = true);
    tensors.values().filter(|tensor| tensor.is_weight).count()
}

/// The memory of a range is gone, and its tensors with it. Returns how many weight tensors are left, if any tensor went.
pub fn forget(base: u64, bytes: u64) -> Option<usize> {
    let range = base..base.saturating_add(bytes);
    // Most memory that goes has none: that is found out without keeping others from looking.
    TENSORS.read().unwrap_or_else(PoisonError::into_inner).range(range.clone()).next()?;
    let mut tensors = TENSORS.write().unwrap_or_else(PoisonError::into_inner);
    let gone: Vec<_> = tensors.range(range).map(|(address, _)| *address).collect();
    gone.into_iter().for_each(|address| drop(tensors.remove(&address)));
    Some(tensors.values().filter(|tensor| tensor.is_weight).count())
}

/// The tensors in a range, in order of address.
pub fn within(base: u64, bytes: u64) -> Vec<(u64, Tensor)> {
    let tensors = TENSORS.read().unwrap_or_else(PoisonError::into_inner);
    tensors.range(base..base.saturating_add(bytes)).map(|(address, tensor)| (*address, tensor.clone())).collect()
}

/// All weight tensors, in order of address.
pub fn weights() -> Vec<(u64, Tensor)> {
    within(0, u64::MAX).into_iter().filter(|(_, tensor)| tensor.is_weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_become_weights_with_their_buffer_and_go_with_their_memory() {
        const AT: u64 = 1 << 60;
        note(AT, 10, "a".into());
        note(AT + 16, 10, "b".into());
        note(AT + 64, 10, "other".into());
        note(AT + 80, 10, String::new());
        mark_weights(AT, 32);
        let names =
            |all: Vec<(u64, Tensor)>| all.into_iter().map(|(_, it)| (it.name, it.is_weight)).collect::<Vec<_>>();
        let want = |name: &str, weight| (name.to_owned(), weight);
        assert_eq!(names(within(AT, 128)), [want("a", true), want("b", true), want("other", false)]);
        assert_eq!(forget(AT + 4096, 32), None);
        assert!(forget(AT, 32).is_some());
        assert_eq!(names(within(AT, 128)), [want("other", false)]);
        forget(AT, 128);
    }
}
