//! Which kernel reads which tensor in place, and which gets a copy.
//!
//! A copy moves the whole tensor; reading in place moves what the kernel touches. Where a kernel touches a small part,
//! the place is right. Kernels are known by their (mangled) names, tensors by theirs; the rules are the profile's
//! ([`greenboost_contract::kernel`]), and what they do not name has copies: a copy is never far from right.

use greenboost_contract::experts::ExpertLayout;
use greenboost_contract::kernel::{AccessMode, KernelRule};
use regex::bytes::{Regex, RegexBuilder};

/// What a launch gets for a tensor outside VRAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A copy in a staging slot, made ahead of time where the order is known.
    Slot,
    /// The tensor itself, where it resides.
    InPlace,
    /// The same, and copies are given up: it may be written.
    Written,
    /// A window over copies of some experts, and over all of them where they reside.
    Experts,
}

/// Where no rules are given: what is right for any program that reads rows or chosen experts.
const OWN: &[(&str, &str, AccessMode)] = &[
    ("get_rows", "", AccessMode::InPlace),
    ("compute_batched_ptrs", "", AccessMode::InPlace),
    ("mul_mat_vec|mmvq", "_exps", AccessMode::InPlace),
    ("", "", AccessMode::Stream),
];

/// Which rules a name fits, a bit for each: names are long, and a launch has no time to read them.
pub type Mask = u64;

/// Of what no kernel is streamed for, whatever its name.
pub const NOT_FOR_KERNELS: Mask = 1 << MOST;
/// The most rules there can be; the last bit of a mask is for [`NOT_FOR_KERNELS`].
const MOST: usize = Mask::BITS as usize - 1;

struct Rule {
    kernel: Regex,
    tensor: Regex,
    read: AccessMode,
    experts: Option<ExpertLayout>,
}

/// The rules of a process.
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Compiles rules, as the launcher has checked them. One whose pattern is none is left out and logged.
    pub fn new(given: &[KernelRule]) -> Self {
        let own = OWN.iter().map(|(name, tensor, read)| (*name, *tensor, *read, None));
        let given =
            given.iter().map(|rule| (rule.name.as_str(), rule.tensor.as_str(), rule.read, rule.experts.clone()));
        let all: Vec<_> = if given.len() == 0 { own.collect() } else { given.collect() };
        let pattern = |text| RegexBuilder::new(text).unicode(false).build();
        let compiled = all.into_iter().take(MOST).filter_map(|(name, tensor, read, experts)| {
            match (pattern(name), pattern(tensor)) {
                (Ok(kernel), Ok(tensor)) => Some(Rule { kernel, tensor, read, experts }),
                (Err(error), _) | (_, Err(error)) => {
                    log::error!("kernel rule left out: {error}");
                    None
                }
            }
        });
        Self(compiled.collect())
    }

    fn mask(&self, fits: impl Fn(&Rule) -> bool) -> Mask {
        self.0.iter().enumerate().filter(|(_, rule)| fits(rule)).fold(0, |mask, (at, _)| mask | 1 << at)
    }

    /// The rules that a kernel's name fits.
    pub fn of_kernel(&self, name: &str) -> Mask {
        self.mask(|rule| rule.kernel.is_match(name.as_bytes()))
    }

    /// Whether there are tensors that such a kernel may write to.
    pub fn may_write(&self, kernel: Mask) -> bool {
        self.0.iter().enumerate().any(|(at, rule)| kernel & 1 << at != 0 && rule.read == AccessMode::Never)
    }

    /// Where a kernel has its parameters that multiplies with chosen experts, if it is one.
    pub fn experts(&self, kernel: Mask) -> Option<&ExpertLayout> {
        self.0.iter().enumerate().filter(|(at, _)| kernel >> at & 1 == 1).find_map(|(_, rule)| rule.experts.as_ref())
    }

    /// The rules that a tensor's name fits.
    pub fn of_tensor(&self, name: &str) -> Mask {
        self.mask(|rule| rule.tensor.is_match(name.as_bytes()))
    }

    /// How a kernel reads a tensor outside VRAM.
    #[inline]
    pub fn way(&self, kernel: Mask, tensor: Mask) -> Way {
        if tensor == NOT_FOR_KERNELS {
            return Way::InPlace;
        }
        match self.0.get((kernel & tensor).trailing_zeros() as usize).map(|rule| rule.read) {
            Some(AccessMode::Stream) | None => Way::Slot,
            Some(AccessMode::InPlace) => Way::InPlace,
            Some(AccessMode::Never) => Way::Written,
            Some(AccessMode::Experts) => Way::Experts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VEC: &str = "_Z13mul_mat_vec_qIL9ggml_type12ELi1EEvPKvS2_Pf";
    const MAT: &str = "_Z9mul_mat_qIL9ggml_type12ELi64ELb0EEvPKcPKi";

    fn way(rules: &Rules, kernel: &str, tensor: &str) -> Way {
        rules.way(rules.of_kernel(kernel), rules.of_tensor(tensor))
    }

    #[test]
    fn kernels_that_touch_a_part_read_in_place() {
        let own = Rules::new(&[]);
        assert_eq!(way(&own, VEC, "blk.0.ffn_up_exps.weight"), Way::InPlace);
        assert_eq!(way(&own, VEC, "blk.0.ffn_up.weight"), Way::Slot);
        assert_eq!(way(&own, MAT, "blk.0.ffn_up_exps.weight"), Way::Slot);
        assert_eq!(way(&own, "_Z10k_get_rowsIfE", "token_embd.weight"), Way::InPlace);
        assert_eq!(way(&own, "", "x"), Way::Slot);
    }

    #[test]
    fn the_first_rule_that_fits_decides_and_what_none_names_is_streamed() {
        let rule = |name: &str, tensor: &str, read| KernelRule {
            name: name.into(),
            tensor: tensor.into(),
            read,
            experts: None,
        };
        let rules = Rules::new(&[
            rule("(", "", AccessMode::Stream),
            rule("mul_mat_vec", "_exps", AccessMode::InPlace),
            rule("mul_mat", "", AccessMode::Stream),
            rule("hidden", "", AccessMode::Never),
        ]);
        assert_eq!(way(&rules, VEC, "blk.0.ffn_up_exps.weight"), Way::InPlace);
        assert_eq!(way(&rules, VEC, "blk.0.ffn_up.weight"), Way::Slot);
        assert_eq!(way(&rules, "hidden_kernel", "x"), Way::Written);
        assert_eq!(way(&rules, "another", "x"), Way::Slot);
        let may_write = |kernel| rules.may_write(rules.of_kernel(kernel));
        assert!(may_write("hidden_kernel") && !may_write(MAT) && !may_write("another"));
        assert_eq!(rules.way(rules.of_kernel(MAT), NOT_FOR_KERNELS), Way::InPlace);
    }
}
