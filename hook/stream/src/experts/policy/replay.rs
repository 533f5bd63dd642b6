//! Caches replayed over a layer's routing: ours, and plain ones to compare it with.

use super::routing::Trace;
use super::{HALF_LIFE, LayerCache, MARGIN, MOST_CAUTION, NARROW, Reads, WIDEN};
use std::collections::BTreeMap;

/// Tokens at the beginning that are not counted, as in published replays.
const BEGINNING: usize = 32;

/// What a cache made of a trace after its beginning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    pub hits: f64,
    /// Promotions for each token.
    pub promoted: f64,
}

/// Promotes after each token, and every copy is made before the next.
pub fn replay(cache: &mut LayerCache, trace: &Trace, cap: usize) -> Outcome {
    let mut before = Reads::default();
    for (at, ids) in trace.iter().enumerate() {
        if at == BEGINNING {
            before = cache.reads();
        }
        cache.asked(ids);
        for promotion in cache.promotions(cap) {
            assert_eq!(cache.held(promotion.slot), promotion.replaces);
            cache.began(promotion.slot);
            cache.placed(promotion.expert, promotion.slot);
        }
    }
    let reads = cache.reads();
    Outcome {
        hits: (reads.hits - before.hits) as f64 / (reads.all - before.all) as f64,
        promoted: (reads.promoted - before.promoted) as f64 / (trace.len() - BEGINNING) as f64,
    }
}

/// The least recently used goes, every miss is promoted at once.
pub fn lru(trace: &Trace, slots: usize) -> f64 {
    let (mut held, mut hits, mut all): (Vec<i32>, u32, u32) = (Vec::new(), 0, 0);
    for (at, ids) in trace.iter().enumerate() {
        for id in ids {
            let found = held.iter().position(|held| held == id);
            if at >= BEGINNING {
                all += 1;
                hits += u32::from(found.is_some());
            }
            found.map(|at| held.remove(at));
            held.push(*id);
            if held.len() > slots {
                held.remove(0);
            }
        }
    }
    f64::from(hits) / f64::from(all)
}

/// The same policy written down once more, from all uses so far and without any of the shortcuts.
pub fn plain(trace: &Trace, slots: usize, cap: usize) -> f64 {
    let mut uses: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    let mut held: BTreeMap<i32, bool> = BTreeMap::new();
    let (mut hits, mut all, mut caution) = (0, 0, 1.0);
    for (now, ids) in trace.iter().enumerate() {
        for id in ids {
            uses.entry(*id).or_default().push(now);
            let found = held.get_mut(id);
            if now >= BEGINNING {
                all += 1;
                hits += u32::from(found.is_some());
            }
            if let Some(is_read) = found.filter(|is_read| !**is_read) {
                *is_read = true;
                caution = f64::max(caution * f64::from(NARROW), 1.0);
            }
        }
        let heat = |id: &i32| -> f64 {
            uses.get(id).map_or(0.0, |uses| {
                uses.iter().map(|then| (-((now - then) as f64) / f64::from(HALF_LIFE)).exp2()).sum()
            })
        };
        let mut missed: Vec<_> = ids.iter().filter(|id| !held.contains_key(*id)).copied().collect();
        missed.sort_by(|a, b| heat(b).total_cmp(&heat(a)).then(a.cmp(b)));
        for id in missed.into_iter().take(cap) {
            if held.len() == slots {
                let idle = held.keys().filter(|id| uses[*id].last() != Some(&now)).copied();
                let Some(coldest) = idle.min_by(|a, b| heat(a).total_cmp(&heat(b))) else { break };
                if heat(&id) <= heat(&coldest) * f64::from(MARGIN) * caution {
                    break;
                }
                if held.remove(&coldest) == Some(false) {
                    caution = (caution * f64::from(WIDEN)).min(f64::from(MOST_CAUTION));
                }
            }
            held.insert(id, false);
        }
    }
    f64::from(hits) / f64::from(all)
}

/// Experts of a layer, and the layers' traces, of a recording: lines of columns `step` (or `token`), `layer` and `expert`, and
/// `n_expert=` in a comment.
pub fn recorded(text: &str) -> (usize, BTreeMap<u32, Trace>) {
    let experts = text.split_once("n_expert=").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
    let mut rows = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(',').collect::<Vec<_>>());
    let header = rows.next().expect("names of columns");
    let column = |names: &[&str]| header.iter().position(|name| names.contains(name)).expect("the column is there");
    let (step, layer, expert) = (column(&["step", "token"]), column(&["layer"]), column(&["expert"]));
    let mut layers: BTreeMap<u32, BTreeMap<u32, Vec<i32>>> = BTreeMap::new();
    for row in rows {
        let number = |at: usize| row[at].parse::<u32>().expect("a number");
        layers.entry(number(layer)).or_default().entry(number(step)).or_default().push(number(expert) as i32);
    }
    let layers = layers.into_iter().map(|(layer, steps)| (layer, steps.into_values().collect()));
    (experts.expect("n_expert= in a comment"), layers.collect())
}
