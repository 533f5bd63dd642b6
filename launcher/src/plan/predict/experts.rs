//! Copies of the experts that are used most, in the VRAM that everything else leaves.
//!
//! All experts are in RAM. Each layer has as many expert slots in VRAM as every other, one for each expert with a copy; which
//! those are follows from what tokens ask for, while the program runs. How many reads find a copy is the one figure
//! here that neither the file nor the machine tells.

use crate::plan::facts::Facts;
use greenboost_contract::settings::GRANULE;
use serde::Serialize;

/// Shares of a layer's experts that have copies, and of its reads that find one, in between along a straight line.
///
/// What an LRU for each layer hits of recorded routing (docs/speed.md): Qwen3-30B-A3B, Gemma-4-26B and gpt-oss-120b, the
/// middle of what the first two hit. The last hits 0.77 at a quarter and 0.84 at a half. docs/experts.md has what the policy makes
/// of the same recordings. A model whose tokens use all experts alike hits no more than the share that has copies.
const HITS: [(f64, f64); 5] = [(0.0, 0.0), (0.25, 0.80), (0.37, 0.90), (0.50, 0.955), (1.0, 1.0)];
/// Where [`HITS`] is from.
const HITS_FROM: &str = "recorded routing of other models";
/// What a cache that follows use hits of the share of reads that were of the most used experts, as counted afterwards. Of the same
/// recordings 0.96 to 1 with a quarter to half of the experts (gpt-oss-120b 0.85 to 0.91), of synthetic routing 0.91 to 0.97; of routing
/// that uses all alike 0.77 to 0.86.
const OF_COUNTED: f64 = 0.96;
/// Where that share is from.
const COUNTED_FROM: &str = "this model's own counts";

/// What a layer has copies of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ExpertSlots {
    /// Expert slots of a layer.
    pub slots: u64,
    /// Its experts.
    pub experts: u64,
    /// Those that a token uses.
    pub used: u64,
    /// Bytes of VRAM for the expert slots of all layers.
    pub bytes: u64,
    /// The share of reads that is expected to find a copy.
    pub hit_rate: f64,
    /// What that is expected by, for people.
    pub hit_rate_from: &'static str,
}

impl ExpertSlots {
    /// As many for every layer as there is room for in this many bytes.
    pub fn new(facts: &Facts, room: u64) -> Self {
        let sum = |of: fn(u64, &crate::plan::facts::Stacked) -> u64| facts.stacked.iter().fold(0, of);
        let one = sum(|sum, layer| sum.saturating_add(layer.expert_bytes));
        // A tensor's slots begin and end where its experts' addresses say: about a granule more is mapped than they take.
        let lost = sum(|sum, layer| sum + layer.tensors) * GRANULE;
        let slots = room.saturating_sub(lost).checked_div(one).unwrap_or(0).min(facts.experts);
        let recorded = hit_rate(slots, facts.experts, facts.experts_used);
        // Where nothing or everything has a copy, counts have nothing to say.
        let counted = facts.uses.share(slots).filter(|_| recorded > 0.0 && slots < facts.experts);
        let (hit_rate, hit_rate_from) = match counted {
            Some(share) => (share * OF_COUNTED, COUNTED_FROM),
            None => (recorded, HITS_FROM),
        };
        Self {
            slots,
            experts: facts.experts,
            used: facts.experts_used.min(facts.experts),
            bytes: if slots > 0 { lost + slots * one } else { 0 },
            hit_rate,
            hit_rate_from,
        }
    }

    /// Why they bring nothing.
    pub fn problem(&self) -> Option<String> {
        let Self { slots, used, .. } = self;
        (self.hit_rate == 0.0).then(|| {
            format!("VRAM is left for {slots} experts of a layer, and a token uses {used}: none would be kept")
        })
    }

    /// In words.
    pub fn text(&self) -> String {
        let Self { slots, experts, hit_rate, .. } = self;
        format!("{slots} of {experts} a layer in VRAM, {:.0}% of reads expected to hit", hit_rate * 100.0)
    }
}

/// The share of reads that find a copy. With fewer expert slots than a token uses, nothing is kept until it is asked for again.
fn hit_rate(slots: u64, experts: u64, used: u64) -> f64 {
    if slots < used.max(1) {
        return 0.0;
    }
    let share = (slots as f64 / experts.max(1) as f64).min(1.0);
    let above = HITS.partition_point(|(at, _)| *at < share).clamp(1, HITS.len() - 1);
    let ((from, low), (to, high)) = (HITS[above - 1], HITS[above]);
    low + (high - low) * (share - from) / (to - from)
}

