//! What each layer keeps, from the metadata, and from the tensors where those say more.

use super::super::Keys;
use super::super::architecture::{self, Special};
use super::state::{self, Parts};
use super::windows::windows;
use super::{Cache, Kept, LayerCache, Rows};
use greenboost_gguf::{Tensor, Value};

/// Tokens that DeepSeek V4 compresses into one: closely, with an indexer and overlapping, or widely.
const CLOSE: u64 = 4;
/// See [`CLOSE`].
const WIDE: u64 = 128;
/// GLM 5.2 and later have a context of this, and an indexer in the first two layers and then in every fourth.
const SHARED_INDEXER_CONTEXT: u64 = 1 << 20;
/// How often a token goes through all layers, at most.
const MOST_LOOPS: u64 = 64;

impl Cache {
    /// Of a file with `layers` layers and after them `speculative` blocks that only guess ahead.
    pub fn new(keys: &Keys<'_>, tensors: &[Tensor], layers: usize, speculative: usize) -> Self {
        let known = architecture::find(&keys.architecture);
        let special = known.map_or(Special::None, |known| known.special);
        let all = layers + speculative;
        let reader = Reader {
            keys,
            special,
            is_known: known.is_some(),
            windows: windows(keys, known.as_ref(), layers),
            parts: state::parts(tensors, all),
            own: match special {
                Special::OwnCaches(own) => layers.min(own as usize),
                Special::NoCache => 0,
                // What later layers share is a guess where nobody knows the architecture.
                _ if known.is_none() => layers,
                _ => layers.saturating_sub(keys.number("attention.shared_kv_layers").unwrap_or(0) as usize),
            },
            layers,
        };
        let caches = match special {
            Special::NoCache => 0,
            Special::SpeculativeCaches | Special::OneKindALayer => all,
            _ => layers,
        };
        let loops = keys.number("num_loops").unwrap_or(1).clamp(1, MOST_LOOPS) as usize;
        let mut list: Vec<_> = (0..caches * loops).map(|layer| reader.layer(layer % caches)).collect();
        if special == Special::RouterLayer {
            list.push(LayerCache { rows: vec![reader.rows(1, false, Kept::All)], state: 0 });
        }
        Self { layers: list, always_apart: reader.is_compressed(), is_upper_bound: known.is_none() }
    }
}

struct Reader<'a> {
    keys: &'a Keys<'a>,
    special: Special,
    is_known: bool,
    windows: Vec<Option<u64>>,
    parts: Vec<Parts>,
    own: usize,
    layers: usize,
}

