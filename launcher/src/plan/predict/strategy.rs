//! The strategies for running a model, and what each needs to be set.

use super::experts;
use super::speed::{Decode, Prefill};
use crate::plan::facts::Facts;
use greenboost_contract::settings::{EXPERTS, HOST_COPY_PREFETCH, STREAM};
use greenboost_contract::{self as contract, ExpertCache, HostCopyPrefetch, Stream};
use serde::Serialize;

/// A strategy for running a model: those that a user can ask for, and one that nobody would.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Everything in VRAM.
    Vram,
    /// One address over VRAM and RAM, read in place, with each tensor in its place: experts leave VRAM first.
    ExtendInPlace,
    /// The same where the program's ggml cannot be listened to: what does not fit is whatever came last.
    ExtendBlind,
    /// By tensor, and weights outside are copied ahead of the kernels that use them.
    Extend,
    /// The framework's own: the CPU computes with what is outside, tuned to fill VRAM.
    Offload,
    /// The framework's own, with the copies for its prompts made ahead by GreenBoost.
    HostCopyPrefetch,
    /// The CPU computes the feed-forward networks of some layers while the link brings weights of the others.
    Combined,
    /// Streaming, with all experts in RAM, and copies of those that are used most in VRAM.
    Experts,
}

/// A row of [`STRATEGIES`].
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The strategy.
    pub strategy: Strategy,
    /// Its name, in reports, JSON and options.
    pub name: &'static str,
    /// What to ask for it by. Nobody can choose to be blind.
    pub asked_as: Option<contract::Strategy>,
    /// How decode reaches weights outside VRAM.
    pub decode: Decode,
    /// How a prompt does.
    pub prefill: Prefill,
    /// Whether some VRAM is a ring that weights are copied into.
    pub has_ring: bool,
    /// The variables it needs, beside llama.cpp's.
    pub sets: &'static [(&'static str, &'static str)],
}

const STREAMED: (&str, &str) = (STREAM, "on");
const IN_PLACE: (&str, &str) = (STREAM, "off");
const PREFETCHED: (&str, &str) = (HOST_COPY_PREFETCH, "on");
const EXPERTS_KEPT: (&str, &str) = (EXPERTS, "on");
const ALONE: (&str, &str) = (HOST_COPY_PREFETCH, "off");

/// The strategies, in the enum's order. All but the last have run on a real GPU: docs/benchmarks.
#[rustfmt::skip]
pub const STRATEGIES: &[Row] = &[
    Row { strategy: Strategy::Vram, name: "vram", asked_as: Some(contract::Strategy::Vram),
          decode: Decode::InPlace, prefill: Prefill::InPlace, has_ring: false, sets: &[] },
    Row { strategy: Strategy::ExtendInPlace, name: "extend-in-place", asked_as: Some(contract::Strategy::ExtendInPlace),
          decode: Decode::InPlace, prefill: Prefill::InPlace, has_ring: false, sets: &[IN_PLACE] },
    Row { strategy: Strategy::ExtendBlind, name: "extend-blind", asked_as: None,
          decode: Decode::InPlace, prefill: Prefill::InPlace, has_ring: false, sets: &[IN_PLACE] },
    Row { strategy: Strategy::Extend, name: "extend", asked_as: Some(contract::Strategy::Extend),
          decode: Decode::Streamed, prefill: Prefill::Ahead, has_ring: true, sets: &[STREAMED] },
    Row { strategy: Strategy::Offload, name: "offload", asked_as: Some(contract::Strategy::Offload),
          decode: Decode::Cpu, prefill: Prefill::Copied, has_ring: false, sets: &[ALONE] },
    Row { strategy: Strategy::HostCopyPrefetch, name: "host-copy-prefetch", asked_as: Some(contract::Strategy::HostCopyPrefetch),
          decode: Decode::Cpu, prefill: Prefill::AheadInBlock, has_ring: true, sets: &[PREFETCHED] },
    Row { strategy: Strategy::Combined, name: "combined", asked_as: Some(contract::Strategy::Combined),
          decode: Decode::CpuAndLink, prefill: Prefill::Ahead, has_ring: true, sets: &[STREAMED, PREFETCHED] },
    Row { strategy: Strategy::Experts, name: "experts", asked_as: Some(contract::Strategy::Experts),
          decode: Decode::Experts, prefill: Prefill::Ahead, has_ring: true, sets: &[STREAMED, EXPERTS_KEPT] },
];

impl Row {
    /// Whether weights are copied ahead of the kernels that read them.
    pub fn is_streamed(&self) -> bool {
        self.sets.contains(&STREAMED)
    }
}

impl Strategy {
    /// Its row.
    pub fn row(self) -> &'static Row {
        // Every strategy has a row, in the order of the enum; a test holds that.
        &STRATEGIES[self as usize]
    }

    /// The strategy that is asked for by this name.
    ///
    /// # Errors
    /// What is allowed.
    pub fn from_name(name: &str) -> Result<Self, String> {
        let named: contract::Strategy = name.parse()?;
        let found = STRATEGIES.iter().find(|row| row.asked_as == Some(named)).map(|row| row.strategy);
        found.ok_or_else(|| format!("{name} cannot be planned for"))
    }

    /// Whether the framework believes everything is on the GPU.
    pub fn is_extend(self) -> bool {
        matches!(self, Self::ExtendBlind | Self::ExtendInPlace | Self::Extend | Self::Experts)
    }

    /// Whether the CPU computes with some of the weights.
    pub fn uses_cpu(self) -> bool {
        matches!(self, Self::Offload | Self::HostCopyPrefetch | Self::Combined)
    }

    /// Whether llama.cpp is to read the file into pinned memory rather than to map it: what it copies by itself is copied
    /// three times as fast, but it takes three times as long to load. Where only some dense layers are the CPU's, whose
    /// copies are prefetched, a mapping is as fast.
    pub fn reads_file(self, has_experts: bool) -> bool {
        self.uses_cpu() && (has_experts || self != Self::Combined)
    }
}

/// What the user has already decided about the strategy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// The strategy itself.
    pub strategy: Option<Strategy>,
    /// Whether weights are streamed.
    pub stream: Option<Stream>,
    /// Whether llama.cpp's copies are served.
    pub host_copy_prefetch: Option<HostCopyPrefetch>,
    /// Whether the experts that are used most are in VRAM.
    pub experts: Option<ExpertCache>,
    /// No rule says how kernels have the numbers of chosen experts.
    pub no_expert_rules: bool,
}

impl Asked {
    /// Why a strategy cannot be had with this model and what the user has set.
    pub fn objection(&self, row: &Row, facts: &Facts) -> Option<String> {
        let fixed = |name: &str| match name {
            STREAM => self.stream.map(|stream| ("streaming", stream.name())),
            HOST_COPY_PREFETCH => self.host_copy_prefetch.map(|prefetch| ("host-copy prefetch", prefetch.name())),
            EXPERTS => self.experts.map(|experts| ("experts in VRAM", experts.name())),
            _ => None,
        };
        let impossible = experts::objection(facts, !self.no_expert_rules);
        if let Some(why) = impossible.filter(|_| row.strategy == Strategy::Experts) {
            return Some(why.to_owned());
        }
        if self.experts == Some(ExpertCache::On)
            && impossible.is_none()
            && ![Strategy::Vram, Strategy::Experts].contains(&row.strategy)
        {
            return Some("you have turned experts in VRAM on".to_owned());
        }
        let mut set = row.sets.iter().filter_map(|(name, value)| fixed(name).filter(|(_, is)| is != value));
        set.next().map(|(what, is)| format!("you have turned {what} {is}"))
    }
}
