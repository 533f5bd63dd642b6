//! What was answered for tensors that are to have a file's pages.

use greenboost_contract::settings::GRANULE;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What was answered for a tensor.
#[derive(Debug)]
pub struct Answer {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// Its offset in the file, modulo a page.
    pub remainder: u64,
    /// Whether memory for it is still to be asked for.
    pub is_new: bool,
}

/// Answers by ggml's handle. A handle may come again for another tensor, which has another name or is asked for anew.
#[derive(Debug, Default)]
pub struct Answers(Mutex<BTreeMap<usize, Answer>>);

impl Answers {
    /// None was given.
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// The answers, to look at or add to.
    pub fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Answer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes, at least, that files will have of the tensors that were counted since this was last asked: granules that they
    /// have for themselves, wherever they come to be.
    pub fn expected(&self) -> u64 {
        let own = |answer: &mut Answer| {
            std::mem::take(&mut answer.is_new).then(|| (answer.bytes / GRANULE).saturating_sub(1) * GRANULE)
        };
        self.lock().values_mut().filter_map(own).sum()
    }
}
