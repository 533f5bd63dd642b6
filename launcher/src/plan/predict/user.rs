//! A placement that the user has made: it is described, not chosen.

use super::machine::Machine;
use super::placement::{Placement, Setting};
use super::prediction::{Prediction, best_ubatch, predict_placed};
use super::strategy::{Asked, Strategy};
use crate::plan::facts::{Class, Facts};
use greenboost_contract::{ExpertCache, Stream};

/// What the user has said about what goes where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserPlacement {
    /// The options, for reports: `-ngl -ncmoe`.
    pub said: String,
    /// Layers on the GPU, as `-ngl` counts them; `None`: all.
    pub gpu_layers: Option<u64>,
    /// First layers whose experts are the CPU's.
    pub cpu_moe: u64,
    /// First layers whose feed-forward networks are the CPU's.
    pub cpu_ffn: u64,
    /// Whether it goes by tensor or by device: it is named, and not followed.
    pub is_opaque: bool,
}

impl Placement {
    /// What the user gave to the CPU is there; the rest is in VRAM as far as it fits.
    pub fn by_user(facts: &Facts, setting: &Setting, user: &UserPlacement) -> Self {
        let all = facts.layers.len() as u64 + facts.speculative + 1;
        let gpu_layers = user.gpu_layers.map_or(all, |layers| layers.min(all));
        let mut layered = Self::layered(facts, setting, gpu_layers, user.cpu_moe.min(all));
        let first_on_gpu = all - gpu_layers;
        for (index, layer) in (0u64..).zip(&facts.layers) {
            if index < user.cpu_ffn && index >= first_on_gpu {
                layered.hand_over(layer.of(Class::Ffn));
            }
        }
        layered.cpu = layered.outside;
        layered.fit_inside(setting);
        layered
    }
}

/// What becomes of it, with the micro-batch that suits it best.
pub fn user_prediction(
    facts: &Facts,
    machine: &Machine,
    setting: &Setting,
    ubatches: &[u64],
    user: &UserPlacement,
    asked: &Asked,
) -> Option<Prediction> {
    best_ubatch(setting, ubatches, |setting| {
        let place = |ring| Placement::by_user(facts, &Setting { ring, ..*setting }, user);
        let placement = place(0);
        let (outside, cpu) = (placement.linked().bytes() > 0, placement.cpu.bytes() > 0);
        if outside
            && !cpu
            && let Some(kept) = with_experts(facts, setting, asked)
        {
            return predict_placed(facts, machine, setting, Strategy::Experts.row(), kept, None);
        }
        let streams = asked.stream != Some(Stream::Off);
        let strategy = match (outside, cpu) {
            (false, false) => Strategy::Vram,
            (false, true) => Strategy::Offload,
            (true, false) if streams => Strategy::Extend,
            (true, false) => Strategy::ExtendInPlace,
            (true, true) => Strategy::Combined,
        };
        let row = strategy.row();
        let placement = if row.has_ring { place(setting.ring) } else { placement };
        predict_placed(facts, machine, setting, row, placement, None)
    })
}

/// Where everything is that a user has left on the GPU who has turned experts in VRAM on, if that brings anything.
fn with_experts(facts: &Facts, setting: &Setting, asked: &Asked) -> Option<Placement> {
    let is_on = asked.experts == Some(ExpertCache::On) && asked.objection(Strategy::Experts.row(), facts).is_none();
    let placement = is_on.then(|| Placement::with_expert_slots(facts, setting))?;
    placement.expert_slots.is_some_and(|slots| slots.problem().is_none()).then_some(placement)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{h200, setting};
    use super::*;
    use crate::plan::test_models::{dense, facts, moe};

    fn predicted(facts: &Facts, vram: u64, user: &UserPlacement) -> Prediction {
        let setting = Setting { ring: 1 << 30, ..setting(vram, 8192, 512) };
        let machine = Machine::new(&h200());
        user_prediction(facts, &machine, &setting, &[512], user, &Asked::default()).expect("one")
    }

    #[test]
    fn layers_the_user_left_to_the_cpu_are_the_cpus() {
        let dense = facts(&dense());
        let some = UserPlacement { gpu_layers: Some(20), ..UserPlacement::default() };
        let few = predicted(&dense, 12, &some);
        // The output counts as one.
        let cpu: u64 = dense.layers[..45].iter().map(|layer| layer.dense().bytes).sum();
        assert_eq!(
            (few.strategy, few.placement.cpu.bytes(), few.placement.linked().bytes()),
            (Strategy::Offload, cpu, 0)
        );
        let all = predicted(&dense, 12, &UserPlacement::default());
        assert_eq!((all.strategy, all.placement.cpu.bytes()), (Strategy::Extend, 0));
        assert!(all.placement.linked().bytes() > 0 && all.placement.vram() <= 12 << 30, "{:?}", all.placement);
        assert_eq!(predicted(&dense, 100, &UserPlacement::default()).strategy, Strategy::Vram);
        assert!(few.decode < all.decode, "45 layers on a CPU: {:?} and {:?}", few.decode, all.decode);
    }

    #[test]
    fn experts_and_feed_forward_networks_are_counted_from_the_front() {
        let moe = facts(&moe());
        let experts: u64 = moe.layers[..10].iter().map(|layer| layer.experts().bytes).sum();
        let ten = predicted(&moe, 100, &UserPlacement { cpu_moe: 10, ..UserPlacement::default() });
        assert_eq!((ten.placement.cpu.bytes(), ten.placement.handovers), (experts, 10));
        let every = predicted(&moe, 100, &UserPlacement { cpu_moe: u64::MAX, ..UserPlacement::default() });
        assert_eq!(every.placement.inside.experts.bytes, 0);
        let dense = facts(&dense());
        let ffn: u64 = dense.layers[..3].iter().map(|layer| layer.of(Class::Ffn).bytes).sum();
        let three = predicted(&dense, 100, &UserPlacement { cpu_ffn: 3, ..UserPlacement::default() });
        assert_eq!(three.placement.cpu.bytes(), ffn);
        // What fits neither is streamed beside the CPU.
        let both = predicted(&dense, 8, &UserPlacement { cpu_ffn: 3, ..UserPlacement::default() });
        assert_eq!(both.strategy, Strategy::Combined);
        assert!(both.placement.linked().bytes() > 0);
    }
    #[test]
    fn experts_that_the_user_keeps_in_vram_by_use_are_described_so() {
        let moe = facts(&moe());
        let setting = |vram| Setting { ring: 1 << 30, ..setting(vram, 8192, 512) };
        let machine = Machine::new(&h200());
        let on = Asked { experts: Some(ExpertCache::On), ..Asked::default() };
        let strategy = |vram, user: UserPlacement, asked: &Asked| {
            user_prediction(&moe, &machine, &setting(vram), &[512], &user, asked).map(|prediction| prediction.strategy)
        };
        let all = UserPlacement::default;
        assert_eq!(strategy(8, all(), &on), Some(Strategy::Experts));
        assert_eq!(strategy(8, all(), &Asked::default()), Some(Strategy::Extend));
        assert_eq!(strategy(100, all(), &on), Some(Strategy::Vram));
        assert_eq!(strategy(8, UserPlacement { cpu_moe: 48, ..all() }, &on), Some(Strategy::Offload));
        assert_eq!(strategy(3, all(), &on), Some(Strategy::Extend), "too few would be kept");
        assert_eq!(strategy(8, all(), &Asked { no_expert_rules: true, ..on }), Some(Strategy::Extend));
    }
}
