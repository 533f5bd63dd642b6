//! Page cache that a device reads: what is registered with the driver, of all files.
//!
//! The kernel counts it as page cache that it could drop, and cannot.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// First addresses, and bytes.
#[derive(Debug, Default)]
pub struct PinnedPages(Mutex<BTreeMap<u64, u64>>);

impl PinnedPages {
    /// None.
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    fn ranges(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A range has been registered.
    pub fn add(&self, at: u64, bytes: u64) {
        self.ranges().insert(at, bytes);
    }

    /// It is registered no more.
    pub fn remove(&self, at: u64) {
        self.ranges().remove(&at);
    }

    /// Whether an address is in a mapping that is registered.
    pub fn contains(&self, at: u64) -> bool {
        self.ranges().range(..=at).next_back().is_some_and(|(start, bytes)| at - start < *bytes)
    }

    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.ranges().values().sum()
    }
}
