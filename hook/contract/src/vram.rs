//! How much VRAM a program may take on a device. Profile, options, plan, dry run and hook all mean this number.

/// The reserve is never more than this part of what is free: a small card is not given away whole.
const MAX_RESERVE_SHARE: u64 = 8;

/// The budget: what the user asked for, never more than the device has; else what is free, less the reserve. All in bytes.
pub fn budget(wanted: Option<u64>, free: u64, total: u64, reserve: u64) -> u64 {
    wanted.map_or_else(|| free - reserve.min(free / MAX_RESERVE_SHARE), |wanted| wanted.min(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_what_was_asked_for_or_free_and_never_more_than_there_is() {
        let gib = |gib: u64| gib << 30;
        assert_eq!(budget(Some(gib(100)), gib(20), gib(24), 0), gib(24));
        assert_eq!(budget(Some(gib(22)), gib(20), gib(24), gib(1)), gib(22), "other programs may end");
        assert_eq!(budget(None, gib(20), gib(24), gib(1)), gib(19));
        assert_eq!(budget(None, gib(8), gib(8), gib(6)), gib(7), "an eighth is the most");
        assert_eq!(budget(None, 0, 0, gib(1)), 0);
    }
}
