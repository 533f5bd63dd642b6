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

/// Which rules a name fits, a bit for each: names are long, and a launch has no time to read them.
pub type Mask = u32;

fn mask(fits: impl Fn(&(&str, &str, Way)) -> bool) -> Mask {
    RULES.iter().enumerate().filter(|(_, rule)| fits(rule)).fold(0, |mask, (at, _)| mask | 1 << at)
}

/// The rules that a kernel's name fits.
pub fn of_kernel(name: &str) -> Mask {
    mask(|(part, _, _)| name.contains(part))
}

/// The rules that a tensor's name fits.
pub fn of_tensor(name: &str) -> Mask {
    mask(|(_, part, _)| name.contains(part))
}

/// The way for a kernel and a tensor.
#[inline]
pub fn way(kernel: Mask, tensor: Mask) -> Way {
    RULES.get((kernel & tensor).trailing_zeros() as usize).map_or(Way::InPlace, |(_, _, way)| *way)
}

const _: () = assert!(RULES.len() < Mask::BITS as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_touch_a_part_read_in_place() {
        let way = |kernel, tensor| way(of_kernel(kernel), of_tensor(tensor));
        let vec = "_Z13mul_mat_vec_qIL9ggml_type12ELi1EEvPKvS2_Pf";
        let mat = "_Z9mul_mat_qIL9ggml_type12ELi64ELb0EEvPKcPKi";
        assert_eq!(way(vec, "blk.0.ffn_up_exps.weight"), Way::InPlace);
        assert_eq!(way(vec, "blk.0.ffn_up.weight"), Way::Slot);
        assert_eq!(way(mat, "blk.0.ffn_up_exps.weight"), Way::Slot);
        assert_eq!(way("_Z10k_get_rowsIfE", "token_embd.weight"), Way::InPlace);
        assert_eq!(way("", "x"), Way::Slot);
    }
}
