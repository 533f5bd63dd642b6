//! The formulas of docs/speed.md: a decoded token reads every active weight once, a prompt every weight once a
//! micro-batch. Seconds come out; `None` where a figure they need was not measured.

use super::calibration as fit;
use super::machine::Machine;
use super::placement::Placement;
use crate::plan::facts::{Facts, Split};
use greenboost_contract::settings::ENOUGH_UPLOAD_THREADS;

/// How decode reaches weights outside VRAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decode {
    /// The GPU reads them over the link.
    InPlace,
    /// They are copied ahead of the kernels; chosen experts are read in place.
    Streamed,
    /// The same, and some of the chosen experts have copies in VRAM.
    Experts,
    /// The CPU computes with them.
    Cpu,
    /// The CPU computes with some while the link brings the others.
    CpuAndLink,
}

/// How a prompt reaches weights outside VRAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefill {
    /// The GPU reads them over the link, again for every tile of tokens.
    InPlace,
    /// They are copied ahead, while the GPU computes.
    Ahead,
    /// The same of a block of layers at one end of the model: nothing is to be copied while the GPU computes the others.
    AheadInBlock,
    /// They are copied, from pinned memory, while the GPU waits.
    Copied,
    /// They are copied from ordinary memory, while the GPU waits.
    CopiedPageable,
}

/// Seconds to bring gigabytes; nothing to bring takes no time at an unknown rate.
fn over(bytes: f64, rate: Option<f64>) -> Option<f64> {
    if bytes == 0.0 { Some(0.0) } else { rate.map(|rate| bytes / (rate * 1e9)) }
}

/// Seconds for a token.
pub fn decode(facts: &Facts, placement: &Placement, machine: &Machine, how: Decode) -> Option<f64> {
    let share = facts.active_share();
    let active = |split: &Split| (split.dense.bytes as f64, split.experts.bytes as f64 * share);
    let sum = |(dense, experts): (f64, f64)| dense + experts;
    let gpu = over(sum(active(&placement.inside)), machine.matvec)? + facts.layers.len() as f64 * fit::LAYER_SECONDS;
    let in_place = machine.in_place.map(|rate| rate * fit::MATVEC_IN_PLACE_SHARE);
    let cpu = sum(active(&placement.cpu));
    let (dense, experts) = active(&placement.linked());
    let handovers = placement.handovers as f64 * fit::HANDOVER_SECONDS;
    Some(match how {
        Decode::InPlace => gpu + over(dense + experts, in_place)?,
        Decode::Streamed => {
            let gpu = gpu + over(dense, machine.matvec)?;
            gpu.max(over(dense, machine.link)?) + over(experts, in_place)?
        }
        Decode::Experts => {
            let hit_rate = placement.expert_slots.map_or(0.0, |slots| slots.hit_rate);
            let missed = over(experts * (1.0 - hit_rate), in_place)?;
            let layers = facts.stacked.iter().filter(|layer| layer.tensors > 0).count() as f64;
            let numbers = layers * fit::EXPERT_LAUNCHES * fit::EXPERT_NUMBERS_SECONDS;
            let gpu = gpu + over(dense + experts * hit_rate, machine.matvec)?;
            gpu.max(over(dense, machine.link)?) + missed + numbers + missed.min(fit::PROMOTION_SECONDS)
        }
        Decode::Cpu => gpu + over(cpu, machine.cpu)? + handovers,
        Decode::CpuAndLink => {
            // GPU and CPU take turns in a token; the link works beside both, and what it copies the GPU still has to read.
            let experts_in_place = over(experts, in_place)?;
            let (copying, computing) = (over(dense, machine.link)?, over(cpu, machine.cpu)?);
            let others = gpu + over(dense, machine.matvec)? + experts_in_place + handovers;
            let copied_a_second = dense / 1e9 / copying.max(others + computing);
            let lost = (fit::CPU_BESIDE_LINK * copied_a_second).min(fit::CPU_LOSES_AT_MOST);
            let turns = others + computing / (1.0 - lost);
            let link = copying + experts_in_place;
            // Both read the same RAM; where only one of them has work, its own rate is the limit.
            let ram = if cpu > 0.0 { over(cpu + dense + experts, machine.together)? } else { 0.0 };
            turns.max(link).max(ram)
        }
    })
}

