//! How much some bytes want to be in VRAM.

use greenboost_contract::place::{DEFAULT_PRIORITY, MAX_PRIORITY, Tier};
use std::cmp::Ordering;

/// How much some bytes want to be in VRAM; the greater gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacementHint {
    /// What a rule says.
    pub tier: Tier,
    /// Among equals: who keeps VRAM longest.
    pub priority: u8,
}

impl PlacementHint {
    /// Bytes that nothing is known of but that they are many.
    pub const BLIND: Self = Self { tier: Tier::Auto, priority: DEFAULT_PRIORITY };
    /// Below every rule.
    pub const COLD: Self = Self { tier: Tier::Ram, priority: 0 };
    /// What is read and written with every token: KV cache, scratch. Above every rule.
    pub const HOT: Self = Self { tier: Tier::Vram, priority: MAX_PRIORITY + 1 };

    fn rank(self) -> (u8, u8) {
        let tier = match self.tier {
            Tier::Ram => 0,
            Tier::Auto => 1,
            Tier::Vram => 2,
        };
        (tier, self.priority)
    }
}

impl Ord for PlacementHint {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for PlacementHint {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hot_memory_is_above_every_rule_and_ram_below() {
        let rule = |tier, priority| PlacementHint { tier, priority };
        let order = [
            rule(Tier::Ram, 100),
            rule(Tier::Auto, 0),
            PlacementHint::BLIND,
            rule(Tier::Vram, 0),
            rule(Tier::Vram, 100),
        ];
        assert!(order.is_sorted() && order.iter().all(|hint| *hint < PlacementHint::HOT));
    }
}
