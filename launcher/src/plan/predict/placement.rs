//! Which weights are in VRAM and which are not.

use super::calibration as fit;
use super::experts::ExpertSlots;
use crate::plan::facts::{Amount, ContextParams, Facts, POOLS, Split};
use greenboost_contract::settings::{GRANULE, RING_SHARE};
use serde::Serialize;

/// What a plan is asked for, with every choice made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// Bytes of VRAM that may be used.
    pub vram: u64,
    /// Bytes of RAM that may stand in for VRAM.
    pub ram: u64,
    /// Tokens, conversations, and what is kept of them.
    pub context: ContextParams,
    /// Whether the KV cache is in RAM: `-nkvo`.
    pub kv_in_ram: bool,
    /// Bytes of VRAM that weights are copied into, with a strategy that copies.
    pub ring: u64,
    /// Whether the user said so: else a strategy that needs less may take less.
    pub ring_is_fixed: bool,
}

/// Where everything is.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Placement {
    /// Weights in VRAM.
    pub inside: Split,
    /// Weights outside.
    pub outside: Split,
    /// Those of them that the CPU computes with in decode.
    pub cpu: Split,
    /// KV cache in VRAM.
    pub kv_inside: u64,
    /// KV cache outside.
    pub kv_outside: u64,
    /// llama.cpp's compute buffer.
    pub scratch: u64,
    /// Modules, cuBLAS, the program's pools.
    pub pools: u64,
    /// VRAM that weights are copied into.
    pub ring: u64,
    /// Copies of experts, all of which are outside, where those that are used most have some.
    pub expert_slots: Option<ExpertSlots>,
    /// Layers of which the CPU computes a part: each is handed to it and back.
    pub handovers: u64,
    /// Matrices outside that llama.cpp copies to the GPU by itself, for prompts.
    pub served: u64,
    /// llama.cpp's `-ngl`, where that makes the placement.
    pub gpu_layers: Option<u64>,
    /// llama.cpp's `-ncmoe`.
    pub cpu_moe: Option<u64>,
    /// Layers whose feed-forward networks, or experts, are left to the CPU one by one.
    pub cpu_layers: Vec<u64>,
}

/// Tensors that fit in a ring that is large enough: on an H200, copies of a dense model's weights hid as well with five as with
/// ten, and the VRAM of the others is better used by weights.
const SLOTS: u64 = 5;
/// While the first is read the second is copied, and the third is there already and waits until the first can be given up.
const LEAST_SLOTS: u64 = 3;

/// VRAM for this many tensors of a layer.
fn slots(facts: &Facts, count: u64) -> u64 {
    facts.largest.saturating_mul(count).next_multiple_of(GRANULE) + GRANULE
}

/// VRAM that weights are copied into, where nobody says how much: five of the largest tensors if they are a small part of it.
pub fn ring(facts: &Facts, vram: u64) -> u64 {
    let most = (vram / RING_SHARE).max(slots(facts, LEAST_SLOTS)).min(vram / 4);
    slots(facts, SLOTS).min(most) / GRANULE * GRANULE
}

impl Placement {
    /// Bytes of VRAM it takes.
    pub fn vram(&self) -> u64 {
        let copies = self.expert_slots.map_or(0, |slots| slots.bytes);
        let parts = [self.kv_inside, self.scratch, self.pools, self.ring, copies];
        parts.iter().fold(self.inside.bytes(), |sum, bytes| sum.saturating_add(*bytes))
    }

    /// Bytes of RAM it takes, besides what stays in the page cache.
    pub fn ram(&self) -> u64 {
        self.outside.bytes().saturating_add(self.kv_outside)
    }

    /// What is outside for the GPU, which reads it over the link.
    pub fn linked(&self) -> Split {
        rest(self.outside, self.cpu)
    }

    fn new(facts: &Facts, setting: &Setting) -> Self {
        let kv = facts.cache.bytes(&setting.context);
        let (kv_inside, kv_outside) = if setting.kv_in_ram { (0, kv) } else { (kv, 0) };
        Self {
            kv_inside,
            kv_outside,
            scratch: facts.widths.bytes(&setting.context),
            pools: POOLS,
            ring: setting.ring,
            ..Self::default()
        }
    }

    /// VRAM left for weights.
    fn room(&self, setting: &Setting) -> u64 {
        [self.kv_inside, self.scratch, self.pools, self.ring]
            .iter()
            .fold(setting.vram, |room, bytes| room.saturating_sub(*bytes))
    }

    /// Everything in VRAM, whether that fits or not.
    pub fn all_inside(facts: &Facts, setting: &Setting) -> Self {
        Self { inside: facts.computed(), ..Self::new(facts, setting) }
    }

    /// Weights that do not fit are outside whatever they are for: the last ones of the allocation.
    pub fn by_order(facts: &Facts, setting: &Setting) -> Self {
        let mut placement = Self::new(facts, setting);
        let all = facts.computed();
        let share = (placement.room(setting) as f64 / all.bytes().max(1) as f64).min(1.0);
        placement.inside = Split { dense: all.dense.times(share), experts: all.experts.times(share) };
        placement.outside = rest(all, placement.inside);
        placement
    }

    /// Experts leave VRAM first, since a token reads few of them; then feed-forward networks and attention.
    pub fn by_tensor(facts: &Facts, setting: &Setting) -> Self {
        Self::beside_cpu(facts, setting, Split::default())
    }

    /// The same, of what the CPU leaves.
    pub(super) fn beside_cpu(facts: &Facts, setting: &Setting, cpu: Split) -> Self {
        let mut placement = Self::new(facts, setting);
        let all = facts.computed();
        let left = rest(all, cpu);
        let room = placement.room(setting);
        let dense = part(left.dense, room);
        let experts = part(left.experts, room.saturating_sub(dense.bytes));
        placement.inside = Split { dense, experts };
        placement.outside = rest(all, placement.inside);
        placement.cpu = cpu;
        placement
    }

