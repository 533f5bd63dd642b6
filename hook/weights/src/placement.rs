//! From rules and tensors to tiers: a pure calculation.

use crate::hint::PlacementHint;
use crate::registry::Tensor;
use greenboost_contract::place::{DEFAULT_PRIORITY, PlaceRule, Tier};
use greenboost_contract::settings::GRANULE;
use regex::bytes::{Regex, RegexBuilder};
use std::ops::Range;

/// Rules with their patterns compiled, as the launcher has checked them: on bytes, without Unicode tables.
pub struct Rules(Vec<(Regex, PlaceRule)>);

impl Rules {
    /// Compiles rules. One whose pattern is none is left out and logged.
    pub fn new(rules: &[PlaceRule]) -> Self {
        let compiled = rules.iter().filter_map(|rule| match RegexBuilder::new(&rule.tensor).unicode(false).build() {
            Ok(pattern) => Some((pattern, rule.clone())),
            Err(error) => {
                log::error!("placement rule left out: {error}");
                None
            }
        });
        Self(compiled.collect())
    }

    /// What the first rule that fits says of a tensor.
    fn hint(&self, name: &str, bytes: u64) -> PlacementHint {
        let fits = |(pattern, rule): &&(Regex, PlaceRule)| {
            bytes >= rule.at_least
                && rule
                    .layers
                    .is_none_or(|(first, last)| layer(name).is_some_and(|layer| (first..=last).contains(&layer)))
                && pattern.is_match(name.as_bytes())
        };
        let found = self.0.iter().find(fits);
        found.map_or(PlacementHint { tier: Tier::Auto, priority: DEFAULT_PRIORITY }, |(_, rule)| PlacementHint {
            tier: rule.tier,
            priority: rule.priority,
        })
    }
}

/// The number after `blk.`.
fn layer(name: &str) -> Option<u32> {
    let (number, _) = name.strip_prefix("blk.")?.split_once('.')?;
    number.parse().ok()
}

/// An extent of an allocation that is in one tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes, a multiple of 2 MiB.
    pub bytes: u64,
    /// Whether it is to be in VRAM.
    pub in_vram: bool,
    /// Who moves to RAM first when something hotter comes: the lowest.
    pub hint: PlacementHint,
}

/// Who gets VRAM among tensors that want it equally and do not all fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// The first ones. Where the rest is read in place, it does not matter.
    First,
    /// Whole ones at even distances, so that what is streamed is spread over a pass: the link works all the time, and a
    /// small ring is enough.
    Spread,
}

/// Granules of a tensor that are worth a chunk more.
const LARGE: usize = 5;

/// Tiers for the `span` bytes at `base` that hold `tensors`, with `vram` bytes of VRAM to give. A granule that
/// several tensors share gets the highest of their priorities.
pub fn plan(rules: &Rules, tensors: &[(u64, Tensor)], base: u64, span: u64, vram: u64, among: Among) -> Vec<Extent> {
    let mut granules = vec![None::<PlacementHint>; (span / GRANULE) as usize];
    let mut touched = Vec::with_capacity(tensors.len());
    for (address, tensor) in tensors {
        let hint = rules.hint(&tensor.name, tensor.bytes);
        let (first, last) = ((address - base) / GRANULE, (address - base + tensor.bytes - 1) / GRANULE);
        for granule in granules.iter_mut().take(last as usize + 1).skip(first as usize) {
            *granule = Some(granule.map_or(hint, |known| known.max(hint)));
        }
        touched.push(first as usize..last as usize + 1);
    }
    // What no tensor is in is padding: nobody reads it.
    let hints: Vec<_> =
        granules.into_iter().map(|hint| hint.unwrap_or(PlacementHint { tier: Tier::Auto, priority: 0 })).collect();
    let mut order: Vec<_> = (0..hints.len()).filter(|at| hints[*at].tier != Tier::Ram).collect();
    order.sort_by_key(|at| std::cmp::Reverse(hints[*at]));
    let room = (vram / GRANULE) as usize;
    if among == Among::Spread && order.len() > room {
        order = spread(order, room, &hints, &touched);
    }
    let mut in_vram = vec![false; hints.len()];
    order.into_iter().take(room).for_each(|at| in_vram[at] = true);

    // Where tensors are streamed, each has chunks of its own, so that one can give way whole: and of a large one the granule
    // that it shares with the one before is another chunk.
    let mut begins = vec![false; hints.len() + 1];
    for ((address, _), own) in tensors.iter().zip(&touched).filter(|_| among == Among::Spread) {
        begins[own.start] = true;
        begins[own.start + 1] |= own.len() >= LARGE && !address.is_multiple_of(GRANULE);
    }
    let mut extents: Vec<Extent> = Vec::new();
    for ((hint, in_vram), begins) in hints.into_iter().zip(in_vram).zip(begins) {
        match extents.last_mut() {
            Some(last) if last.in_vram == in_vram && last.hint == hint && !begins => last.bytes += GRANULE,
            _ => extents.push(Extent { bytes: GRANULE, in_vram, hint }),
        }
    }
    extents
}

