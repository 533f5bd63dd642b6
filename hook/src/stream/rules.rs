//! Which kernel reads which tensor in place, and which gets a copy.
//!
//! A copy moves the whole tensor; reading in place moves what the kernel touches. Where a kernel touches a small part,
//! the place is right. Kernels are known by parts of their (mangled) names, tensors by parts of theirs.

/// What a launch gets for a tensor outside VRAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A copy in a slot, brought ahead of time where the order is known.
    Slot,
    /// The home itself.
    InPlace,
}

/// First row whose parts are both found decides; an empty part is found everywhere.
const RULES: &[(&str, &str, Way)] = &[
    // A row for each token of the batch.
    ("get_rows", "", Way::InPlace),
    // Decode reads the chosen experts only; a batch of a prompt reads nearly all of them.
    ("mul_mat_vec", "_exps", Way::InPlace),
    ("mmvq", "_exps", Way::InPlace),
    ("", "", Way::Slot),
];

/// The way for a kernel and a tensor.
pub fn way(kernel: &str, tensor: &str) -> Way {
    let fits =
        |(in_kernel, in_tensor, _): &&(&str, &str, Way)| kernel.contains(in_kernel) && tensor.contains(in_tensor);
    RULES.iter().find(fits).map_or(Way::InPlace, |(_, _, way)| *way)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_touch_a_part_read_in_place() {
        let vec = "_Z13mul_mat_vec_qIL9ggml_type12ELi1EEvPKvS2_Pf";
        let mat = "_Z9mul_mat_qIL9ggml_type12ELi64ELb0EEvPKcPKi";
        assert_eq!(way(vec, "blk.0.ffn_up_exps.weight"), Way::InPlace);
        assert_eq!(way(vec, "blk.0.ffn_up.weight"), Way::Slot);
        assert_eq!(way(mat, "blk.0.ffn_up_exps.weight"), Way::Slot);
        assert_eq!(way("_Z10k_get_rowsIfE", "token_embd.weight"), Way::InPlace);
        assert_eq!(way("", "x"), Way::Slot);
    }
}
