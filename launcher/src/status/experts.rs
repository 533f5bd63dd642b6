//! What keeping the most used experts in VRAM did on a device, as `greenboost status` shows it.

use greenboost_contract::format_size;
use greenboost_contract::record::DeviceRecord;
use serde::Serialize;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

/// Counts since the start.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Experts {
    /// VRAM of the copies, and of tables.
    pub vram_bytes: u64,
    /// Copies that the layer with the fewest has a place for.
    pub slots: u64,
    /// Experts of a layer.
    pub experts: u64,
    /// Layers with such places.
    pub layers: u64,
    /// Experts that tokens were sent to, one for each layer.
    pub reads: u64,
    /// Those of them that were read in VRAM.
    pub hits: u64,
    /// Experts copied to VRAM.
    pub moves: u64,
    /// Bytes of those.
    pub moved_bytes: u64,
    /// Launches whose parameters were not as the profile says.
    pub unfit: u64,
}

impl Experts {
    /// From a status record.
    pub fn of(record: &DeviceRecord) -> Self {
        Self {
            vram_bytes: record.vram_experts.load(Relaxed),
            slots: record.expert_slots.load(Relaxed),
            experts: record.experts.load(Relaxed),
            layers: record.expert_layers.load(Relaxed),
            reads: record.expert_reads.load(Relaxed),
            hits: record.expert_hits.load(Relaxed),
            moves: record.expert_moves.load(Relaxed),
            moved_bytes: record.expert_bytes.load(Relaxed),
            unfit: record.expert_unfit.load(Relaxed),
        }
    }

    /// One line for people; `None` where no experts were ever looked at.
    pub fn line(&self) -> Option<String> {
        if self.experts == 0 && self.unfit == 0 {
            return None;
        }
        let Self { slots, experts, layers, .. } = self;
        let mut line = format!("experts: {slots} of {experts} a layer in VRAM, {layers} layers");
        if let Some(rate) = (self.hits * 1000).checked_div(self.reads) {
            let _ = write!(line, "; {}.{}% of reads found there", rate / 10, rate % 10);
        }
        let _ = write!(line, "; {} brought in ({})", self.moves, format_size(self.moved_bytes));
        if self.unfit > 0 {
            let _ = write!(line, "; {} launches were not as the profile says", self.unfit);
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_many_are_in_vram_and_how_often_they_are_found() {
        let (slots, experts, layers, reads, hits) = (40, 128, 48, 10_000, 9129);
        let counted =
            Experts { slots, experts, layers, reads, hits, moves: 7, moved_bytes: 3 << 20, ..Experts::default() };
        let line = "experts: 40 of 128 a layer in VRAM, 48 layers; 91.2% of reads found there; 7 brought in (3 MiB)";
        assert_eq!(counted.line().as_deref(), Some(line));
        assert_eq!(Experts::default().line(), None);
        let unfit = Experts { unfit: 3, ..Experts::default() }.line().unwrap_or_default();
        assert!(unfit.ends_with("3 launches were not as the profile says"), "{unfit}");
    }
}
