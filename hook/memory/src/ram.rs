//! The RAM budget: how much system memory may stand in for VRAM.

use greenboost_contract::ram;
pub use greenboost_contract::ram::FLOOR;
use std::path::Path;

/// The budget: what the user asked for, else a share of what is available to this process now.
pub fn limit(wanted: Option<u64>) -> u64 {
    wanted.unwrap_or_else(|| ram::budget(available(0)))
}

/// Bytes this process may still take: MemAvailable, or what its memory cgroups leave, whichever is less.
///
/// `pinned`: bytes of page cache that devices read, which cannot be dropped and are counted as if they could.
pub fn available(pinned: u64) -> u64 {
    // Where nobody can tell, the kernel says no when it comes to that.
    ram::available(Path::new("/"), pinned).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_what_the_kernel_says() {
        assert!((1 << 20..1 << 50).contains(&available(0)));
        assert_eq!(available(u64::MAX), 0, "all of it is pinned");
    }

    #[test]
    fn a_budget_that_the_user_names_is_taken_as_it_is() {
        assert_eq!((limit(Some(7)), limit(Some(0))), (7, 0));
        assert!(limit(None) > 0);
    }
}
