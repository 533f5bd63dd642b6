//! What a context costs: the KV cache of attention layers, all of the context or a window of it, and the state of
//! layers that have one instead.

use super::Keys;
use greenboost_gguf::{Tensor, TensorType, Value};

/// Architectures in which llama.cpp uses a sliding window: every how many layers one sees the whole context (0: the file
/// says it layer by layer), and whether that is the first of them or the last.
const WINDOWED: &[(&str, u64, bool)] = &[
    ("gemma2", 2, false),
    ("gemma3", 6, false),
    ("gemma3n", 5, false),
    ("gemma4", 0, false),
    ("gpt-oss", 2, false),
    ("cohere2", 4, false),
    ("olmo2", 4, false),
    ("exaone4", 4, false),
    ("exaone-moe", 4, false),
    ("afmoe", 4, false),
    ("llama4", 4, false),
    ("plamo3", 8, false),
    ("mimo2", 0, false),
    ("step35", 0, false),
    ("smallthinker", 4, true),
];
/// Windows that llama.cpp has in its code for files that do not name one.
const UNNAMED_WINDOWS: &[(&str, u64)] = &[("gemma2", 4096), ("llama4", 8192)];
/// Layers from which on gemma3n uses the cache of earlier ones.
const GEMMA3N_OWN_CACHES: usize = 20;
/// llama.cpp rounds a window's cache up to this many tokens.
const WINDOW_STEP: u64 = 256;

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

/// What a layer keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerCache {
    /// Numbers in a token's key, over all heads.
    pub k: u64,
    /// Numbers in a token's value, over all heads.
    pub v: u64,
    /// How many tokens it looks back; `None`: all.
    pub window: Option<u64>,
    /// Bytes of a conversation's state.
    pub state: u64,
}

/// What all layers keep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cache {
    /// Layer by layer.
    pub layers: Vec<LayerCache>,
}

impl LayerCache {
    /// Bytes of this layer for a context of `context` tokens that `parallel` conversations share.
    pub fn bytes(&self, context: u64, parallel: u64, ubatch: u64, types: KvTypes) -> u64 {
        let tokens = match self.window {
            Some(window) => {
                let seen = window.saturating_mul(parallel).saturating_add(ubatch).min(context);
                seen.next_multiple_of(WINDOW_STEP).min(context)
            }
            None => context,
        };
        let width = row(types.k, self.k).saturating_add(row(types.v, self.v));
        tokens.saturating_mul(width).saturating_add(self.state.saturating_mul(parallel))
    }
}

/// Bytes of a row; types with blocks are used only where rows are whole blocks.
fn row(kind: TensorType, width: u64) -> u64 {
    kind.size(width, width).unwrap_or(width.saturating_mul(2))
}

impl Cache {
    /// Bytes of all layers.
    pub fn bytes(&self, context: u64, parallel: u64, ubatch: u64, types: KvTypes) -> u64 {
        let bytes = self.layers.iter().map(|layer| layer.bytes(context, parallel, ubatch, types));
        bytes.fold(0, u64::saturating_add)
    }

    /// Bytes that one more token takes in layers that see the whole context.
    pub fn per_token(&self, types: KvTypes) -> u64 {
        let whole = self.layers.iter().filter(|layer| layer.window.is_none());
        let bytes = whole.map(|layer| row(types.k, layer.k).saturating_add(row(types.v, layer.v)));
        bytes.fold(0, u64::saturating_add)
    }

    /// Reads it off the metadata, and off the tensors where those say more.
    pub(super) fn new(keys: &Keys<'_>, tensors: &[Tensor], layers: usize) -> Self {
        let recurrent = recurrent_layers(tensors, layers);
        let windows = windows(keys, layers);
        let state = state(keys);
        let shared = match keys.architecture.as_str() {
            "gemma3n" => layers.saturating_sub(GEMMA3N_OWN_CACHES),
            _ => keys.number("attention.shared_kv_layers").unwrap_or(0) as usize,
        };
        let own = layers.saturating_sub(shared);
        let layer = |index: usize| {
            let is_recurrent = recurrent[index];
            let mut cache = LayerCache { state: if is_recurrent { state } else { 0 }, ..LayerCache::default() };
            // Falcon-H1 has both side by side in every layer.
            if (!is_recurrent || keys.architecture == "falcon-h1") && index < own {
                (cache.k, cache.v) = widths(keys, index, windows[index].is_some());
                cache.window = windows[index];
            }
            cache
        };
        Self { layers: (0..layers).map(layer).collect() }
    }
}

