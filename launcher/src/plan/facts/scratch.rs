//! Memory for what is neither weights nor cache: llama.cpp's compute buffer, in which the tensors of a graph take
//! turns. Its size is what is needed where a layer is widest. What that is was read off the buffers that llama.cpp
//! v0.5.0 reserves (`sched_reserve`), layer shape by layer shape: within some percent of them, and above rather than below.

use super::{ContextParams, Kept, Keys, LayerCache};
use greenboost_gguf::Tensor;

/// Modules, cuBLAS and the program's pools. The driver's context is not in it: neither a budget nor the figure of what is
/// free counts that. The runs of docs/speed.md leave 0.3 GiB (MoE) to 0.8 GiB (dense) for this.
pub const POOLS: u64 = 384 << 20;

/// Numbers are computed in 32 bits.
const BYTES: u64 = 4;
/// A token's number, its position and where it goes: too little to count, but never nothing.
const INPUTS: u64 = 8;
/// Numbers of a state-space layer for each of its inner ones: where keys are in groups, and where they are not.
const GROUPED_STATE: u64 = 8;
/// See [`GROUPED_STATE`].
const SINGLE_STATE: u64 = 7;
/// Copies of each conversation's state.
const STATE_COPIES: u64 = 2;
/// Widths of the residual stream that RWKV mixes of a token.
const MIXED: u64 = 20;

/// How wide a model's graph is, in numbers for each token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Widths {
    /// The widest place of any layer, without what attention needs for each pair of tokens.
    widest: u64,
    /// A state-space layer, and its state.
    state: (u64, u64),
    /// Attention that is computed in pairs: queries, keys and values.
    attention: u64,
    /// Heads, each with a number for each pair.
    heads: u64,
    /// What is beside the logits.
    beside_logits: u64,
    /// The vocabulary.
    logits: u64,
    /// Whether some layers look at all tokens: that takes a mask.
    sees_all: bool,
    /// The window of others, which takes another.
    window: Option<u64>,
}

impl Widths {
    /// Of a file with this many layers.
    pub(super) fn new(
        keys: &Keys<'_>,
        tensors: &[Tensor],
        layers: usize,
        caches: &[LayerCache],
        vocabulary: u64,
    ) -> Self {
        let number = |key: &str| keys.number(key).unwrap_or(0);
        let width = number("embedding_length");
        let heads = number("attention.head_count");
        let head = keys.number("attention.key_length").unwrap_or_else(|| width.checked_div(heads).unwrap_or(0));
        let queries = heads.saturating_mul(head);
        // What a layer of so many feed-forward numbers leaves of the room that wide queries had is lost to it.
        let is_latent = number("attention.key_length_mla") > 0;
        let lost = |ffn: u64| if is_latent { 0 } else { queries.saturating_sub(width).min(ffn) };
        let times = |count: u64, value: u64| count.saturating_mul(value);
        let sum = |parts: &[u64]| parts.iter().fold(0, |sum: u64, part| sum.saturating_add(*part));
        // Not every file with such experts has a key for them.
        let is_shared = tensors.iter().any(|tensor| tensor.name.contains("_shexp."))
            || ["expert_shared_count", "expert_shared_feed_forward_length"].iter().any(|key| number(key) > 0);
        let of_layer = |layer: usize| {
            let dense = keys.of_layer("feed_forward_length", layer).unwrap_or(0);
            let dense_leads = (layer as u64) < number("leading_dense_block_count");
            let used = keys.of_layer("expert_used_count", layer).filter(|_| !dense_leads).unwrap_or(0);
            if used == 0 {
                // Gate, up and their product, and what every layer has: its input, its normed input, two more.
                return sum(&[times(3, dense), times(4, width), lost(dense)]);
            }
            let chosen = times(used, keys.of_layer("expert_feed_forward_length", layer).unwrap_or(dense));
            let results = times(used, width);
            // They go where gate and up were, if they are no larger than those.
            let results = if results > times(2, chosen) { results } else { 0 };
            // A shared expert has its result beside theirs, in room that is there if they have more than they need.
            let beside = match (is_shared, results) {
                (true, 0) => width,
                (true, _) => 0,
                (false, _) => lost(chosen),
            };
            sum(&[times(3, chosen), results, times(4, width), beside])
        };
        let layer = (0..layers).map(of_layer).max().unwrap_or(0);
        let inputs_by_layer = times(3, times(number("embedding_length_per_layer_input"), layers as u64));
        let latent = if is_latent {
            let lengths = ["key_length", "value_length", "key_length_mla", "value_length_mla"];
            let lengths = lengths.map(|key| number(&format!("attention.{key}")));
            let index = times(number("attention.indexer.head_count"), number("attention.indexer.key_length"));
            sum(&[times(heads, sum(&lengths)), times(5, width), index.saturating_add(index / 2)])
        } else {
            0
        };
        let grouped = if number("ssm.group_count") > 0 { GROUPED_STATE } else { SINGLE_STATE };
        let inner = number("ssm.inner_size");
        let mixed = if number("wkv.head_size") > 0 { times(MIXED, width) } else { 0 };
        let attention = sum(&[times(2, queries), times(4, width)]);
        let stages = [layer.saturating_add(inputs_by_layer), latent, mixed, attention];
        let kept = || caches.iter().flat_map(|cache| &cache.rows).map(|rows| rows.kept);
        let windows = kept().filter_map(|kept| if let Kept::Window(window) = kept { Some(window) } else { None });
        Self {
            widest: stages.into_iter().max().unwrap_or(0),
            state: (times(grouped, inner), times(inner, number("ssm.state_size"))),
            attention,
            heads,
            beside_logits: times(4, width),
            logits: vocabulary,
            sees_all: kept().any(|kept| kept == Kept::All),
            window: windows.max(),
        }
    }

    /// Bytes of llama.cpp's compute buffer.
    pub fn bytes(&self, context: &ContextParams) -> u64 {
        let sharing = if context.unified { context.slots.max(1) } else { 1 };
        let seen = if self.sees_all { context.cells() } else { 0 };
        let seen_in_window = self.window.map_or(0, |window| context.window_cells(window, sharing));
        let mask = seen.saturating_add(seen_in_window);
        let layer = if context.flash_attention {
            // Masks in 16 bits.
            self.widest.saturating_add(mask / 2)
        } else {
            let pairs = self.heads.saturating_mul(seen.max(seen_in_window)).saturating_add(mask);
            self.widest.saturating_add(mask).max(self.attention.saturating_add(pairs))
        };
        let layer = layer.saturating_add(INPUTS).saturating_mul(context.ubatch);
        let outputs = context.outputs.unwrap_or(context.ubatch).min(context.ubatch);
        let beside = self.beside_logits.saturating_add(mask / 2).saturating_mul(context.ubatch);
        let logits = outputs.saturating_mul(self.logits).saturating_add(beside);
        let (width, state) = self.state;
        let states = state.saturating_mul(STATE_COPIES).saturating_mul(context.slots.max(1));
        let state = width.saturating_add(mask / 2).saturating_mul(context.ubatch).saturating_add(states);
        layer.max(logits).max(state).saturating_mul(BYTES)
    }
}
