//! What streaming did on a device, as `greenboost status` shows it.

use greenboost_contract::format_size;
use greenboost_contract::record::DeviceRecord;
use serde::Serialize;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

/// Counts since the start; one count for each weight of each launch.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Streamed {
    /// Copied into staging slots, outside of graphs.
    pub bytes: u64,
    /// Found in a staging slot, or on the way to it.
    pub slot_hits: u64,
    /// Those of them whose copy was not complete when the launch was made.
    pub slot_late: u64,
    /// Had to be asked for.
    pub slot_misses: u64,
    /// Read outside VRAM, where they are.
    pub in_place: u64,
    /// Captured in graphs, which copy as much at each of their launches.
    pub captured_bytes: u64,
}

impl Streamed {
    /// From a status record.
    pub fn of(record: &DeviceRecord) -> Self {
        Self {
            bytes: record.streamed.load(Relaxed),
            slot_hits: record.slot_hits.load(Relaxed),
            slot_late: record.slot_late.load(Relaxed),
            slot_misses: record.slot_misses.load(Relaxed),
            in_place: record.in_place.load(Relaxed),
            captured_bytes: record.captured.load(Relaxed),
        }
    }

    /// One line for people, with `ring` bytes of staging slots; `None` where nothing was streamed or could have been.
    pub fn line(&self, ring: u64) -> Option<String> {
        if ring == 0 && self.bytes == 0 && self.captured_bytes == 0 {
            return None;
        }
        let mut line = format!("streamed {} through {}", format_size(self.bytes), format_size(ring));
        let asked = self.slot_hits + self.slot_misses;
        // Rounded so that 100% and 0% mean all and none.
        if let Some(found) = (self.slot_hits * 100).checked_div(asked) {
            let late = (self.slot_late * 100).div_ceil(asked);
            let _ = write!(line, ", {found}% found in a staging slot, {late}% late");
        }
        let _ = write!(line, ", {} read in place", self.in_place);
        if self.captured_bytes > 0 {
            let _ = write!(line, "; {} captured in graphs", format_size(self.captured_bytes));
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_percent_is_all_and_none_percent_is_none() {
        let line = |slot_hits, slot_late, slot_misses| {
            let streamed =
                Streamed { bytes: 12 << 30, slot_hits, slot_late, slot_misses, in_place: 7, captured_bytes: 0 };
            streamed.line(768 << 20).expect("a line")
        };
        let told = |rest: &str| format!("streamed 12 GiB through 768 MiB, {rest}, 7 read in place");
        assert_eq!(line(98, 3, 2), told("98% found in a staging slot, 3% late"));
        assert_eq!(line(9_999, 1, 1), told("99% found in a staging slot, 1% late"));
        assert_eq!(line(10_000, 0, 0), told("100% found in a staging slot, 0% late"));
        assert_eq!(line(0, 0, 0), "streamed 12 GiB through 768 MiB, 7 read in place");
    }

    #[test]
    fn nothing_is_said_of_a_device_that_does_not_stream() {
        let mut streamed = Streamed { in_place: 9, ..Streamed::default() };
        assert_eq!(streamed.line(0), None);
        streamed.captured_bytes = 1 << 20;
        assert!(streamed.line(2 << 20).expect("a line").ends_with("; 1 MiB captured in graphs"));
    }
}
