//! The ways to run a model, and what each needs to be set.

use super::experts;
use super::speed::{Decode, Prefill};
use crate::plan::facts::Facts;
use greenboost_contract::settings::{EXPERTS, HOST_COPY_PREFETCH, STREAM};
use greenboost_contract::{ExpertCache, HostCopyPrefetch, Strategy, Stream};
use serde::Serialize;

/// A way to run a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Everything in VRAM.
    Vram,
    /// One address over VRAM and RAM, read in place, with each tensor in its place: experts leave VRAM first.
    #[serde(rename = "extend-in-place")]
    ExtendByTensor,
    /// The same where the program's ggml cannot be listened to: what does not fit is whatever came last.
    #[serde(rename = "extend-blind")]
    Extend,
    /// By tensor, and weights outside are copied ahead of the kernels that use them.
    #[serde(rename = "extend")]
    ExtendStreaming,
    /// The framework's own: the CPU computes with what is outside, tuned to fill VRAM.
    Offload,
    /// The framework's own, with the copies for its prompts made ahead by GreenBoost.
    #[serde(rename = "host-copy-prefetch")]
    Assist,
    /// The CPU computes the feed-forward networks of some layers while the link brings weights of the others.
    Combined,
    /// Streaming, with all experts in RAM, and copies of those that are used most in VRAM.
    Experts,
}

/// A row of [`WAYS`].
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The way.
    pub way: Way,
    /// Its name, in reports, JSON and options.
    pub name: &'static str,
    /// What to ask for it by. Nobody can choose to be blind.
    pub asked_as: Option<Strategy>,
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
const ASSISTED: (&str, &str) = (HOST_COPY_PREFETCH, "on");
const EXPERTS_KEPT: (&str, &str) = (EXPERTS, "on");
const ALONE: (&str, &str) = (HOST_COPY_PREFETCH, "off");

/// The ways, in the enum's order. All but the last have run on a real GPU: docs/benchmarks.
#[rustfmt::skip]
pub const WAYS: &[Row] = &[
    Row { way: Way::Vram, name: "vram", asked_as: Some(Strategy::Vram),
          decode: Decode::InPlace, prefill: Prefill::InPlace, has_ring: false, sets: &[] },
    Row { way: Way::ExtendByTensor, name: "extend-in-place", asked_as: Some(Strategy::ExtendInPlace),
          decode: Decode::InPlace, prefill: Prefill::InPlace, has_ring: false, sets: &[IN_PLACE] },
    Row { way: Way::Extend, name: "extend-blind", asked_as: None,
          decode: Decode::InPlace, prefill: Prefill::InPlace, has_ring: false, sets: &[IN_PLACE] },
    Row { way: Way::ExtendStreaming, name: "extend", asked_as: Some(Strategy::Extend),
          decode: Decode::Streamed, prefill: Prefill::Ahead, has_ring: true, sets: &[STREAMED] },
    Row { way: Way::Offload, name: "offload", asked_as: Some(Strategy::Offload),
          decode: Decode::Cpu, prefill: Prefill::Copied, has_ring: false, sets: &[ALONE] },
    Row { way: Way::Assist, name: "host-copy-prefetch", asked_as: Some(Strategy::HostCopyPrefetch),
          decode: Decode::Cpu, prefill: Prefill::AheadInBlock, has_ring: true, sets: &[ASSISTED] },
    Row { way: Way::Combined, name: "combined", asked_as: Some(Strategy::Combined),
          decode: Decode::CpuAndLink, prefill: Prefill::Ahead, has_ring: true, sets: &[STREAMED, ASSISTED] },
    Row { way: Way::Experts, name: "experts", asked_as: Some(Strategy::Experts),
          decode: Decode::Experts, prefill: Prefill::Ahead, has_ring: true, sets: &[STREAMED, EXPERTS_KEPT] },
];

impl Row {
    /// Whether weights are copied ahead of the kernels that read them.
    pub fn is_streamed(&self) -> bool {
        self.sets.contains(&STREAMED)
    }
}

impl Way {
    /// Its row.
    pub fn row(self) -> &'static Row {
        // Every way has a row, in the order of the enum; a test holds that.
        &WAYS[self as usize]
    }

    /// The way that is asked for by this name.
    ///
    /// # Errors
    /// What is allowed.
    pub fn from_name(name: &str) -> Result<Self, String> {
        let strategy: Strategy = name.parse()?;
        let found = WAYS.iter().find(|row| row.asked_as == Some(strategy)).map(|row| row.way);
        found.ok_or_else(|| format!("{name} cannot be planned for"))
    }

    /// Whether the framework believes everything is on the GPU.
    pub fn is_extend(self) -> bool {
        matches!(self, Self::Extend | Self::ExtendByTensor | Self::ExtendStreaming | Self::Experts)
    }

    /// Whether the CPU computes with some of the weights.
    pub fn uses_cpu(self) -> bool {
        matches!(self, Self::Offload | Self::Assist | Self::Combined)
    }

    /// Whether llama.cpp is to read the file into pinned memory rather than to map it: what it copies by itself is copied
    /// three times as fast, but it takes three times as long to load. Where few dense layers stay behind, and are served
    /// ahead, a mapping serves as well.
    pub fn reads_file(self, has_experts: bool) -> bool {
        self.uses_cpu() && (has_experts || self != Self::Combined)
    }
}

/// What the user has already decided about the way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// The way itself.
    pub way: Option<Way>,
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
    /// Why a way cannot be had with this model and what the user has set.
    pub fn objection(&self, row: &Row, facts: &Facts) -> Option<String> {
        let fixed = |name: &str| match name {
            STREAM => self.stream.map(|stream| ("streaming", stream.name())),
            HOST_COPY_PREFETCH => self.host_copy_prefetch.map(|prefetch| ("host-copy prefetch", prefetch.name())),
            EXPERTS => self.experts.map(|experts| ("experts in VRAM", experts.name())),
            _ => None,
        };
        let impossible = experts::objection(facts, !self.no_expert_rules);
        if let Some(why) = impossible.filter(|_| row.way == Way::Experts) {
            return Some(why.to_owned());
        }
        if self.experts == Some(ExpertCache::On)
            && impossible.is_none()
            && ![Way::Vram, Way::Experts].contains(&row.way)
        {
            return Some("you have turned experts in VRAM on".to_owned());
        }
        let mut set = row.sets.iter().filter_map(|(name, value)| fixed(name).filter(|(_, is)| is != value));
        set.next().map(|(what, is)| format!("you have turned {what} {is}"))
    }
}
