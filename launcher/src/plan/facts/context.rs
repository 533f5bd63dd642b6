//! What llama.cpp's context parameters decide about memory: how many tokens are kept, for how many conversations, and in
//! which types.

use greenboost_gguf::TensorType;

/// llama.cpp rounds a context, and a window's cache, up to this many tokens.
const STEP: u64 = 256;

/// The types of a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvTypes {
    /// Of keys.
    pub k: TensorType,
    /// Of values.
    pub v: TensorType,
}

impl KvTypes {
    /// The same type for both; `None` when there is no such type.
    pub fn both(name: &str) -> Option<Self> {
        TensorType::from_name(name).map(|kind| Self { k: kind, v: kind })
    }
}

/// How a program keeps its conversations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextParams {
    /// Tokens over all conversations, as asked for: `-c`.
    pub tokens: u64,
    /// Conversations at once: `-np`.
    pub slots: u64,
    /// Whether they share one cache, `-kvu`; each has its part of the tokens otherwise.
    pub unified: bool,
    /// Tokens in a micro-batch: `-ub`.
    pub ubatch: u64,
    /// Types of the KV cache: `-ctk`, `-ctv`.
    pub kv: KvTypes,
    /// Whether layers with a window keep the whole context as well: `--swa-full`.
    pub full_windows: bool,
    /// Whether values are kept as tokens are; without flash attention (`-fa off`) they are kept transposed, and as wide in
    /// every layer as in the widest.
    pub flash_attention: bool,
    /// Tokens of a micro-batch whose logits are computed: one for each conversation in llama-server; `None`: all of them.
    pub outputs: Option<u64>,
}

impl ContextParams {
    /// One conversation, and what llama.cpp does without further options.
    pub fn new(tokens: u64, ubatch: u64, kv: KvTypes) -> Self {
        Self {
            tokens,
            slots: 1,
            unified: true,
            ubatch,
            kv,
            full_windows: false,
            flash_attention: true,
            outputs: Some(1),
        }
    }

    /// For this many conversations, which share one cache or not.
    #[must_use]
    pub fn with_slots(self, slots: u64, unified: bool) -> Self {
        Self { slots, unified, outputs: Some(slots), ..self }
    }

    /// Caches beside each other.
    pub fn streams(&self) -> u64 {
        if self.unified { 1 } else { self.slots.max(1) }
    }

    /// Tokens in each of them.
    pub fn cells(&self) -> u64 {
        let all = padded(self.tokens);
        if self.unified { all } else { padded(all / self.streams()) }
    }

    /// Tokens in a window's cache that this many conversations share.
    pub fn window_cells(&self, window: u64, sharing: u64) -> u64 {
        if self.full_windows {
            return self.cells();
        }
        let seen = window.saturating_mul(sharing).saturating_add(self.ubatch);
        padded(seen.min(self.cells()))
    }
}

/// Rounded up as llama.cpp does it.
pub(super) fn padded(tokens: u64) -> u64 {
    tokens.checked_next_multiple_of(STEP).unwrap_or(u64::MAX)
}
