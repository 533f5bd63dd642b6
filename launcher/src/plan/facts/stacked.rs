//! Experts that lie one after the other in one tensor, so that a kernel finds each by its number.

use greenboost_gguf::Tensor;

/// A layer's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stacked {
    /// Tensors that have one part for each expert: gate, up and down, or gate and up in one.
    pub tensors: u64,
    /// Bytes of one expert in all of them.
    pub expert_bytes: u64,
}

impl Stacked {
    /// Counts a tensor of the layer's experts, if it is such a one. Biases and scales are small, and not counted. Older
    /// files have each expert as a tensor of its own.
    pub fn count(&mut self, tensor: &Tensor) {
        let experts = tensor.shape[2];
        if tensor.name.ends_with("exps.weight") && experts > 1 {
            self.tensors += 1;
            self.expert_bytes = self.expert_bytes.saturating_add(tensor.bytes / experts);
        }
    }
}