/// The same granules in the same order of hints, those of the hint that runs out of room with the tensors in front that
/// are spread evenly over them.
fn spread(order: Vec<usize>, room: usize, hints: &[PlacementHint], touched: &[Range<usize>]) -> Vec<usize> {
    let Some(last) = order.get(room).map(|at| hints[*at]) else { return order };
    let begins = order.partition_point(|at| hints[*at] > last);
    let ends = order.partition_point(|at| hints[*at] >= last);
    let own: Vec<Vec<_>> =
        touched.iter().map(|tensor| tensor.clone().filter(|at| hints[*at] == last).collect()).collect();
    // Granules that two tensors share are counted twice, so that too large a share uses up the room before the end.
    let share = (room - begins) as f64 / (ends - begins) as f64;
    let shares = (0..50).map(|step| share * (1.0 - f64::from(step) / 50.0));
    let (mut is_taken, mut chosen) = (vec![false; hints.len()], Vec::new());
    for share in shares {
        let reached_the_end;
        (chosen, reached_the_end) = taken_evenly(&own, share, room - begins, hints.len());
        if reached_the_end {
            break;
        }
    }
    chosen.iter().for_each(|at| is_taken[*at] = true);
    let left = order[begins..].iter().copied().filter(|at| !is_taken[*at]);
    order[..begins].iter().copied().chain(chosen.iter().copied()).chain(left).collect()
}

