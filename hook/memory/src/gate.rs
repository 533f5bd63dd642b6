//! The gate: submitting work to the GPU passes through it, moving memory closes it.
//!
//! A chunk may only be remapped when no kernel is using it. Waiting for the device is not enough: another
//! thread could submit the next kernel in between. So every call that submits work holds the gate open (a few
//! nanoseconds: one counter of the thread's own shard up and down), and a mover closes it, waits until nobody
//! is inside, and only then waits for the device.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

const SHARDS: usize = 16;
/// How long a mover waits for submitters. A submitter stuck for longer (a full queue that only the waiting
/// thread itself could drain) must not hang the program: nothing is moved then.
const PATIENCE: Duration = Duration::from_secs(10);

/// A cache line of its own per shard, else threads would fight over one.
#[repr(align(64))]
struct Shard(AtomicU32);

/// Many submitters or one mover.
pub struct Gate {
    shards: [Shard; SHARDS],
    closed: AtomicBool,
}

thread_local! {
    static SHARD: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The gate is held open while this lives.
pub struct Inside<'a>(&'a AtomicU32);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// The gate is closed while this lives.
pub struct Closed<'a>(&'a Gate);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.closed.store(false, SeqCst);
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// An open gate.
    pub const fn new() -> Self {
        Self { shards: [const { Shard(AtomicU32::new(0)) }; SHARDS], closed: AtomicBool::new(false) }
    }

    /// Enters to submit work; waits while memory moves.
    #[inline]
    pub fn enter(&self) -> Inside<'_> {
        let count = &self.shards[shard()].0;
        loop {
            count.fetch_add(1, SeqCst);
            // Sequentially consistent with `close`: either the mover sees the count or we see it closing.
            if !self.closed.load(SeqCst) {
                return Inside(count);
            }
            count.fetch_sub(1, SeqCst);
            self.wait_open();
        }
    }

    #[cold]
    fn wait_open(&self) {
        while self.closed.load(SeqCst) {
            std::thread::sleep(Duration::from_micros(20));
        }
    }

    /// Closes the gate for a move. `None` when another mover has it, or somebody stays inside for too long.
    pub fn close(&self) -> Option<Closed<'_>> {
        if self.closed.swap(true, SeqCst) {
            return None;
        }
        let closed = Closed(self);
        let started = Instant::now();
        while self.shards.iter().any(|shard| shard.0.load(SeqCst) != 0) {
            if started.elapsed() > PATIENCE {
                log::warn!("memory is not moved: a call that submits work has not returned for {PATIENCE:?}");
                return None;
            }
            std::thread::yield_now();
        }
        Some(closed)
    }
}

#[inline]
fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    SHARD.with(|shard| match shard.get() {
        usize::MAX => {
            let mine = NEXT.fetch_add(1, SeqCst) % SHARDS;
            shard.set(mine);
            mine
        }
        mine => mine,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_submits_while_memory_moves() {
        static TEST_GATE: Gate = Gate::new();
        static MOVING: AtomicBool = AtomicBool::new(false);
        let submitters: Vec<_> = (0..6)
            .map(|_| {
                std::thread::spawn(|| {
                    for _ in 0..20_000 {
                        let _inside = TEST_GATE.enter();
                        assert!(!MOVING.load(SeqCst));
                    }
                })
            })
            .collect();
        for _ in 0..200 {
            let closed = TEST_GATE.close().expect("one mover, submitters that return");
            MOVING.store(true, SeqCst);
            std::thread::yield_now();
            MOVING.store(false, SeqCst);
            drop(closed);
        }
        submitters.into_iter().for_each(|thread| thread.join().expect("never saw a move"));
    }
}
