//! The gate of a device: submitting work to it passes through, moving its memory closes it.
//!
//! A chunk may only be remapped when no kernel is using it. Waiting for the device is not enough: another
//! thread could submit the next kernel in between. So every call that submits work holds the gate open (a few
//! nanoseconds: one counter of the thread's own shard up and down), and a mover closes it, waits until nobody
//! is inside, and only then asks whether the device is done.
//!
//! Nobody stands before a closed gate for long: it is closed for a moment that the mover names, and opened again where what is
//! waited for takes longer ([`crate::quiet`]). What a submitter's own thread would have to do first, it can do then.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

const SHARDS: usize = 16;
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

/// Gates are held open while this lives.
pub struct Inside<'a> {
    first: &'a AtomicU32,
    /// Those of other devices whose memory is used as well; almost always none.
    others: Vec<&'a AtomicU32>,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.first.fetch_sub(1, SeqCst);
        self.others.drain(..).for_each(|count| {
            count.fetch_sub(1, SeqCst);
        });
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
        loop {
            if let Some(first) = self.try_enter() {
                return Inside { first, others: Vec::new() };
            }
            self.wait_open();
        }
    }

    /// Enters this gate and others, of devices whose memory is used as well. None is held open while another is waited for.
    pub fn enter_with<'a>(&'a self, others: &[&'a Gate]) -> Inside<'a> {
        loop {
            let mut inside = self.enter();
            let closed = others.iter().find(|other| match other.try_enter() {
                Some(count) => {
                    inside.others.push(count);
                    false
                }
                None => true,
            });
            let Some(closed) = closed else { return inside };
            drop(inside);
            closed.wait_open();
        }
    }

    #[inline]
    fn try_enter(&self) -> Option<&AtomicU32> {
        let count = &self.shards[shard()].0;
        count.fetch_add(1, SeqCst);
        // Sequentially consistent with `close`: either the mover sees the count or we see it closing.
        if !self.closed.load(SeqCst) {
            return Some(count);
        }
        count.fetch_sub(1, SeqCst);
        None
    }

    #[cold]
    fn wait_open(&self) {
        while self.closed.load(SeqCst) {
            std::thread::sleep(Duration::from_micros(20));
        }
    }

    /// Closes the gate for a move. `None` when another mover has it, or somebody stays inside until `deadline`.
    pub fn close(&self, deadline: Instant) -> Option<Closed<'_>> {
        if self.closed.swap(true, SeqCst) {
            return None;
        }
        let closed = Closed(self);
        while self.shards.iter().any(|shard| shard.0.load(SeqCst) != 0) {
            if Instant::now() > deadline {
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

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_submitter_that_stays_inside_holds_up_nobody_but_the_mover() {
        let (gate, other) = (Gate::new(), Gate::new());
        let inside = gate.enter_with(&[&other]);
        for gate in [&gate, &other] {
            assert!(gate.close(Instant::now() + Duration::from_millis(2)).is_none());
            drop(gate.enter());
        }
        drop(inside);
        let closed = gate.close(Instant::now() + LONG).expect("nobody is inside");
        assert!(gate.close(Instant::now()).is_none(), "there is another mover");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| drop(other.enter_with(&[&gate])));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!waits.is_finished());
            drop(other.close(Instant::now() + LONG).expect("who waits before one gate does not hold another open"));
            drop(closed);
        });
    }

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
            let closed = TEST_GATE.close(Instant::now() + LONG).expect("one mover, submitters that return");
            MOVING.store(true, SeqCst);
            std::thread::yield_now();
            MOVING.store(false, SeqCst);
            drop(closed);
        }
        submitters.into_iter().for_each(|thread| thread.join().expect("never saw a move"));
    }
}