    /// All experts are outside, and what is left of the VRAM has copies of those that are used most.
    pub fn with_expert_slots(facts: &Facts, setting: &Setting) -> Self {
        let all = Split { dense: Amount::default(), experts: facts.computed().experts };
        let placement = Self { cpu: Split::default(), ..Self::beside_cpu(facts, setting, all) };
        let left = setting.vram.saturating_sub(placement.vram());
        Self { expert_slots: Some(ExpertSlots::new(facts, left)), ..placement }
    }

    /// llama.cpp's own offload, tuned: as many layers on the GPU as fit, or all of them and the experts of as many.
    pub fn offloaded(facts: &Facts, setting: &Setting) -> Self {
        let layers = facts.layers.len() as u64;
        let all = layers + facts.speculative + 1;
        let fits = |placement: &Self| placement.vram() <= setting.vram;
        let has_experts = facts.computed().experts.bytes > 0;
        let with_experts = (0..=layers).map(|cpu_moe| Self::layered(facts, setting, all, cpu_moe));
        if has_experts && let Some(found) = with_experts.into_iter().find(fits) {
            return found;
        }
        let cpu_moe = if has_experts { layers } else { 0 };
        let by_layer = (0..=all).rev().map(|gpu_layers| Self::layered(facts, setting, gpu_layers, cpu_moe));
        by_layer.into_iter().find(fits).unwrap_or_else(|| Self::layered(facts, setting, 0, cpu_moe))
    }

    /// The same with a ring in what whole layers leave of the VRAM, if some tensors fit there.
    pub fn prefetched(facts: &Facts, setting: &Setting) -> Self {
        if setting.ring_is_fixed {
            return Self::offloaded(facts, setting);
        }
        let least = slots(facts, LEAST_SLOTS);
        let most = setting.ring.max(GRANULE);
        let mut placement = Self::offloaded(facts, &Setting { ring: least.min(most), ..*setting });
        let left = setting.vram.saturating_sub(placement.vram());
        placement.ring = (placement.ring + left / GRANULE * GRANULE).min(most);
        placement
    }

    /// llama.cpp's `-ngl` counts from the end: the output, blocks that only guess ahead, the layers; `-ncmoe` from the front.
    pub fn layered(facts: &Facts, setting: &Setting, gpu_layers: u64, cpu_moe: u64) -> Self {
        let mut placement = Self::new(facts, setting);
        (placement.kv_inside, placement.kv_outside) = (0, 0);
        let first_on_gpu = (facts.layers.len() as u64 + facts.speculative + 1).saturating_sub(gpu_layers);
        for (index, cache) in (0u64..).zip(&facts.cache.layers) {
            let kv = facts.cache.layer_bytes(cache, &setting.context);
            let inside = index >= first_on_gpu && !setting.kv_in_ram;
            let place = if inside { &mut placement.kv_inside } else { &mut placement.kv_outside };
            *place = place.saturating_add(kv);
        }
        for (index, layer) in (0u64..).zip(&facts.layers) {
            let on_gpu = index >= first_on_gpu;
            let experts_on_gpu = on_gpu && index >= cpu_moe;
            add(&mut placement, on_gpu, layer.dense(), Amount::default());
            add(&mut placement, experts_on_gpu, Amount::default(), layer.experts());
            let leaves_experts = on_gpu && !experts_on_gpu && layer.experts().bytes > 0;
            placement.handovers += u64::from(leaves_experts);
            placement.served += match on_gpu {
                true => u64::from(leaves_experts) * fit::FFN_MATRICES,
                false => fit::LAYER_MATRICES,
            };
        }
        add(&mut placement, gpu_layers > 0, facts.output, Amount::default());
        placement.cpu = placement.outside;
        placement.gpu_layers = Some(gpu_layers);
        placement.cpu_moe = Some(cpu_moe).filter(|layers| *layers > 0);
        placement
    }
}

impl Placement {
    /// Weights of a layer on the GPU are the CPU's instead.
    pub(super) fn hand_over(&mut self, dense: Amount) {
        self.inside.dense = less(self.inside.dense, dense);
        self.outside.dense = self.outside.dense.plus(dense);
        self.handovers += 1;
        self.served += fit::FFN_MATRICES;
    }

    /// Of what is meant to be in VRAM, leaves outside what has no room there.
    pub(super) fn fit_inside(&mut self, setting: &Setting) {
        let (meant, room) = (self.inside, self.room(setting));
        let dense = part(meant.dense, room);
        let experts = part(meant.experts, room.saturating_sub(dense.bytes));
        self.inside = Split { dense, experts };
        self.outside = self.outside.plus(rest(meant, self.inside));
    }
}

fn add(placement: &mut Placement, inside: bool, dense: Amount, experts: Amount) {
    let side = if inside { &mut placement.inside } else { &mut placement.outside };
    side.dense = side.dense.plus(dense);
    side.experts = side.experts.plus(experts);
}

/// As much as fits.
fn part(amount: Amount, room: u64) -> Amount {
    if amount.bytes <= room { amount } else { amount.times(room as f64 / amount.bytes as f64) }
}

fn less(all: Amount, taken: Amount) -> Amount {
    Amount { bytes: all.bytes.saturating_sub(taken.bytes), weights: all.weights.saturating_sub(taken.weights) }
}

fn rest(all: Split, taken: Split) -> Split {
    Split { dense: less(all.dense, taken.dense), experts: less(all.experts, taken.experts) }
}
