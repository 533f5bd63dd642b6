//! How fast each way of running a model would be, and which wins.

pub mod calibration;
mod combined;
mod devices;
mod experts;
mod placement;
mod prediction;
mod rig;
pub mod speed;
mod user;
mod way;

pub use combined::override_pattern;
pub use placement::{Placement, Setting, ring};
pub use prediction::{ANSWER, PROMPT, Prediction};
pub use rig::Rig;
pub use user::{UserPlacement, user_prediction};
pub use way::{Asked, Row, WAYS, Way};

use super::facts::Facts;
use prediction::{best_ubatch, is_better, predict_placed};

/// Micro-batches that are tried when the user names none: llama.cpp's default, and one that hides more copying.
pub const UBATCHES: [u64; 2] = [512, 2048];

/// Every way, with the micro-batch that suits it best among `ubatches`.
pub fn predictions(facts: &Facts, rig: &Rig, setting: &Setting, ubatches: &[u64], asked: &Asked) -> Vec<Prediction> {
    let best = |row: &Row| {
        let ring = if row.has_ring { setting.ring } else { 0 };
        best_ubatch(&Setting { ring, ..*setting }, ubatches, |setting| predict(facts, rig, setting, row, asked))
    };
    // Of a model without experts nobody wonders where they are.
    let is_meant = |row: &&Row| row.way != Way::Experts || facts.experts > 0 || asked.way == Some(row.way);
    let all: Vec<_> = WAYS.iter().filter(is_meant).filter_map(best).collect();
    // Where everything fits nothing is outside, and the other ways are this one under other names.
    match all.first() {
        Some(vram) if vram.is_possible() && asked.way.is_none_or(|way| way == Way::Vram) => vec![vram.clone()],
        _ => all,
    }
}

/// What becomes of a model over several GPUs, each with so much free VRAM and a part of it to use: all of it there, or nothing.
pub fn over_devices(
    facts: &Facts,
    rig: &Rig,
    setting: &Setting,
    ubatches: &[u64],
    (free, budgets): (&[u64], &[u64]),
) -> Option<Prediction> {
    best_ubatch(&Setting { ring: 0, ..*setting }, ubatches, |setting| {
        let (placement, problem) = match devices::all_inside(facts, setting, free, budgets) {
            Ok(placement) => (placement, None),
            Err(problem) => (Placement::all_inside(facts, setting), Some(problem)),
        };
        predict_placed(facts, rig, setting, Way::Vram.row(), placement, problem)
    })
}

/// How much faster a way that needs the CPU has to be, in the time for the request that ways are compared by. Other programs want
/// the CPU as well: with 4 threads of 16 llama.cpp's offload decodes half as fast, and beside a program that used all of them it
/// made 2 to 10 tokens a second of 52, while what needs no CPU kept its speed (DESIGN.md, part 2).
const CPU_ADVANTAGE: f64 = 1.15;

/// The one to choose: of those that are possible, the fastest, or without the CPU nearly so; where no speed is known, the first.
/// The one that was asked for, or none.
pub fn winner(predictions: &[Prediction], asked: Option<Way>) -> Option<&Prediction> {
    let first = fastest(predictions, asked, |_| true)?;
    let seconds = first.request.filter(|_| first.way.uses_cpu());
    let without = fastest(predictions, asked, |way| !way.uses_cpu())
        .filter(|without| without.request.zip(seconds).is_some_and(|(without, with)| without < with * CPU_ADVANTAGE));
    Some(without.unwrap_or(first))
}

/// The fastest one, where it is not chosen because it needs the CPU.
pub fn passed_over(predictions: &[Prediction], asked: Option<Way>) -> Option<&Prediction> {
    let chosen = winner(predictions, asked)?;
    fastest(predictions, asked, |_| true).filter(|fastest| fastest.way != chosen.way)
}

fn fastest(predictions: &[Prediction], asked: Option<Way>, is_meant: fn(Way) -> bool) -> Option<&Prediction> {
    let is_meant = |prediction: &&Prediction| asked.is_none_or(|way| way == prediction.way) && is_meant(prediction.way);
    let possible = predictions.iter().filter(is_meant).filter(|prediction| prediction.is_possible());
    possible.reduce(|best, other| if is_better(other, best) { other } else { best })
}

fn predict(facts: &Facts, rig: &Rig, setting: &Setting, row: &Row, asked: &Asked) -> Prediction {
    let placement = match row.way {
        Way::Vram => Placement::all_inside(facts, setting),
        Way::Extend => Placement::by_order(facts, setting),
        Way::ExtendByTensor | Way::ExtendStreaming => Placement::by_tensor(facts, setting),
        Way::Offload => Placement::offloaded(facts, setting),
        Way::Assist => Placement::assisted(facts, setting),
        Way::Combined => Placement::combined(facts, setting, rig),
        Way::Experts => Placement::with_expert_slots(facts, setting),
    };
    predict_placed(facts, rig, setting, row, placement, asked.objection(row, facts))
}

#[cfg(test)]
mod choice_tests;
#[cfg(test)]
mod measured_tests;
#[cfg(test)]
mod tests;