/// A share of tensors, given by their granules of `granules` in all, taken whole and at even distances. And whether each
/// that was due fitted.
fn taken_evenly(tensors: &[Vec<usize>], share: f64, room: usize, granules: usize) -> (Vec<usize>, bool) {
    let (mut chosen, mut is_taken, mut due) = (Vec::new(), vec![false; granules], 0.0);
    for tensor in tensors {
        let own: Vec<_> = tensor.iter().copied().filter(|at| !is_taken[*at]).collect();
        due += share * own.len() as f64;
        if own.is_empty() || due * 2.0 < own.len() as f64 {
            continue;
        }
        if chosen.len() + own.len() > room {
            return (chosen, false);
        }
        due -= own.len() as f64;
        own.iter().for_each(|at| is_taken[*at] = true);
        chosen.extend(own);
    }
    (chosen, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 10 * GRANULE;

    fn rule(tensor: &str, tier: Tier, priority: u8) -> PlaceRule {
        PlaceRule { tensor: tensor.into(), layers: None, at_least: 0, tier, priority }
    }

    /// Tensors of whole granules, one after another.
    fn tensors(all: &[(&str, u64)]) -> Vec<(u64, Tensor)> {
        let mut at = BASE;
        all.iter()
            .map(|(name, granules)| {
                let tensor =
                    Tensor { name: (*name).into(), bytes: granules * GRANULE, is_weight: true, ..Tensor::default() };
                at += tensor.bytes;
                (at - tensor.bytes, tensor)
            })
            .collect()
    }

    /// One letter a granule: V or R.
    fn map(extents: &[Extent]) -> String {
        extents.iter().flat_map(|it| (0..it.bytes / GRANULE).map(|_| if it.in_vram { 'V' } else { 'R' })).collect()
    }

    #[test]
    fn priority_decides_who_gets_vram_and_ram_means_ram() {
        let rules =
            Rules::new(&[rule("exps", Tier::Auto, 10), rule("norm", Tier::Vram, 50), rule("embd", Tier::Ram, 50)]);
        let all = tensors(&[("token_embd", 2), ("ffn_up_exps", 3), ("attn_q", 2), ("norm", 1)]);
        assert_eq!(map(&plan(&rules, &all, BASE, 8 * GRANULE, 4 * GRANULE, Among::First)), "RRVRRVVV");
        assert_eq!(map(&plan(&rules, &all, BASE, 8 * GRANULE, GRANULE, Among::First)), "RRRRRRRV");
        assert_eq!(map(&plan(&rules, &all, BASE, 8 * GRANULE, 100 * GRANULE, Among::First)), "RRVVVVVV");
    }

    #[test]
    fn layers_and_sizes_limit_a_rule_and_the_first_that_fits_decides() {
        let mut low = rule("ffn", Tier::Ram, 0);
        low.layers = Some((1, 2));
        let mut large = rule(".", Tier::Ram, 0);
        large.at_least = 3 * GRANULE;
        let rules = Rules::new(&[low, rule("ffn", Tier::Vram, 0), large]);
        let all = tensors(&[("blk.0.ffn", 1), ("blk.2.ffn", 1), ("blk.3.ffn", 4), ("big", 3), ("small", 2)]);
        assert_eq!(map(&plan(&rules, &all, BASE, 11 * GRANULE, 100 * GRANULE, Among::First)), "VRVVVVRRRVV");
    }

    #[test]
    fn what_is_streamed_is_spread_over_the_pass_in_whole_tensors() {
        let rules = Rules::new(&[rule("attn", Tier::Auto, 90)]);
        let all: Vec<_> = (0..6).flat_map(|_| [("attn", 1), ("ffn", 3)]).collect();
        let among = |room, among| map(&plan(&rules, &tensors(&all), BASE, 24 * GRANULE, room * GRANULE, among));
        assert_eq!(among(15, Among::First), "VVVVVVVVVVVVVRRRVRRRVRRR");
        assert_eq!(among(15, Among::Spread), "VVVVVRRRVVVVVRRRVVVVVRRR");
        let chunks = |among| plan(&rules, &tensors(&all), BASE, 24 * GRANULE, 24 * GRANULE, among).len();
        assert_eq!((chunks(Among::First), chunks(Among::Spread)), (12, 12), "one for each tensor");
        let same: Vec<_> = (0..6).map(|_| ("ffn", 4)).collect();
        let chunks = |among| plan(&rules, &tensors(&same), BASE, 24 * GRANULE, 24 * GRANULE, among).len();
        assert_eq!((chunks(Among::First), chunks(Among::Spread)), (1, 6), "also of equals");
        // What is left over for no whole tensor is used all the same.
        assert_eq!(among(16, Among::Spread).matches('V').count(), 16);
        assert_eq!(among(24, Among::Spread), among(24, Among::First));
    }

    #[test]
    fn tensors_that_share_granules_are_spread_to_the_end_too() {
        // 4.25 MiB each, as they come: most granules belong to one tensor, and some to two.
        let bytes = GRANULE * 2 + GRANULE / 8;
        let tensor =
            |at| (BASE + at * bytes, Tensor { name: "ffn".into(), bytes, is_weight: true, ..Tensor::default() });
        let all: Vec<_> = (0..48).map(tensor).collect();
        let span = (48 * bytes).next_multiple_of(GRANULE);
        let extents = plan(&Rules::new(&[]), &all, BASE, span, span / GRANULE / 2 * GRANULE, Among::Spread);
        let map = map(&extents);
        let inside = |(at, _): &(u64, Tensor)| {
            let granules = (at - BASE) / GRANULE..=(at - BASE + bytes - 1) / GRANULE;
            granules.into_iter().all(|granule| map.as_bytes()[granule as usize] == b'V')
        };
        let inside: Vec<_> = all.iter().map(inside).collect();
        let longest = inside.split(|inside| *inside).map(<[bool]>::len).max();
        assert!(longest <= Some(3), "{longest:?} tensors in a row are outside: {inside:?}");
        assert!(inside.iter().filter(|inside| **inside).count() >= 16, "{inside:?}");
    }

    #[test]
    fn classes_that_the_launcher_accepts_are_accepted_here() {
        let rules = Rules::new(&[rule(r"^blk\.\d+\.\w+_exps\b", Tier::Ram, 0)]);
        let all = tensors(&[("blk.17.ffn_up_exps.weight", 1), ("blk.x.ffn_up_exps.weight", 1)]);
        assert_eq!(map(&plan(&rules, &all, BASE, 2 * GRANULE, 2 * GRANULE, Among::First)), "RV");
    }

    #[test]
    fn a_shared_granule_follows_the_tensor_that_wants_vram_most() {
        let rules = Rules::new(&[rule("cold", Tier::Ram, 0), rule("hot", Tier::Vram, 0)]);
        let half = GRANULE / 2;
        let tensor = |name: &str, bytes| Tensor { name: name.into(), bytes, is_weight: true, ..Tensor::default() };
        let all = [(BASE, tensor("cold", GRANULE + half)), (BASE + GRANULE + half, tensor("hot", half))];
        assert_eq!(map(&plan(&rules, &all, BASE, 2 * GRANULE, 2 * GRANULE, Among::First)), "RV");
    }

    #[test]
    fn stretches_cover_the_span_and_differ_from_their_neighbours() {
        let rules = Rules::new(&[rule("a", Tier::Auto, 90)]);
        let all = tensors(&[("a", 3), ("b", 2), ("a2", 2)]);
        let extents = plan(&rules, &all, BASE, 9 * GRANULE, 4 * GRANULE, Among::First);
        assert_eq!(extents.iter().map(|it| it.bytes).sum::<u64>(), 9 * GRANULE);
        assert!(extents.windows(2).all(|pair| (pair[0].in_vram, pair[0].hint) != (pair[1].in_vram, pair[1].hint)));
    }
}
