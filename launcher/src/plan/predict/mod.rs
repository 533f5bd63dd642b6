//! How fast each way of running a model would be, and which wins.

pub mod calibration;
mod combined;
mod devices;
mod experts;
mod placement;
mod rig;
pub mod speed;
mod user;
mod way;

pub use combined::override_pattern;
pub use placement::{Placement, Setting, ring};
pub use rig::Rig;
pub use user::{UserPlacement, user_prediction};
pub use way::{Asked, Row, WAYS, Way};

use super::facts::{ContextParams, Facts};
use greenboost_contract::format_size;
use serde::Serialize;

/// The request that ways are compared by: a prompt of a page or two, an answer of some paragraphs.
pub const PROMPT: u64 = 1024;
/// See [`PROMPT`].
pub const ANSWER: u64 = 256;
/// Micro-batches that are tried when the user names none: llama.cpp's default, and one that hides more copying.
pub const UBATCHES: [u64; 2] = [512, 2048];

/// What is expected of a way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// The way.
    #[serde(rename = "strategy")]
    pub way: Way,
    /// Why it cannot be done here.
    pub problem: Option<String>,
    /// Tokens in a micro-batch.
    pub ubatch: u64,
    /// Where everything is.
    pub placement: Placement,
    /// Whether kernels are launched one by one, not in CUDA graphs.
    pub direct: bool,
    /// Prompt tokens a second.
    pub prefill: Option<f64>,
    /// Answer tokens a second, for one conversation.
    pub decode: Option<f64>,
    /// Seconds to load, with the file in the page cache.
    pub load: Option<f64>,
    /// Seconds that reading it from disk adds.
    pub read: Option<f64>,
    /// Seconds for the request that ways are compared by.
    pub request: Option<f64>,
}

impl Prediction {
    /// Whether it can be chosen.
    pub fn is_possible(&self) -> bool {
        self.problem.is_none()
    }
}

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

/// The best of what comes out for each micro-batch.
fn best_ubatch(setting: &Setting, ubatches: &[u64], predict: impl Fn(&Setting) -> Prediction) -> Option<Prediction> {
    let setting = |ubatch| Setting { context: ContextParams { ubatch, ..setting.context }, ..*setting };
    let tried = ubatches.iter().map(|ubatch| predict(&setting(*ubatch)));
    tried.reduce(|best, other| if is_better(&other, &best) { other } else { best })
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

/// Possible before impossible, known before unknown, fast before slow.
fn is_better(one: &Prediction, other: &Prediction) -> bool {
    let rank = |prediction: &Prediction| {
        (prediction.problem.is_some(), prediction.request.is_none(), prediction.request.unwrap_or(0.0))
    };
    rank(one) < rank(other)
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

fn predict_placed(
    facts: &Facts,
    rig: &Rig,
    setting: &Setting,
    row: &Row,
    placement: Placement,
    objection: Option<String>,
) -> Prediction {
    let ubatch = setting.context.ubatch;
    let batch = speed::prefill(facts, &placement, rig, ubatch, row.prefill).filter(|seconds| *seconds > 0.0);
    let token = speed::decode(facts, &placement, rig, row.decode).filter(|seconds| *seconds > 0.0);
    let (load, read) = speed::load(facts, &placement, rig, row.way.reads_file(facts.experts > 0));
    let direct = row.is_streamed() && is_better_direct(facts, &placement, row.way, token);
    // A prompt shorter than the micro-batch still moves every weight once.
    let own_batch = speed::prefill(facts, &placement, rig, ubatch.min(PROMPT), row.prefill);
    let request = own_batch
        .zip(token)
        .map(|(batch, token)| batch * PROMPT.div_ceil(ubatch.max(1)) as f64 + token * ANSWER as f64);
    Prediction {
        way: row.way,
        problem: objection.or_else(|| problem(&placement, setting)),
        ubatch,
        placement,
        direct,
        prefill: batch.map(|seconds| ubatch as f64 / seconds),
        decode: token.map(|seconds| 1.0 / seconds),
        load,
        read,
        request,
    }
}

/// Copies in a graph begin when it is launched, so none runs ahead from one to the next: from a token to the next one, from
/// a micro-batch to the next, across what the CPU computes in between. Without graphs they do, and the CPU has to launch
/// every kernel by itself, which does not show where a token takes much longer than that. Between turns of the CPU it does:
/// there answers have to gain by it, for which experts are not copied, and not prompts alone. Where experts have copies in
/// VRAM a token takes little longer than its launches.
fn is_better_direct(facts: &Facts, placement: &Placement, way: Way, token: Option<f64>) -> bool {
    let linked = placement.linked();
    let copied = if way.uses_cpu() { linked.dense.bytes } else { linked.bytes() };
    let launching = facts.layers.len() as f64 * calibration::DIRECT_LAYER_SECONDS;
    way != Way::Experts && copied > 0 && token.is_none_or(|seconds| seconds > 2.0 * launching)
}

fn problem(placement: &Placement, setting: &Setting) -> Option<String> {
    let size = |bytes| format_size(bytes);
    let (vram, ram) = (placement.vram(), placement.ram());
    if vram > setting.vram {
        return Some(format!("needs {} of VRAM, {} may be used", size(vram), size(setting.vram)));
    }
    if ram > setting.ram {
        return Some(format!("needs {} of RAM, {} may be used", size(ram), size(setting.ram)));
    }
    placement.expert_slots.and_then(|slots| slots.problem())
}

#[cfg(test)]
mod choice_tests;
#[cfg(test)]
mod measured_tests;
#[cfg(test)]
mod tests;
