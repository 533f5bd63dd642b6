//! What a context costs: the KV cache of attention layers, all of the context, a window or a summary of it, and the state
//! of layers that have one instead. The arithmetic is llama.cpp's own; [`read`](Cache::new) says what a file has of it.

mod read;
mod state;
mod windows;

use super::context::{ContextParams, KvTypes, padded};
use greenboost_gguf::TensorType;

/// Which tokens are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// All of them.
    All,
    /// The last ones.
    Window(u64),
    /// One for each group of this many.
    OneOf(u64),
}

/// What a layer keeps of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// Numbers in a key, over all heads.
    pub k: u64,
    /// Numbers in a value, over all heads; `None` where keys alone are kept.
    pub v: Option<u64>,
    /// Of which tokens.
    pub kept: Kept,
}

/// What a layer keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerCache {
    /// Of tokens: keys and values, keys of an indexer, summaries.
    pub rows: Vec<Rows>,
    /// Bytes of each conversation's state.
    pub state: u64,
}

/// What all layers keep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cache {
    /// Layer by layer; blocks for speculation come last, where they have caches.
    pub layers: Vec<LayerCache>,
    /// Whether conversations have caches of their own even where they share the context.
    pub always_apart: bool,
    /// Whether llama.cpp does not know the architecture either, and all this is the most that it can take.
    pub is_upper_bound: bool,
}

/// Bytes of a row; types with blocks are used only where rows are whole blocks.
fn row(kind: TensorType, width: u64) -> u64 {
    kind.size(width, width).unwrap_or(width.saturating_mul(2))
}

fn width(rows: &Rows, kv: KvTypes, least_value: u64) -> u64 {
    row(kv.k, rows.k).saturating_add(rows.v.map_or(0, |value| row(kv.v, value.max(least_value))))
}

impl Cache {
    /// Bytes of a layer.
    pub fn layer_bytes(&self, layer: &LayerCache, context: &ContextParams) -> u64 {
        let (streams, sharing) = match (self.always_apart, context.unified) {
            (false, true) => (1, context.slots.max(1)),
            _ => (context.slots.max(1), 1),
        };
        let widest_value = if context.flash_attention { 0 } else { self.widest_value() };
        let bytes = layer.rows.iter().enumerate().map(|(index, rows)| {
            // Those of an indexer, which come after a layer's own, are all of one width.
            let least_value = if index == 0 { widest_value } else { 0 };
            let cells = match rows.kept {
                Kept::All => context.cells(),
                Kept::Window(window) => context.window_cells(window, sharing),
                Kept::OneOf(tokens) => padded(context.cells().div_ceil(tokens.max(1)).max(1)),
            };
            cells.saturating_mul(streams).saturating_mul(width(rows, context.kv, least_value))
        });
        let state = layer.state.saturating_mul(context.slots.max(1));
        bytes.fold(state, u64::saturating_add)
    }

    /// Bytes of all layers.
    pub fn bytes(&self, context: &ContextParams) -> u64 {
        self.layers.iter().map(|layer| self.layer_bytes(layer, context)).fold(0, u64::saturating_add)
    }

    /// Bytes that one more token takes in layers that keep every token.
    pub fn per_token(&self, kv: KvTypes) -> u64 {
        let rows = self.layers.iter().flat_map(|layer| &layer.rows).filter(|rows| rows.kept == Kept::All);
        rows.map(|rows| width(rows, kv, 0)).fold(0, u64::saturating_add)
    }

    fn widest_value(&self) -> u64 {
        self.layers.iter().filter_map(|layer| layer.rows.first()?.v).max().unwrap_or(0)
    }
}
