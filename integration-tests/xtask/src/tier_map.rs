//! Where a process's memory lies, as a small table with bars.

use greenboost_contract::format_size;
use greenboost_contract::record::{MAX_BACKINGS, Record};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const WIDTH: u64 = 40;

/// One moment of a status record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TierMap {
    /// VRAM the process may take.
    pub vram_budget: u64,
    /// Where bytes lie: tier, place, bytes.
    rows: Vec<(&'static str, String, u64)>,
    /// Bytes evicted from VRAM to RAM.
    pub moved_out: u64,
}

impl TierMap {
    /// Reads the devices of a record together.
    pub fn of(record: &Record) -> Self {
        let used = (record.devices_used.load(Relaxed) as usize).min(record.devices.len());
        let devices = &record.devices[..used];
        let sum = |field: &dyn Fn(usize) -> u64| (0..used).map(field).sum::<u64>();
        let load = |cell: &AtomicU64| cell.load(Relaxed);
        let mut rows = vec![
            ("T1", "VRAM, chunks of large allocations".to_owned(), sum(&|d| load(&devices[d].vram_chunks))),
            ("T1", "VRAM, left to the driver".to_owned(), sum(&|d| load(&devices[d].vram_plain))),
            ("T1", "VRAM, mapped by the program".to_owned(), sum(&|d| load(&devices[d].vram_mapped))),
        ];
        for backing in 0..MAX_BACKINGS {
            let name = format!("system RAM, {}", record.backings[backing].get());
            rows.push(("T2", name, sum(&|d| load(&devices[d].ram[backing]))));
        }
        rows.retain(|(_, _, bytes)| *bytes > 0);
        Self {
            vram_budget: sum(&|d| load(&devices[d].vram_budget)),
            rows,
            moved_out: sum(&|d| load(&devices[d].moved_out)),
        }
    }

    /// All bytes, wherever they lie.
    pub fn total(&self) -> u64 {
        self.rows.iter().map(|(_, _, bytes)| bytes).sum()
    }

    /// Bytes outside VRAM.
    pub fn outside(&self) -> u64 {
        self.rows.iter().filter(|(tier, _, _)| *tier != "T1").map(|(_, _, bytes)| bytes).sum()
    }
}

impl fmt::Display for TierMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = self.total().max(1);
        for (tier, place, bytes) in &self.rows {
            // What is there is seen, however small it is beside the rest.
            let bar = "#".repeat(((bytes * WIDTH + most / 2) / most).max(1) as usize);
            writeln!(f, "  {tier}  {place:34} {:>10}  {bar}", format_size(*bytes))?;
        }
        write!(f, "      VRAM budget {}", format_size(self.vram_budget))?;
        if self.moved_out > 0 {
            write!(f, ", moved to RAM to make room {}", format_size(self.moved_out))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use greenboost_contract::record::Mapped;
    use greenboost_contract::settings::BACKING_NAMES;

    #[test]
    fn tiers_in_use_are_shown_with_their_share() {
        let record = Mapped::create().expect("memfd");
        record.devices_used.store(1, Relaxed);
        for (cell, name) in record.backings.iter().zip(BACKING_NAMES) {
            cell.set(name);
        }
        record.devices[0].vram_budget.store(64 << 20, Relaxed);
        record.devices[0].vram_chunks.store(48 << 20, Relaxed);
        record.devices[0].ram[0].store(144 << 20, Relaxed);
        let map = TierMap::of(&record);
        assert_eq!((map.total(), map.outside()), (192 << 20, 144 << 20));
        let text = map.to_string();
        let bars: Vec<usize> = text.lines().map(|line| line.matches('#').count()).collect();
        assert_eq!(bars, [10, 30, 0], "{text}");
        assert!(text.contains("T2  system RAM, kmod") && !text.contains("left to the driver"), "{text}");
    }
}
