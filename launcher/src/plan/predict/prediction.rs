//! What is expected of one strategy with its placement, and which of two is better.

use super::machine::Machine;
use super::placement::{Placement, Setting};
use super::strategy::{Row, Strategy};
use super::{calibration, speed};
use crate::plan::facts::{ContextParams, Facts};
use greenboost_contract::format_size;
use serde::Serialize;

/// The request that strategies are compared by: a prompt of a page or two, an answer of some paragraphs.
pub const PROMPT: u64 = 1024;
/// See [`PROMPT`].
pub const ANSWER: u64 = 256;

/// What is expected of a strategy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// The strategy.
    #[serde(rename = "strategy")]
    pub strategy: Strategy,
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
    /// Seconds for the request that strategies are compared by.
    pub request: Option<f64>,
}

impl Prediction {
    /// Whether it can be chosen.
    pub fn is_possible(&self) -> bool {
        self.problem.is_none()
    }
}

/// What comes of a placement, or why it cannot be had.
pub fn predict_placed(
    facts: &Facts,
    machine: &Machine,
    setting: &Setting,
    row: &Row,
    placement: Placement,
    objection: Option<String>,
) -> Prediction {
    let ubatch = setting.context.ubatch;
    let batch = speed::prefill(facts, &placement, machine, ubatch, row.prefill).filter(|seconds| *seconds > 0.0);
    let token = speed::decode(facts, &placement, machine, row.decode).filter(|seconds| *seconds > 0.0);
    let (load, read) = speed::load(facts, &placement, machine, row.strategy.reads_file(facts.experts > 0));
    let direct = row.is_streamed() && is_better_direct(facts, &placement, row.strategy, token);
    // A prompt shorter than the micro-batch still moves every weight once.
    let own_batch = speed::prefill(facts, &placement, machine, ubatch.min(PROMPT), row.prefill);
    let request = own_batch
        .zip(token)
        .map(|(batch, token)| batch * PROMPT.div_ceil(ubatch.max(1)) as f64 + token * ANSWER as f64);
    Prediction {
        strategy: row.strategy,
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
fn is_better_direct(facts: &Facts, placement: &Placement, strategy: Strategy, token: Option<f64>) -> bool {
    let linked = placement.linked();
    let copied = if strategy.uses_cpu() { linked.dense.bytes } else { linked.bytes() };
    let launching = facts.layers.len() as f64 * calibration::DIRECT_LAYER_SECONDS;
    strategy != Strategy::Experts && copied > 0 && token.is_none_or(|seconds| seconds > 2.0 * launching)
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

/// The best of what comes out for each micro-batch.
pub fn best_ubatch(
    setting: &Setting,
    ubatches: &[u64],
    predict: impl Fn(&Setting) -> Prediction,
) -> Option<Prediction> {
    let setting = |ubatch| Setting { context: ContextParams { ubatch, ..setting.context }, ..*setting };
    let tried = ubatches.iter().map(|ubatch| predict(&setting(*ubatch)));
    tried.reduce(|best, other| if is_better(&other, &best) { other } else { best })
}

/// Possible before impossible, known before unknown, fast before slow.
pub fn is_better(one: &Prediction, other: &Prediction) -> bool {
    let rank = |prediction: &Prediction| {
        (prediction.problem.is_some(), prediction.request.is_none(), prediction.request.unwrap_or(0.0))
    };
    rank(one) < rank(other)
}
