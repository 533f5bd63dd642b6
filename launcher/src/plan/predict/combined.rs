//! How a token's work is split between the CPU and the link, so that both are done at the same time.
//!
//! The CPU gets the feed-forward networks of some layers, whole: they are most of a model, they need no cache, and what is
//! handed over is one vector each way. The layers are spread over the model, since the link runs ahead of the GPU only as
//! far as the ring reaches: between two layers of the CPU it brings what the GPU needs until the next one.
//!
//! The more layers the CPU has, the less the link has to bring. Every number of them is tried; the formula for decode
//! says which is best. Of a mixture of experts the CPU gets experts. Those that a token chose are read in place by the GPU,
//! not streamed, so nothing runs beside the CPU there, and what comes out is llama.cpp's own offload, spread.

use super::calibration as fit;
use super::machine::Machine;
use super::placement::{Placement, Setting};
use super::speed::{self, Decode};
use crate::plan::facts::{Amount, Class, Facts, Split, Weights};

impl Placement {
    /// The CPU's part and the link's, balanced.
    pub fn combined(facts: &Facts, setting: &Setting, machine: &Machine) -> Self {
        let layers = candidates(facts);
        // Where it is not known what both get of the RAM at once, the choice is made as if they did not meet there.
        let apart = machine.cpu.zip(machine.link).map(|(cpu, link)| cpu + link);
        let machine = Machine { together: machine.together.or(apart), ..*machine };
        let decode = |placement: &Self, machine: &Machine| speed::decode(facts, placement, machine, Decode::CpuAndLink);
        // Where the RAM is the limit every split takes the same: then it is the one that would be best without it.
        let seconds = |placement: &Self| {
            let free = Machine { together: Some(f64::MAX), ..machine };
            Some(decode(placement, &machine)? + RAM_IS_FREE * decode(placement, &free)?)
        };
        let mut tried = Vec::new();
        for count in 0..=layers.len() {
            let placement = Self::with_cpu_layers(facts, setting, spread(&layers, count));
            let is_last = placement.linked().bytes() == 0;
            tried.push((seconds(&placement), placement));
            // More would only empty VRAM.
            if is_last {
                break;
            }
        }
        // Without speeds there is nothing to balance by: half and half.
        let half = tried.len() / 2;
        let fastest = tried.iter().enumerate().filter_map(|(index, (seconds, _))| Some((index, (*seconds)?)));
        let best = fastest.min_by(|one, other| one.1.total_cmp(&other.1)).map_or(half, |(index, _)| index);
        tried.swap_remove(best).1
    }

    /// The CPU has the feed-forward networks, or the experts, of these layers.
    pub fn with_cpu_layers(facts: &Facts, setting: &Setting, layers: Vec<u64>) -> Self {
        let weights = layers.iter().filter_map(|layer| facts.layers.get(*layer as usize));
        let cpu = weights.fold(Split::default(), |sum, layer| sum.plus(cpu_part(facts, layer)));
        let handovers = layers.len() as u64;
        let served = handovers * fit::FFN_MATRICES;
        Self { handovers, served, cpu_layers: layers, ..Self::beside_cpu(facts, setting, cpu) }
    }
}

/// How little the second question counts beside the first.
const RAM_IS_FREE: f64 = 0.01;

/// Layers that have something for the CPU.
pub fn candidates(facts: &Facts) -> Vec<u64> {
    let layers = (0u64..).zip(&facts.layers);
    layers.filter(|(_, layer)| cpu_part(facts, layer).bytes() > 0).map(|(index, _)| index).collect()
}

/// What the CPU would compute of a layer: the tensors that [`override_pattern`] matches.
fn cpu_part(facts: &Facts, layer: &Weights) -> Split {
    match facts.experts {
        0 => Split { dense: layer.of(Class::Ffn), experts: Amount::default() },
        _ => Split { dense: Amount::default(), experts: layer.experts() },
    }
}

/// This many of the layers, with equal gaps.
fn spread(layers: &[u64], count: usize) -> Vec<u64> {
    (0..count).map(|index| layers[(2 * index + 1) * layers.len() / (2 * count)]).collect()
}

/// llama.cpp's override that puts these layers' feed-forward networks, or their experts, into the CPU's memory. It names
/// tensors as llama.cpp's own `-ncffn` and `-ncmoe` do: biases come along.
pub fn override_pattern(layers: &[u64], has_experts: bool) -> String {
    let numbers: Vec<_> = layers.iter().map(u64::to_string).collect();
    let tensors = if has_experts { "ffn_(up|down|gate|gate_up)_exps" } else { "ffn_(up|down|gate)" };
    format!(r"blk\.({})\.{tensors}\.=CPU", numbers.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_spread_and_none_is_taken_twice() {
        let layers: Vec<u64> = (0..64).collect();
        assert_eq!(spread(&layers, 4), [8, 24, 40, 56]);
        assert_eq!(spread(&layers, 64), layers);
        assert_eq!(spread(&layers, 0), [0; 0]);
        assert_eq!(spread(&[3, 7], 1), [7]);
        for count in 1..=64 {
            let mut chosen = spread(&layers, count);
            let gaps: Vec<_> = chosen.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let (least, most) = (gaps.iter().min(), gaps.iter().max());
            assert!(most.zip(least).is_none_or(|(most, least)| most - least <= 1), "{count}: {gaps:?}");
            chosen.dedup();
            assert_eq!(chosen.len(), count);
        }
    }

    #[test]
    fn an_override_matches_the_feed_forward_of_its_layers_and_nothing_else() {
        let dense = override_pattern(&[1, 3, 11], false);
        assert_eq!(dense, r"blk\.(1|3|11)\.ffn_(up|down|gate)\.=CPU");
        let experts = override_pattern(&[0], true);
        assert_eq!(experts, r"blk\.(0)\.ffn_(up|down|gate|gate_up)_exps\.=CPU");
        let matches = |pattern: &str, name: &str| {
            // llama.cpp splits at commas, then at the first equals sign, and searches in the name.
            assert!(!pattern.contains(','));
            let (expression, buffer) = pattern.split_once('=').expect("a buffer");
            assert_eq!(buffer, "CPU");
            regex::Regex::new(expression).expect("valid").is_match(name)
        };
        for name in ["blk.1.ffn_up.weight", "blk.3.ffn_gate.weight", "blk.11.ffn_down.weight", "blk.11.ffn_down.bias"] {
            assert!(matches(&dense, name), "{name}");
        }
        for name in ["blk.13.ffn_up.weight", "blk.2.ffn_up.weight", "blk.1.ffn_norm.weight", "blk.1.attn_q.weight"] {
            assert!(!matches(&dense, name), "{name}");
        }
        assert!(matches(&experts, "blk.0.ffn_gate_up_exps.weight") && matches(&experts, "blk.0.ffn_down_exps.bias"));
        for name in [
            "blk.0.ffn_up.weight",
            "blk.0.ffn_up_shexp.weight",
            "blk.0.ffn_gate_inp.weight",
            "blk.10.ffn_up_exps.weight",
        ] {
            assert!(!matches(&experts, name), "{name}");
        }
    }
}
