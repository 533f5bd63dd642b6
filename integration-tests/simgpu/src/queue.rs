//! The operations of a stream: which wait, which are done, and when that was.

use crate::fence::Fence;
use crate::work::Work;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

/// The operations of a stream.
#[derive(Default)]
pub struct Queue {
    /// What has not begun.
    pub waiting: VecDeque<Operation>,
    /// The last operation that was submitted.
    pub submitted: u64,
    /// The last operation that has begun.
    pub begun: u64,
    /// Every operation up to this one is done.
    pub completed: u64,
    /// What is done beyond that: a programmatic launch may end before the kernel in front of it.
    pub overtaking: BTreeSet<u64>,
    /// When the latest ones ended, in modelled time.
    pub ends: BTreeMap<u64, Instant>,
    /// Whether the last operation submitted is a kernel.
    pub kernel_last: bool,
    /// Whether the worker runs.
    pub started: bool,
    /// Whether the worker ends once nothing waits.
    pub closing: bool,
}

impl Queue {
    /// Whether an operation is done.
    pub fn done(&self, ticket: u64) -> bool {
        self.completed >= ticket || self.overtaking.contains(&ticket)
    }

    /// When everything up to a ticket had ended, unless that is long ago.
    pub fn end_of(&self, ticket: u64) -> Option<Instant> {
        self.ends.get(&ticket).copied()
    }

    /// An operation has ended.
    pub fn finish(&mut self, ticket: u64, end: Instant) {
        let last = self.ends.last_key_value().map_or(end, |(_, last)| end.max(*last));
        self.ends.insert(ticket, last);
        if self.ends.len() > REMEMBERED {
            self.ends.pop_first();
        }
        self.overtaking.insert(ticket);
        while self.overtaking.remove(&(self.completed + 1)) {
            self.completed += 1;
        }
    }
}

/// Ends of operations that a stream remembers: who waits for an older one is not held up by it any more.
const REMEMBERED: usize = 4096;

/// An operation of a stream.
pub struct Operation {
    /// Its number.
    pub ticket: u64,
    /// When it was submitted.
    pub submitted: Instant,
    /// What it waits for.
    pub after: Vec<Fence>,
    /// What it does.
    pub work: Work,
}