/// Seconds for a micro-batch of this many tokens.
pub fn prefill(facts: &Facts, placement: &Placement, machine: &Machine, ubatch: u64, how: Prefill) -> Option<f64> {
    let tokens = ubatch as f64;
    let (inside, outside) = (&placement.inside, &placement.outside);
    // Only the last token of a prompt goes through the output matrix.
    let output = facts.output.weights.min(inside.dense.weights);
    // A small batch computes less than it reads: then reading the weights from VRAM is what takes time.
    let read_inside = machine.vram.and_then(|rate| over(inside.bytes() as f64, Some(rate))).unwrap_or(0.0);
    let compute_inside = compute(facts, inside, output, tokens, machine)?.max(read_inside);
    let compute_outside = compute(facts, outside, facts.output.weights - output, tokens, machine)?;
    let compute = compute_inside + compute_outside;
    let (dense, experts) = (outside.dense.bytes as f64, outside.experts.bytes as f64);
    let copied = dense + experts * fit::CHOSEN_EXPERTS;
    Some(match how {
        Prefill::InPlace => {
            let readings = |tokens: f64| (tokens / fit::TILE_TOKENS).ceil().max(1.0);
            let read = dense * readings(tokens) + experts * readings(tokens * facts.active_share());
            compute_inside + compute_outside.max(over(read, machine.in_place)?)
        }
        Prefill::Ahead | Prefill::AheadInBlock => {
            // Whole tensors where we copy by ourselves; of those that llama.cpp copies, as much as it asks for.
            let unasked = placement.cpu.experts.bytes as f64 * (1.0 - fit::CHOSEN_EXPERTS);
            let copy = over(dense + experts - unasked, machine.link)?;
            let experts = if experts > 0.0 { experts / (dense + experts) } else { 0.0 };
            let (alone, beside) =
                if how == Prefill::Ahead { (0.0, compute) } else { (compute_inside, compute_outside) };
            let served = placement.served as f64 * tokens * fit::SERVED_SECONDS;
            alone + beside.max(copy) + beside.min(copy) * experts * fit::EXPERTS_OVERLAP_LOSS + served
        }
        Prefill::Copied => compute + over(copied, machine.link)?,
        Prefill::CopiedPageable => compute + over(copied, machine.pageable)?,
    })
}

fn compute(facts: &Facts, split: &Split, output: u64, tokens: f64, machine: &Machine) -> Option<f64> {
    let share = facts.active_share();
    let dense = split.dense.weights.saturating_sub(output) as f64;
    let expert_share = (fit::EXPERT_SHARE * (tokens * share).powf(fit::EXPERT_POWER)).min(1.0);
    let work = dense + split.experts.weights as f64 * share / expert_share;
    over(2.0 * work * tokens, machine.multiply)
}

/// Seconds until the model can answer, with its file in the page cache; and what reading it from disk adds. `is_read`: llama.cpp
/// reads the file rather than to map it.
pub fn load(facts: &Facts, placement: &Placement, machine: &Machine, is_read: bool) -> (Option<f64>, Option<f64>) {
    let disk = over(facts.file_bytes as f64, machine.disk);
    if is_read {
        let read = over(facts.file_bytes as f64, Some(fit::READ));
        return (read.map(|seconds| fit::START_SECONDS + seconds), disk);
    }
    let threads = machine.processors.map_or(1, |count| (count / 2).clamp(1, ENOUGH_UPLOAD_THREADS)) as f64;
    let upload = machine.pageable.zip(machine.link).map(|(one, link)| (one * threads).min(link * fit::UPLOAD_SHARE));
    let to_vram = over(placement.inside.bytes() as f64, upload);
    let mapped = over(placement.outside.bytes() as f64, Some(fit::REGISTERING));
    // llama.cpp makes a first pass before it answers.
    let first = over(placement.outside.dense.bytes as f64, machine.link);
    let parts = [Some(fit::START_SECONDS), to_vram, mapped, first].into_iter().sum();
    (parts, disk)
}
