use super::replay::{lru, plain, recorded, replay};
use super::routing::{MANY, QWEN3, Routing, SKEWED, Trace, UNIFORM, generate};
use super::*;
use fastrand::Rng;

/// Shares of a layer's experts that have expert slots.
const SHARES: [f64; 3] = [0.25, 0.37, 0.5];
/// What the caller allows a layer, of promotions a token.
const CAP: usize = 16;

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let of = values.len() as f64;
    values.sum::<f64>() / of
}

fn slots_of(experts: usize, share: f64) -> usize {
    (experts as f64 * share) as usize
}

fn layers(routing: &Routing, tokens: usize) -> Vec<Trace> {
    (0..4).map(|layer| generate(routing, layer, 7, tokens)).collect()
}

#[test]
fn generated_routing_is_as_skewed_as_the_models_it_is_fitted_to() {
    // Published of Qwen3-30B-A3B: an LRU of a quarter of the experts hits 0.78, of half of them 0.95.
    let traces = layers(&QWEN3, 256);
    for (share, low, high) in [(0.25, 0.74, 0.82), (0.5, 0.92, 0.97)] {
        let hits = mean(traces.iter().map(|trace| lru(trace, slots_of(128, share))));
        assert!((low..high).contains(&hits), "{share}: {hits}");
    }
    assert_eq!(generate(&QWEN3, 1, 2, 8), generate(&QWEN3, 1, 2, 8));
    assert_ne!(generate(&QWEN3, 1, 2, 8), generate(&QWEN3, 1, 3, 8));
    assert!(traces[0].iter().all(|ids| ids.len() == 8 && ids.iter().all(|id| (0..128).contains(id))));
}

#[test]
fn it_hits_as_often_as_the_policy_written_down_plainly_and_no_less_than_lru() {
    for routing in [QWEN3, MANY, SKEWED] {
        let traces = layers(&routing, 256);
        for share in SHARES {
            let slots = slots_of(routing.experts, share);
            let hits = |trace| replay(&mut LayerCache::new(routing.experts, slots), trace, CAP).hits;
            let ours = mean(traces.iter().map(hits));
            let plainly = mean(traces.iter().map(|trace| plain(trace, slots, CAP)));
            let recent = mean(traces.iter().map(|trace| lru(trace, slots)));
            let case =
                format!("{} experts, {share}: {ours:.3}, plainly {plainly:.3}, LRU {recent:.3}", routing.experts);
            assert!((ours - plainly).abs() < 0.01, "{case}");
            assert!(ours > recent - 0.01, "{case}");
        }
    }
}

#[test]
fn skewed_routing_promotes_a_fraction_of_what_misses() {
    for trace in layers(&QWEN3, 512) {
        let outcome = replay(&mut LayerCache::new(128, 32), &trace, CAP);
        let misses = 8.0 * (1.0 - outcome.hits);
        assert!(outcome.promoted < 0.6 * misses, "{outcome:?}, {misses} misses a token");
    }
}

#[test]
fn uniform_routing_does_not_make_experts_change_places_for_ever() {
    for trace in layers(&UNIFORM, 2000) {
        let outcome = replay(&mut LayerCache::new(128, 32), &trace, CAP);
        assert!(outcome.promoted < 1.5, "of 6 misses a token: {outcome:?}");
        assert!(outcome.hits > 0.24, "a quarter of the experts is there: {outcome:?}");
    }
}

#[test]
fn a_cycle_longer_than_the_slots_keeps_its_slots() {
    // Least recently used is the worst there is for these: it hits nothing.
    for (experts, used) in [(128, 8), (512, 10), (128, 4), (64, 2)] {
        let ids = |token: usize| (0..used).map(|at| ((token * used + at) % experts) as i32).collect();
        let trace: Trace = (0..3000).map(ids).collect();
        let outcome = replay(&mut LayerCache::new(experts, experts / 4), &trace, CAP);
        assert_eq!(lru(&trace, experts / 4), 0.0);
        assert!(outcome.promoted < used as f64 / 4.0, "{experts} by {used}: {outcome:?}");
        assert!(outcome.hits > 0.1, "{experts} by {used}: {outcome:?}");
    }
}