/// Numbers in a token's key and value.
fn widths(keys: &Keys<'_>, layer: usize, windowed: bool) -> (u64, u64) {
    // Latent attention: one compressed vector and its position for keys and values alike. Files from before that
    // was built into llama.cpp lack the key and have an ordinary cache.
    if let (Some(rank), Some(_)) = (keys.number("attention.kv_lora_rank"), keys.number("attention.key_length_mla")) {
        return (rank.saturating_add(keys.number("rope.dimension_count").unwrap_or(0)), 0);
    }
    let heads = keys.of_layer("attention.head_count", layer).unwrap_or(0);
    let kv_heads = keys.of_layer("attention.head_count_kv", layer).unwrap_or(heads);
    let default = keys.number("embedding_length").unwrap_or(0).checked_div(heads).unwrap_or(0);
    let length = |key: &str| {
        let of_window = if windowed { keys.number(&format!("attention.{key}_swa")) } else { None };
        of_window.or_else(|| keys.number(&format!("attention.{key}"))).unwrap_or(default)
    };
    (kv_heads.saturating_mul(length("key_length")), kv_heads.saturating_mul(length("value_length")))
}

/// The window of each layer.
fn windows(keys: &Keys<'_>, layers: usize) -> Vec<Option<u64>> {
    let known = WINDOWED.iter().find(|(name, ..)| *name == keys.architecture);
    let unnamed = UNNAMED_WINDOWS.iter().find(|(name, _)| *name == keys.architecture).map(|(_, window)| *window);
    let window = keys.number("attention.sliding_window").or(unnamed).filter(|window| *window > 0);
    let (Some((_, usual, dense_first)), Some(window)) = (known, window) else { return vec![None; layers] };
    let pattern = keys.get("attention.sliding_window_pattern");
    let is_windowed = |layer: usize| match pattern {
        Some(Value::Array(values)) => values.get(layer).and_then(Value::as_u64).is_some_and(|value| value != 0),
        value => {
            let period = value.and_then(Value::as_u64).unwrap_or(*usual);
            match (layer as u64).checked_rem(period) {
                Some(place) => place != if *dense_first { 0 } else { period - 1 },
                // The file must say it, and does not: no window is the safe guess.
                None => false,
            }
        }
    };
    (0..layers).map(|layer| is_windowed(layer).then_some(window)).collect()
}

/// Layers with a state: their tensors say so in every architecture.
fn recurrent_layers(tensors: &[Tensor], layers: usize) -> Vec<bool> {
    let mut recurrent = vec![false; layers];
    for tensor in tensors {
        let Some((layer, rest)) = tensor.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
            continue;
        };
        if let (Ok(layer), true) = (layer.parse::<usize>(), has_state(rest))
            && let Some(place) = recurrent.get_mut(layer)
        {
            *place = true;
        }
    }
    recurrent
}

fn has_state(name: &str) -> bool {
    ["ssm_", "time_mix_", "shortconv."].iter().any(|start| name.starts_with(start))
}

/// Bytes of a conversation's state in a layer; llama.cpp keeps them in 32 bits.
fn state(keys: &Keys<'_>) -> u64 {
    let number = |key: &str| keys.number(key).unwrap_or(0);
    let width = number("embedding_length");
    let numbers = if let Some(head) = keys.number("wkv.head_size") {
        width.saturating_mul(keys.number("token_shift_count").unwrap_or(2).saturating_add(head))
    } else if let Some(length) = keys.number("shortconv.l_cache") {
        width.saturating_mul(length.saturating_sub(1))
    } else {
        let (inner, state) = (number("ssm.inner_size"), number("ssm.state_size"));
        let groups = number("ssm.group_count").saturating_mul(state).saturating_mul(2);
        let convolution = number("ssm.conv_kernel").saturating_sub(1).saturating_mul(inner.saturating_add(groups));
        convolution.saturating_add(state.saturating_mul(inner))
    };
    numbers.saturating_mul(4)
}