impl Reader<'_> {
    fn layer(&self, layer: usize) -> LayerCache {
        let parts = self.parts.get(layer).copied().unwrap_or_default();
        let speculates = layer >= self.layers;
        let has_state = !speculates && state::has_state(self.keys, self.special, layer, parts);
        let mut cache = LayerCache::default();
        if has_state {
            cache.state = state::bytes(self.keys, self.special, self.length("key_length", false))
                .saturating_add(state::ngram_bytes(self.keys, layer));
        }
        let is_one_kind = self.special == Special::OneKindALayer
            && self.keys.of_layer("feed_forward_length", layer).is_some_and(|width| width > 0);
        // Some have both side by side in every layer. Of an architecture that nobody knows, any may.
        let attends = !has_state || parts.keys || !self.is_known;
        if attends && !is_one_kind && (layer < self.own || speculates) {
            self.attention(layer, &mut cache);
        }
        cache
    }

    fn attention(&self, layer: usize, cache: &mut LayerCache) {
        let compressed = self.is_compressed();
        let window = match self.windows.get(layer) {
            Some(window) => *window,
            None if compressed => self.keys.of_layer("attention.sliding_window", layer),
            None => None,
        };
        let kept = window.map_or(Kept::All, Kept::Window);
        let mut rows = self.rows(self.kv_heads(layer), window.is_some(), kept);
        if compressed {
            rows.v = None;
        }
        cache.rows.push(rows);
        if compressed {
            self.summaries(layer, rows.k, cache);
        } else if self.has_index(layer) {
            let is_hybrid = self.keys.number("ssm.state_size").is_some();
            let has_values = !is_hybrid && !self.is_latent();
            let v = has_values.then(|| self.length("value_length", false));
            cache.rows.push(Rows { k: self.index_length(), v, kept: Kept::All });
        }
    }

    /// What is kept of the tokens that no window holds: one row for each few, and what those few are made of so far.
    fn summaries(&self, layer: usize, k: u64, cache: &mut LayerCache) {
        let ratio = self.keys.of_layer("attention.compress_ratios", layer).unwrap_or(0);
        // Sums and their weights, in 32 bits.
        let state = |width: u64, tokens: u64| width.saturating_mul(tokens).saturating_mul(2 * 4);
        let head = self.length("key_length", false);
        let mut add = |k: u64, state: u64| {
            cache.rows.push(Rows { k, v: None, kept: Kept::OneOf(ratio) });
            // The last layers only guess ahead, and make no summaries.
            let state = if layer < self.layers { state } else { 0 };
            cache.state = cache.state.saturating_add(state);
        };
        if ratio == CLOSE {
            // Twice as wide and as long: neighbours overlap.
            add(k, state(head.saturating_mul(2), 2 * CLOSE));
            add(self.index_length(), state(self.index_length().saturating_mul(2), 2 * CLOSE));
        } else if ratio == WIDE {
            add(k, state(head, WIDE));
        }
    }

    /// Keys and values of `heads` heads.
    fn rows(&self, heads: u64, windowed: bool, kept: Kept) -> Rows {
        let of = |key: &str| heads.saturating_mul(self.length(key, windowed));
        // Latent attention: one compressed vector for keys and values alike. Files from before that was built into llama.cpp
        // lack the keys and have an ordinary cache.
        Rows { k: of("key_length"), v: (!self.is_latent()).then(|| of("value_length")), kept }
    }

    fn kv_heads(&self, layer: usize) -> u64 {
        let heads = self.keys.of_layer("attention.head_count_kv", layer);
        heads.or_else(|| self.keys.of_layer("attention.head_count", layer)).unwrap_or(0)
    }

    /// The width of a head.
    fn length(&self, key: &str, windowed: bool) -> u64 {
        let of_window = if windowed { self.keys.number(&format!("attention.{key}_swa")) } else { None };
        let named = of_window.or_else(|| self.keys.number(&format!("attention.{key}")));
        named.unwrap_or_else(|| {
            let heads = self.keys.list("attention.head_count").into_iter().find(|heads| *heads > 0);
            let width = self.keys.number("embedding_length").unwrap_or(0);
            width.checked_div(heads.unwrap_or(0)).unwrap_or(0)
        })
    }

    fn is_latent(&self) -> bool {
        ["key_length_mla", "value_length_mla"]
            .iter()
            .all(|key| self.keys.number(&format!("attention.{key}")).is_some_and(|length| length > 0))
    }

    fn index_length(&self) -> u64 {
        self.keys.number("attention.indexer.key_length").unwrap_or(0)
    }

    /// Whether a layer keeps the keys of an indexer, which chooses the tokens that attention looks at.
    fn has_index(&self, layer: usize) -> bool {
        let is_used = self.keys.number("attention.indexer.top_k").is_none_or(|tokens| tokens > 0);
        if self.index_length() == 0 || !is_used {
            return false;
        }
        if let Some(listed) = self.keys.of_layer("attention.indexer.types", layer) {
            return listed != 0 && layer < self.layers;
        }
        // One that chooses blocks of tokens is not in the first, dense layers.
        if self.keys.get("attention.indexer.block_size").is_some() {
            return layer as u64 >= self.keys.number("leading_dense_block_count").unwrap_or(0);
        }
        let shares = self.keys.architecture == "glm-dsa"
            && self.keys.number("context_length").is_some_and(|context| context >= SHARED_INDEXER_CONTEXT);
        layer < self.layers && (!shares || layer < 2 || (layer - 2).is_multiple_of(4))
    }

    /// Whether most of the context is kept in summaries. Models with states have the key as well, for another purpose.
    fn is_compressed(&self) -> bool {
        matches!(self.keys.get("attention.compress_ratios"), Some(Value::Array(_)))
            && self.keys.number("ssm.state_size").is_none()
    }
}