#[test]
fn a_token_promotes_no_more_than_the_caller_allows() {
    let mut cache = LayerCache::new(128, 64);
    for ids in generate(&UNIFORM, 0, 1, 50) {
        cache.asked(&ids);
        let chosen = cache.promotions(3);
        assert!(chosen.len() <= 3);
        chosen.iter().for_each(|promotion| cache.placed(promotion.expert, promotion.slot));
    }
    assert_eq!(cache.promotions(0), []);
}

#[test]
fn fewer_slots_than_a_token_asks_for_are_left_alone_and_say_why() {
    let mut cache = LayerCache::new(16, 3);
    assert_eq!(cache.inert(), None, "nothing is known yet");
    cache.asked(&[0, 1, 2, 3]);
    assert_eq!(cache.promotions(9), []);
    let why = cache.inert().expect("inert").to_string();
    assert_eq!(why, "a token asks for 4 experts of a layer, and there are 3 slots");
    cache.resize(0);
    assert_eq!(cache.inert().expect("inert").to_string(), "there is no VRAM for slots of this layer");
    cache.resize(4);
    assert_eq!((cache.inert(), cache.promotions(9).len()), (None, 4));
    // A batch asks for more, and is no reason.
    cache.asked(&[0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(cache.inert(), None);
}

#[test]
fn what_the_last_token_asked_for_keeps_its_slot() {
    let mut cache = LayerCache::new(16, 2);
    cache.asked(&[0, 1]);
    cache.promotions(2).iter().for_each(|promotion| cache.placed(promotion.expert, promotion.slot));
    for _ in 0..50 {
        cache.asked(&[0, 1, 2]);
        assert_eq!(cache.promotions(9), []);
    }
}

#[test]
fn the_old_expert_is_hit_until_the_copy_begins_and_the_new_one_once_it_is_made() {
    let mut cache = LayerCache::new(16, 1);
    cache.asked(&[5]);
    let first = cache.promotions(9);
    assert_eq!(first, [Promotion { expert: 5, slot: 0, replaces: None }]);
    assert_eq!((cache.asked(&[5]), cache.slot_of(5)), (0, None), "on its way");
    cache.placed(5, 0);
    assert_eq!((cache.asked(&[5]), cache.slot_of(5), cache.held(0)), (1, Some(0), Some(5)));
    for _ in 0..40 {
        cache.asked(&[6]);
    }
    assert_eq!(cache.promotions(9), [Promotion { expert: 6, slot: 0, replaces: Some(5) }]);
    assert_eq!((cache.slot_of(5), cache.slot_of(6), cache.promotions(9)), (Some(0), None, vec![]));
    cache.abandoned(0);
    assert_eq!((cache.slot_of(5), cache.slot_of(6)), (Some(0), None));
    cache.asked(&[6]);
    assert_eq!(cache.promotions(9).len(), 1);
    cache.began(0);
    assert_eq!((cache.slot_of(5), cache.slot_of(6), cache.held(0)), (None, None, None));
    cache.abandoned(0);
    assert_eq!((cache.held(0), cache.reads().promoted), (None, 1));
}

#[test]
fn slots_that_are_taken_away_name_the_experts_that_lose_them() {
    let mut cache = LayerCache::new(16, 4);
    cache.asked(&[0, 1, 2, 3]);
    cache.promotions(3).iter().for_each(|promotion| cache.placed(promotion.expert, promotion.slot));
    let coming = cache.promotions(1)[0];
    assert_eq!((coming.slot, cache.resize(2)), (3, vec![2]));
    cache.placed(coming.expert, coming.slot);
    assert_eq!(
        (cache.slots(), cache.slot_of(coming.expert), cache.slot_of(2)),
        (2, None, None),
        "the copy came too late"
    );
    assert_eq!(cache.resize(0), [0, 1]);
    assert_eq!(cache.resize(3), []);
    let back: Vec<_> = cache.promotions(9).iter().map(|promotion| promotion.expert).collect();
    assert_eq!(back.len(), 0, "fewer slots than the four of a token");
    cache.resize(4);
    let mut back: Vec<_> = cache.promotions(9).iter().map(|promotion| promotion.expert).collect();
    back.sort_unstable();
    assert_eq!(back, [0, 1, 2, 3], "without being asked for again");
}

#[test]
fn counts_of_an_earlier_session_fill_the_slots_before_the_first_token() {
    let trace = generate(&QWEN3, 3, 1, 400);
    let mut first = LayerCache::new(128, 32);
    replay(&mut first, &trace, CAP);
    let counts: Vec<u32> = first.counts().collect();
    assert_eq!(counts.iter().map(|count| u64::from(*count)).sum::<u64>(), 400 * 8);

    let mut warm = LayerCache::new(128, 32);
    warm.warm(&counts);
    let chosen = warm.promotions(99);
    let mut most: Vec<u32> = (0..128).collect();
    most.sort_by_key(|at| std::cmp::Reverse(counts[*at as usize]));
    assert_eq!(chosen[0].expert, most[0]);
    assert!(chosen.len() == 32 && chosen.iter().all(|one| counts[one.expert as usize] >= counts[most[31] as usize]));
    chosen.iter().for_each(|promotion| warm.placed(promotion.expert, promotion.slot));
    let beginning: Trace = generate(&QWEN3, 3, 1, 16);
    let mut cold = LayerCache::new(128, 32);
    for ids in &beginning {
        for cache in [&mut cold, &mut warm] {
            cache.asked(ids);
            cache.promotions(1).iter().for_each(|promotion| cache.placed(promotion.expert, promotion.slot));
        }
    }
    let (cold, warm) = (cold.reads().hits, warm.reads().hits);
    assert!(warm > cold + 20, "{warm} of 128 reads hit, {cold} without counts");
}

#[test]
fn without_counts_it_begins_with_the_first_experts_and_forgets_them_soon() {
    let mut cache = LayerCache::new(16, 3);
    cache.warm(&[]);
    let first: Vec<_> = cache.promotions(9).iter().map(|promotion| (promotion.expert, promotion.slot)).collect();
    assert_eq!(first, [(0, 0), (1, 1), (2, 2)]);
    first.iter().for_each(|(expert, slot)| cache.placed(*expert, *slot));
    cache.asked(&[9]);
    assert_eq!(cache.promotions(9).len(), 1);
    // Counts of another model, too few or too many, are as good as none.
    LayerCache::new(4, 2).warm(&[1; 99]);
    LayerCache::new(4, 2).warm(&[u32::MAX]);
}

#[test]
fn ids_that_are_no_experts_are_not_counted() {
    let mut cache = LayerCache::new(8, 4);
    assert_eq!(cache.asked(&[-1, 8, i32::MAX, i32::MIN]), 0);
    assert_eq!((cache.promotions(9), cache.reads(), cache.inert()), (vec![], Reads::default(), None));
    cache.asked(&[7, 7]);
    assert_eq!((cache.promotions(9).len(), cache.reads().all), (1, 2));
    let mut none = LayerCache::new(0, 0);
    none.asked(&[0]);
    none.resize(2);
    none.warm(&[3]);
    assert_eq!(none.promotions(9), []);
}

#[test]
fn heat_survives_sessions_of_any_length() {
    let mut cache = LayerCache::new(64, 16);
    let (trace, tokens) = (generate(&QWEN3, 0, 1, 512), 100_000);
    for at in 0..tokens {
        let ids: Vec<i32> = trace[at % trace.len()].iter().map(|id| id % 64).collect();
        cache.asked(&ids);
        cache.promotions(2).iter().for_each(|promotion| cache.placed(promotion.expert, promotion.slot));
    }
    assert!(cache.weight.is_finite() && cache.experts.iter().all(|expert| expert.heat.is_finite()));
    assert!(cache.reads().hits * 2 > cache.reads().all, "{:?}", cache.reads());
}

/// No expert is in two places, no two in one, and each side names the other.
fn check(cache: &LayerCache) {
    for (at, expert) in cache.experts.iter().enumerate() {
        let of = |slot: &&Slot| slot.holds as usize == at || slot.coming as usize == at;
        assert!(cache.slots.iter().filter(of).count() <= 1, "expert {at} has two slots");
        if let Some(slot) = named(expert.slot) {
            assert!(of(&&cache.slots[slot as usize]), "slot {slot} does not know expert {at}");
        }
        assert_eq!(expert.is_candidate, cache.candidates.contains(&(at as u32)));
        assert!(!expert.is_candidate || expert.slot == NONE);
    }
    for (at, slot) in cache.slots.iter().enumerate() {
        for expert in [slot.holds, slot.coming].into_iter().filter_map(named) {
            assert_eq!(cache.experts[expert as usize].slot as usize, at);
        }
    }
    assert!(cache.candidates.len() <= cache.experts.len());
    assert!(cache.candidates.capacity() <= cache.experts.len().max(1).next_power_of_two() * 2);
}

#[test]
fn no_two_experts_share_a_slot_whatever_the_caller_does() {
    for seed in 0..200 {
        let mut rng = Rng::with_seed(seed);
        let experts = rng.usize(1..40);
        let mut cache = LayerCache::new(experts, rng.usize(0..20));
        let mut chosen: Vec<Promotion> = Vec::new();
        for _ in 0..400 {
            let slot = rng.u32(0..24);
            match rng.u32(0..12) {
                0..=3 => {
                    let ids: Vec<i32> = (0..rng.usize(0..6)).map(|_| rng.i32(-1..experts as i32 + 2)).collect();
                    cache.asked(&ids);
                }
                4 | 5 => {
                    let now = cache.promotions(rng.usize(0..5));
                    for (at, one) in now.iter().enumerate() {
                        let twice = |other: &Promotion| other.slot == one.slot || other.expert == one.expert;
                        assert!(!now[..at].iter().any(twice));
                        assert_ne!(cache.held(one.slot), Some(one.expert));
                    }
                    chosen.extend(now);
                }
                6 => cache.began(slot),
                7 => cache.abandoned(slot),
                8 => cache.placed(rng.u32(0..45), slot),
                9 if rng.u32(0..4) == 0 => {
                    let before: Vec<_> = (0..24).filter_map(|slot| cache.held(slot)).collect();
                    let lost = cache.resize(rng.usize(0..20));
                    assert!(lost.iter().all(|expert| before.contains(expert) && cache.slot_of(*expert).is_none()));
                }
                _ => {
                    if let Some(one) = chosen.pop() {
                        cache.began(one.slot);
                        check(&cache);
                        cache.placed(one.expert, one.slot);
                    }
                }
            }
            check(&cache);
        }
    }
}

/// Recorded routing, which is not ours to keep here: `ROUTING_TRACES=a.csv:b.csv cargo test -p greenboost-stream replays -- --ignored
/// --nocapture`. Lines `step,layer,expert` in any order of columns, comments with `#`, `n_expert=` in one of them.
#[test]
#[ignore = "wants recorded traces in ROUTING_TRACES"]
fn replays_of_recorded_routing() {
    let paths = std::env::var("ROUTING_TRACES").expect("ROUTING_TRACES names files");
    for path in paths.split(':') {
        let text = std::fs::read_to_string(path).expect("a trace");
        let (experts, layers) = recorded(&text);
        println!("{path}: {} layers, {} tokens", layers.len(), layers.values().next().map_or(0, Vec::len));
        for share in SHARES {
            let slots = slots_of(experts, share);
            let recent = mean(layers.values().map(|trace| lru(trace, slots)));
            for cap in [CAP, 1] {
                let all: Vec<_> =
                    layers.values().map(|trace| replay(&mut LayerCache::new(experts, slots), trace, cap)).collect();
                let hits = mean(all.iter().map(|one| one.hits));
                let promoted = mean(all.iter().map(|one| one.promoted));
                println!("{slots} slots, cap {cap}: hits {hits:.3}, LRU {recent:.3}; {promoted:.2} promotions a token");
                assert!(cap < CAP || hits > recent - 0.01, "{hits} < {recent}");
            }
        }
    }
}
