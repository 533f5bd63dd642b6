//! A budget: bytes of VRAM of one device, or of RAM of the process.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes taken out of a fixed number. Taking is one atomic step: two threads cannot both take the last gigabyte.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0) }
    }

    /// Bytes in all.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes taken.
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Bytes not taken.
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used())
    }

    /// Takes `bytes`; the bytes that are taken then. `None`: fewer are left.
    pub fn take(&self, bytes: u64) -> Option<u64> {
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Relaxed, Relaxed, more).ok().map(|before| before + bytes)
    }

    /// Gives `bytes` back.
    pub fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn racing_threads_never_take_more_than_the_budget() {
        let (budget, granted) = (Budget::new(100), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        granted.fetch_add(usize::from(budget.take(7).is_some()), Relaxed);
                    }
                });
            }
        });
        assert_eq!((granted.load(Relaxed), budget.left()), (14, 2));
    }

    #[test]
    fn a_refusal_takes_nothing_and_what_is_given_back_can_be_taken_again() {
        let budget = Budget::new(10);
        assert_eq!(
            (budget.take(6), budget.take(5), budget.take(u64::MAX), budget.take(4)),
            (Some(6), None, None, Some(10))
        );
        budget.give_back(6);
        assert_eq!((budget.left(), budget.used()), (6, 4));
    }
}
