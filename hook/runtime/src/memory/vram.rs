//! The VRAM budget of one device.

use greenboost_contract::record::DeviceRecord;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What VRAM is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Chunks of spanning allocations.
    Chunks,
    /// Allocations left to the driver.
    Plain,
    /// Physical memory that the program maps itself.
    Mapped,
    /// Slots for streamed weights.
    Ring,
}

/// Bytes taken out of a fixed budget, by use.
#[derive(Debug)]
pub struct VramBudget {
    limit: u64,
    used: AtomicU64,
}

impl VramBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0) }
    }

    /// Bytes in all.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes not taken.
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used.load(Relaxed))
    }

    /// Takes `bytes`, or refuses.
    pub fn take(&self, what: Use, bytes: u64, record: &DeviceRecord) -> bool {
        let taken =
            self.used.fetch_update(Relaxed, Relaxed, |used| used.checked_add(bytes).filter(|sum| *sum <= self.limit));
        let Ok(before) = taken else { return false };
        counter(what, record).fetch_add(bytes, Relaxed);
        record.vram_peak.fetch_max(before + bytes, Relaxed);
        true
    }

    /// Gives `bytes` back.
    pub fn give_back(&self, what: Use, bytes: u64, record: &DeviceRecord) {
        self.used.fetch_sub(bytes, Relaxed);
        counter(what, record).fetch_sub(bytes, Relaxed);
    }
}

fn counter(what: Use, record: &DeviceRecord) -> &AtomicU64 {
    match what {
        Use::Chunks => &record.vram_chunks,
        Use::Plain => &record.vram_plain,
        Use::Mapped => &record.vram_mapped,
        Use::Ring => &record.vram_ring,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use greenboost_contract::record::Mapped;

    #[test]
    fn uses_share_one_budget_and_the_peak_is_kept() {
        let record = Mapped::create().expect("memfd");
        let (budget, device) = (VramBudget::new(10), &record.devices[0]);
        assert!(budget.take(Use::Chunks, 6, device) && budget.take(Use::Mapped, 4, device));
        assert!(!budget.take(Use::Plain, 1, device));
        budget.give_back(Use::Chunks, 6, device);
        assert_eq!((budget.left(), device.vram_chunks.load(Relaxed), device.vram_mapped.load(Relaxed)), (6, 0, 4));
        assert_eq!(device.vram_peak.load(Relaxed), 10);
        assert!(!budget.take(Use::Plain, u64::MAX, device));
    }
}
