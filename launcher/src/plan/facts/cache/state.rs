//! Layers that keep a state for each conversation instead of its tokens.

use super::super::Keys;
use super::super::architecture::Special;
use greenboost_gguf::Tensor;

/// llama.cpp keeps states in 32 bits.
const BYTES: u64 = 4;
/// Convolutions of queries, keys and values.
const KDA_CONVOLUTIONS: u64 = 3;
/// The width of a convolution where a file of KDA does not say it.
const KDA_KERNEL: u64 = 4;
/// How many earlier tokens RWKV mixes in.
const TOKEN_SHIFTS: u64 = 2;

/// What the tensors of a layer say about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parts {
    /// It has a state.
    pub state: bool,
    /// It has keys of its own.
    pub keys: bool,
}

/// The parts of each layer.
pub fn parts(tensors: &[Tensor], layers: usize) -> Vec<Parts> {
    let mut all = vec![Parts::default(); layers];
    for tensor in tensors {
        let Some((layer, rest)) = tensor.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
            continue;
        };
        let Some(parts) = layer.parse::<usize>().ok().and_then(|layer| all.get_mut(layer)) else { continue };
        parts.state |= ["ssm_", "time_mix_", "shortconv."].iter().any(|start| rest.starts_with(start));
        parts.keys |= rest == "attn_k.weight";
    }
    all
}

/// Whether a layer has a state: the file's list says so, else its tensors, else the architecture.
pub fn has_state(keys: &Keys<'_>, special: Special, layer: usize, parts: Parts) -> bool {
    if let Some(listed) = keys.of_layer("attention.recurrent_layers", layer) {
        return listed != 0;
    }
    match special {
        Special::Linear(period) => {
            let period = keys.number("full_attention_interval").unwrap_or(period);
            !(layer as u64 + 1).is_multiple_of(period)
        }
        _ => parts.state,
    }
}

/// Bytes of a conversation's state in a layer.
pub fn bytes(keys: &Keys<'_>, special: Special, head_length: u64) -> u64 {
    let number = |key: &str| keys.number(key).unwrap_or(0);
    let width = number("embedding_length");
    let heads = keys.of_layer("attention.head_count", 0).unwrap_or(0);
    let square = |length: u64| length.saturating_mul(length).saturating_mul(heads);
    let kernel = number("ssm.conv_kernel");
    let numbers = if let Some(head) = keys.number("wkv.head_size") {
        width.saturating_mul(keys.number("token_shift_count").unwrap_or(TOKEN_SHIFTS).saturating_add(head))
    } else if let Some(length) = keys.number("shortconv.l_cache") {
        width.saturating_mul(length.saturating_sub(1))
    } else if let Some(length) = keys.number("kda.head_dim") {
        let earlier = if kernel > 0 { kernel - 1 } else { KDA_KERNEL - 1 };
        let convolutions = KDA_CONVOLUTIONS.saturating_mul(earlier).saturating_mul(heads.saturating_mul(length));
        convolutions.saturating_add(square(length))
    } else if let Special::Linear(_) = special {
        square(head_length)
    } else {
        let (inner, state) = (number("ssm.inner_size"), number("ssm.state_size"));
        let groups = number("ssm.group_count").saturating_mul(state).saturating_mul(2);
        let convolution = kernel.saturating_sub(1).saturating_mul(inner.saturating_add(groups));
        convolution.saturating_add(state.saturating_mul(inner))
    };
    numbers.saturating_mul(BYTES)
}

/// Bytes more in a layer that looks up embeddings of n-grams: the history that its convolution needs.
pub fn ngram_bytes(keys: &Keys<'_>, layer: usize) -> u64 {
    let number = |key: &str| keys.number(key).unwrap_or(0);
    if !keys.list("ple.layers").contains(&(layer as u64)) {
        return 0;
    }
    let earlier = number("ple.conv_kernel").saturating_sub(1).saturating_mul(number("ple.ngram_size"));
    let width = number("hyper_connection.count").saturating_mul(number("embedding_length"));
    earlier.saturating_mul(width).saturating_mul(BYTES)
}
