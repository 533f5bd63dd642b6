//! Opaque handles: numbers that look like pointers, lead nowhere, and are checked on every use.

use crate::errors::{Error, Result};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};

/// The live objects of one kind.
pub struct Handles<T> {
    objects: RwLock<Option<HashMap<usize, Arc<T>>>>,
    next: AtomicUsize,
    unknown: Error,
}

impl<T> Handles<T> {
    /// `kind` keeps the handles of different kinds apart; `unknown` answers a handle that is not alive.
    pub const fn new(kind: usize, unknown: Error) -> Handles<T> {
        Handles { objects: RwLock::new(None), next: AtomicUsize::new(0x5347_0000_0000 + (kind << 32)), unknown }
    }

    /// Makes an object that knows its own handle.
    pub fn insert(&self, make: impl FnOnce(usize) -> T) -> Arc<T> {
        let handle = self.next.fetch_add(64, Ordering::Relaxed) + 64;
        let object = Arc::new(make(handle));
        let mut objects = self.objects.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        objects.get_or_insert_default().insert(handle, object.clone());
        object
    }

    /// The live object of a handle.
    pub fn get(&self, handle: usize) -> Result<Arc<T>> {
        let objects = self.objects.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        objects.as_ref().and_then(|objects| objects.get(&handle)).cloned().ok_or(self.unknown)
    }

    /// Ends a handle.
    pub fn remove(&self, handle: usize) -> Result<Arc<T>> {
        let mut objects = self.objects.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        objects.as_mut().and_then(|objects| objects.remove(&handle)).ok_or(self.unknown)
    }

    /// Every live object.
    pub fn all(&self) -> Vec<Arc<T>> {
        let objects = self.objects.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        objects.as_ref().map(|objects| objects.values().cloned().collect()).unwrap_or_default()
    }
}
