//! The ways to run a model, and which of them GreenBoost can do today.

use super::speed::{Decode, Prefill};
use serde::Serialize;

/// A way to run a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Everything in VRAM.
    Vram,
    /// One address over VRAM and RAM, read in place, with each tensor in its place: experts leave VRAM first.
    ExtendByTensor,
    /// The same where the program's ggml cannot be listened to: what does not fit is whatever came last.
    Extend,
    /// By tensor, and weights outside are copied ahead of the kernels that use them.
    ExtendStreaming,
    /// The framework's own: the CPU computes with what is outside, tuned to fill VRAM.
    Offload,
    /// The framework's own, with the copies for its prompts made ahead by GreenBoost.
    Assist,
    /// Assist, and the link brings weights while the CPU computes.
    Combined,
}

/// A row of [`WAYS`].
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The way.
    pub way: Way,
    /// In reports.
    pub name: &'static str,
    /// Whether this build of GreenBoost can do it. What it cannot is shown, and never chosen.
    pub built: bool,
    /// How decode reaches weights outside VRAM.
    pub decode: Decode,
    /// How a prompt does.
    pub prefill: Prefill,
}

const fn row(way: Way, name: &'static str, built: bool, decode: Decode, prefill: Prefill) -> Row {
    Row { way, name, built, decode, prefill }
}

/// What GreenBoost can do today: turn a row on in the change that makes the engine able to.
pub const WAYS: &[Row] = &[
    row(Way::Vram, "all in VRAM", true, Decode::InPlace, Prefill::InPlace),
    row(Way::ExtendByTensor, "extend, by tensor", true, Decode::InPlace, Prefill::InPlace),
    row(Way::Extend, "extend, blind", true, Decode::InPlace, Prefill::InPlace),
    row(Way::ExtendStreaming, "extend, streaming", true, Decode::Streamed, Prefill::Ahead),
    row(Way::Offload, "llama.cpp's CPU offload", true, Decode::Cpu, Prefill::Copied),
    row(Way::Assist, "assisted CPU offload", false, Decode::Cpu, Prefill::Ahead),
    row(Way::Combined, "CPU and link together", false, Decode::CpuAndLink, Prefill::Ahead),
];

impl Way {
    /// Its row.
    pub fn row(self) -> &'static Row {
        // Every way has a row, in the order of the enum; a test holds that.
        &WAYS[self as usize]
    }

    /// Whether the framework believes everything is on the GPU.
    pub fn is_extend(self) -> bool {
        matches!(self, Self::Extend | Self::ExtendByTensor | Self::ExtendStreaming)
    }
}
