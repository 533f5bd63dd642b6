//! Which addresses are weights that lie outside VRAM: the index that a launch looks into.

use crate::rules;
use greenboost_cuda::abi::{CUdevice, CUdeviceptr};
use std::cell::RefCell;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire},
};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// A tensor that can be streamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weight {
    /// Its address in the program.
    pub at: CUdeviceptr,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes that a copy of it holds: with the padding after it, which kernels read too.
    pub copied: u64,
    /// The device whose program memory it is.
    pub device: CUdevice,
    /// Which rules its name fits.
    pub rules: rules::Mask,
}

/// Weights outside VRAM, in order of address.
#[derive(Debug, Default)]
pub struct Index(Vec<Weight>);

impl Index {
    /// The weight that an address points into.
    #[inline]
    pub fn find(&self, address: CUdeviceptr) -> Option<&Weight> {
        let (first, last) = (self.0.first()?, self.0.last()?);
        if address < first.at || address >= last.at + last.bytes {
            return None;
        }
        let after = self.0.partition_point(|weight| weight.at <= address);
        let weight = &self.0[after.checked_sub(1)?];
        (address < weight.at + weight.bytes).then_some(weight)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The weights that overlap a range.
    pub fn within(&self, at: CUdeviceptr, bytes: u64) -> impl Iterator<Item = &Weight> {
        let end = at.saturating_add(bytes);
        let first = self.0.partition_point(|weight| weight.at + weight.bytes <= at);
        self.0[first..].iter().take_while(move |weight| weight.at < end)
    }
}

/// The index as it is now, for whoever looks into it at every launch.
#[derive(Debug, Default)]
pub struct CurrentIndex {
    index: RwLock<Option<Arc<Index>>>,
    /// Counts the indexes that there have been, so that a thread that has the last one need not ask for it.
    generation: AtomicU64,
    /// Held while one is made: of two threads, the one that puts its own in place last has looked last.
    making: Mutex<()>,
}

thread_local! {
    /// The last index that this thread has seen. There is one [`CurrentIndex`] in a process.
    static LAST: RefCell<(u64, Arc<Index>)> = RefCell::default();
}

impl CurrentIndex {
    /// The index.
    pub fn get(&self) -> Arc<Index> {
        let now = self.generation.load(Acquire);
        LAST.with_borrow_mut(|(of, last)| {
            if *of != now {
                // One that is newer than `now` does no harm: it is asked for once more.
                let index = self.index.read().unwrap_or_else(PoisonError::into_inner).clone();
                (*of, *last) = (now, index.unwrap_or_default());
            }
            last.clone()
        })
    }

    /// Puts another in its place: what `make` finds, weights in order of address.
    pub fn renew(&self, make: impl FnOnce() -> Vec<Weight>) {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let weights = make();
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(Index(weights)));
        self.generation.fetch_add(1, AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Release;

    fn index() -> Index {
        let weight = |at, bytes| Weight { at, bytes, copied: bytes, rules: 0, device: 0 };
        Index(vec![weight(100, 10), weight(110, 5), weight(200, 1)])
    }

    #[test]
    fn an_address_inside_a_weight_finds_it_and_gaps_find_nothing() {
        let index = index();
        let at = |address| index.find(address).map(|weight| weight.at);
        assert_eq!(
            [99, 100, 109, 110, 114, 115, 200, 201].map(at),
            [None, Some(100), Some(100), Some(110), Some(110), None, Some(200), None]
        );
        assert!(Index::default().find(5).is_none());
    }

    #[test]
    fn a_write_meets_all_weights_it_overlaps() {
        let index = index();
        let met = |at, bytes| index.within(at, bytes).map(|weight| weight.at).collect::<Vec<_>>();
        assert_eq!(met(105, 6), [100, 110]);
        assert_eq!(met(115, 85), []);
        assert_eq!(met(0, u64::MAX), [100, 110, 200]);
    }

    /// A thread looks, another changes something and looks, and the first is the last to put its index in place.
    #[test]
    fn the_index_is_never_older_than_the_last_change() {
        let (index, there_are) = (CurrentIndex::default(), AtomicU64::new(1));
        let look = || {
            let weight = |at| Weight { at, bytes: 1, copied: 1, rules: 0, device: 0 };
            (0..there_are.load(Acquire)).map(weight).collect::<Vec<_>>()
        };
        let (has_looked, looked) = std::sync::mpsc::channel();
        std::thread::scope(|threads| {
            threads.spawn(|| {
                index.renew(|| {
                    let found = look();
                    has_looked.send(()).expect("somebody waits");
                    std::thread::sleep(std::time::Duration::from_millis(50));
                    found
                });
            });
            looked.recv().expect("it looks");
            there_are.store(2, Release);
            index.renew(look);
        });
        assert_eq!(index.get().len(), 2);
    }
}
