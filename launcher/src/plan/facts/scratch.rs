//! Memory for what is neither weights nor cache. An estimate: only the program knows its graph.

use super::{ContextParams, Facts};

/// Modules, cuBLAS and the program's pools. The driver's context is not in it: neither a budget nor the figure of what is
/// free counts that. DESIGN.md's runs leave room for 0.3 GiB (its MoE model) to 0.8 GiB (its dense one).
const POOLS: u64 = 384 << 20;

/// Bytes of VRAM that llama.cpp takes besides weights and KV cache.
///
/// Its compute buffer holds the logits of a micro-batch or the widest place of a layer, whichever is more, the residual
/// stream, and the attention mask.
pub fn scratch(facts: &Facts, context: &ContextParams) -> u64 {
    let (context, ubatch) = (context.tokens, context.ubatch);
    let logits = facts.vocabulary;
    let layer = facts.ffn_width.saturating_mul(3).saturating_add(facts.width.saturating_mul(facts.experts_used.max(1)));
    let numbers = logits.max(layer).saturating_add(facts.width.saturating_mul(4));
    let mask = context.saturating_mul(2);
    ubatch.saturating_mul(numbers.saturating_mul(4).saturating_add(mask)).saturating_add(POOLS)
}
