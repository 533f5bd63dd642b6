//! How fast each strategy would be, and which is the fastest.

pub mod calibration;
mod combined;
mod devices;
mod experts;
mod machine;
mod placement;
mod prediction;
pub mod speed;
mod strategy;
mod user;

pub use combined::override_pattern;
pub use machine::Machine;
pub use placement::{Placement, Setting, ring};
pub use prediction::{ANSWER, PROMPT, Prediction};
pub use strategy::{Asked, Row, STRATEGIES, Strategy};
pub use user::{UserPlacement, user_prediction};

use super::facts::Facts;
use prediction::{best_ubatch, is_better, predict_placed};

/// Micro-batches that are tried when the user names none: llama.cpp's default, and one that hides more copying.
pub const UBATCHES: [u64; 2] = [512, 2048];

/// Every strategy, with the micro-batch that suits it best among `ubatches`.
pub fn predictions(
    facts: &Facts,
    machine: &Machine,
    setting: &Setting,
    ubatches: &[u64],
    asked: &Asked,
) -> Vec<Prediction> {
    let best = |row: &Row| {
        let ring = if row.has_ring { setting.ring } else { 0 };
        best_ubatch(&Setting { ring, ..*setting }, ubatches, |setting| predict(facts, machine, setting, row, asked))
    };
    // Of a model without experts nobody wonders where they are.
    let is_meant =
        |row: &&Row| row.strategy != Strategy::Experts || facts.experts > 0 || asked.strategy == Some(row.strategy);
    let all: Vec<_> = STRATEGIES.iter().filter(is_meant).filter_map(best).collect();
    // Where everything fits nothing is outside, and the other strategies are this one under other names.
    match all.first() {
        Some(vram) if vram.is_possible() && asked.strategy.is_none_or(|strategy| strategy == Strategy::Vram) => {
            vec![vram.clone()]
        }
        _ => all,
    }
}

/// What becomes of a model over several GPUs, each with its free VRAM and the part of it that may be used: either all of the model fits there, or
/// nothing is planned.
pub fn over_devices(
    facts: &Facts,
    machine: &Machine,
    setting: &Setting,
    ubatches: &[u64],
    (free, budgets): (&[u64], &[u64]),
) -> Option<Prediction> {
    best_ubatch(&Setting { ring: 0, ..*setting }, ubatches, |setting| {
        let (placement, problem) = match devices::all_inside(facts, setting, free, budgets) {
            Ok(placement) => (placement, None),
            Err(problem) => (Placement::all_inside(facts, setting), Some(problem)),
        };
        predict_placed(facts, machine, setting, Strategy::Vram.row(), placement, problem)
    })
}

/// How much faster a strategy that needs the CPU has to be, in the time for the request that strategies are compared by. Other
/// programs want the CPU as well: with 4 threads of 16 llama.cpp's offload decodes half as fast, and beside a program that used
/// all of them it made 2 to 10 tokens a second, while what needs no CPU kept its speed (docs/speed.md).
const CPU_ADVANTAGE: f64 = 1.15;

/// The one to choose: of those that are possible, the fastest, or without the CPU nearly so; where no speed is known, the first.
/// The one that was asked for, or none.
pub fn winner(predictions: &[Prediction], asked: Option<Strategy>) -> Option<&Prediction> {
    let first = fastest(predictions, asked, |_| true)?;
    let seconds = first.request.filter(|_| first.strategy.uses_cpu());
    let without = fastest(predictions, asked, |strategy| !strategy.uses_cpu())
        .filter(|without| without.request.zip(seconds).is_some_and(|(without, with)| without < with * CPU_ADVANTAGE));
    Some(without.unwrap_or(first))
}

/// The fastest one, where it is not chosen because it needs the CPU.
pub fn passed_over(predictions: &[Prediction], asked: Option<Strategy>) -> Option<&Prediction> {
    let chosen = winner(predictions, asked)?;
    fastest(predictions, asked, |_| true).filter(|fastest| fastest.strategy != chosen.strategy)
}

fn fastest(predictions: &[Prediction], asked: Option<Strategy>, is_meant: fn(Strategy) -> bool) -> Option<&Prediction> {
    let is_meant = |prediction: &&Prediction| {
        asked.is_none_or(|strategy| strategy == prediction.strategy) && is_meant(prediction.strategy)
    };
    let possible = predictions.iter().filter(is_meant).filter(|prediction| prediction.is_possible());
    possible.reduce(|best, other| if is_better(other, best) { other } else { best })
}

fn predict(facts: &Facts, machine: &Machine, setting: &Setting, row: &Row, asked: &Asked) -> Prediction {
    let placement = match row.strategy {
        Strategy::Vram => Placement::all_inside(facts, setting),
        Strategy::ExtendBlind => Placement::by_order(facts, setting),
        Strategy::ExtendInPlace | Strategy::Extend => Placement::by_tensor(facts, setting),
        Strategy::Offload => Placement::offloaded(facts, setting),
        Strategy::HostCopyPrefetch => Placement::prefetched(facts, setting),
        Strategy::Combined => Placement::combined(facts, setting, machine),
        Strategy::Experts => Placement::with_expert_slots(facts, setting),
    };
    predict_placed(facts, machine, setting, row, placement, asked.objection(row, facts))
}

#[cfg(test)]
mod choice_tests;
#[cfg(test)]
mod measured_tests;
#[cfg(test)]
mod tests;