/// Why a model cannot be run so, whatever the machine. `has_rules`: a kernel rule says where kernels have the experts' numbers.
pub fn objection(facts: &Facts, has_rules: bool) -> Option<&'static str> {
    if facts.experts == 0 {
        Some("the model has no experts")
    } else if !facts.has_stacked_experts() {
        Some("its experts are not stacked in one tensor, as files of today's llama.cpp have them")
    } else if !has_rules {
        Some("no kernel rule of the profile has read = \"experts\"")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::facts::Uses;
    use crate::plan::test_models::{dense, facts, moe};
    use greenboost_gguf::write::Writer;

    #[test]
    fn reads_hit_as_they_were_recorded_and_never_more_with_fewer_slots() {
        for (slots, hits) in [(0, 0.0), (32, 0.80), (64, 0.955), (128, 1.0)] {
            assert!((hit_rate(slots, 128, 8) - hits).abs() < 1e-9, "{slots}");
        }
        assert!((hit_rate(16, 128, 8) - 0.40).abs() < 1e-9, "half the way to a quarter");
        assert!((hit_rate(96, 128, 8) - 0.9775).abs() < 1e-9);
        assert_eq!((hit_rate(7, 128, 8), hit_rate(8, 128, 8) > 0.0), (0.0, true), "less than a token uses");
        let rates: Vec<_> = (0..=128).map(|slots| hit_rate(slots, 128, 8)).collect();
        assert!(rates.is_sorted(), "{rates:?}");
        assert_eq!(hit_rate(200, 128, 8), 1.0);
    }

    #[test]
    fn slots_take_what_there_is_and_no_more() {
        let moe = facts(&moe());
        let one: u64 = moe.stacked.iter().map(|layer| layer.expert_bytes).sum();
        assert_eq!(one * 128, moe.computed().experts.bytes);
        let lost = 3 * 48 * GRANULE;
        for (room, slots) in [(0, 0), (lost, 0), (lost + one - 1, 0), (lost + one, 1), (lost + 40 * one + 5, 40)] {
            let found = ExpertSlots::new(&moe, room);
            assert_eq!((found.slots, found.bytes <= room), (slots, true), "{room}: {found:?}");
            assert_eq!(found.problem().is_some(), slots < 8);
        }
        let all = ExpertSlots::new(&moe, u64::MAX);
        assert_eq!((all.slots, all.hit_rate), (128, 1.0));
        assert_eq!(
            ExpertSlots::new(&moe, lost + 32 * one).text(),
            "32 of 128 a layer in VRAM, 80% of reads expected to hit"
        );
    }

    #[test]
    fn a_models_own_counts_say_more_than_other_models() {
        let moe = facts(&moe());
        let room = 6 << 30;
        let slots = |uses: Uses| ExpertSlots::new(&moe.clone().with(uses), room);
        let none = slots(Uses::default());
        let alike = slots(Uses::new(vec![vec![50; 128]; 48]));
        let share = none.slots as f64 / 128.0;
        assert!(
            (alike.hit_rate - share * OF_COUNTED).abs() < 1e-9 && alike.hit_rate < none.hit_rate / 2.0,
            "{alike:?}"
        );
        assert_eq!((alike.hit_rate_from, none.hit_rate_from), (COUNTED_FROM, HITS_FROM));
        let few = slots(Uses::new(vec![(0..128).map(|expert| if expert % 16 == 3 { 900 } else { 1 }).collect(); 48]));
        assert!((0.9..1.0).contains(&few.hit_rate), "{few:?}");
        let all = ExpertSlots::new(&moe.with(Uses::new(vec![vec![50; 128]; 48])), u64::MAX);
        assert_eq!(all.hit_rate, 1.0);
    }

    #[test]
    fn what_has_no_stacked_experts_cannot_have_them_in_vram() {
        assert_eq!(objection(&facts(&moe()), true), None);
        assert!(objection(&facts(&moe()), false).is_some_and(|why| why.contains("kernel rule")));
        assert_eq!(objection(&facts(&dense()), true), Some("the model has no experts"));
        let layer = |tensors: &[(&str, &[u64])]| {
            let keys = [("block_count", 1), ("expert_count", 4), ("expert_used_count", 2)];
            let writer = Writer::default().text("general.architecture", "llama");
            let writer =
                keys.iter().fold(writer, |writer, (key, value)| writer.number(&format!("llama.{key}"), *value));
            let all = tensors.iter().fold(writer, |writer, (name, shape)| writer.tensor(name, shape, "F16"));
            objection(&facts(&all), true)
        };
        let stacked: (&str, &[u64]) = ("blk.0.ffn_gate_up_exps.weight", &[64, 64, 4]);
        assert_eq!(layer(&[stacked, ("blk.0.ffn_down_exps.bias", &[64, 4])]), None);
        let old: [(&str, &[u64]); 2] = [("blk.0.ffn_up.0.weight", &[64, 64]), ("blk.0.ffn_up.1.weight", &[64, 64])];
        assert!(layer(&old).is_some_and(|why| why.contains("stacked")), "a file of before");
        assert!(layer(&[("blk.0.ffn_up.weight", &[64, 64])]).is_some(), "it only says that it has experts");
    }
}
