//! Which layers see a window of the context.

use super::super::Keys;
use super::super::architecture::{Architecture, Windows};
use greenboost_gguf::Value;

/// Of an architecture that llama.cpp does not know: where the file says how often a layer sees the whole context but not
/// which, the first does, of which there are as many or one more.
const UNKNOWN: Windows = Windows { period: 1, dense_first: true, unnamed: None, always: None, layers: None };

/// The window of each layer, if it has one.
pub fn windows(keys: &Keys<'_>, known: Option<&Architecture>, layers: usize) -> Vec<Option<u64>> {
    let Some(rule) = known.map_or(Some(UNKNOWN), |known| known.windows) else { return vec![None; layers] };
    if rule.layers.is_some_and(|only| only != layers as u64) {
        return vec![None; layers];
    }
    let size = |layer: usize| {
        let named = keys.of_layer("attention.sliding_window", layer);
        let named = if named.is_some() { named } else { rule.unnamed };
        named.filter(|window| *window > 0).map(|window| rule.always.unwrap_or(window))
    };
    (0..layers).map(|layer| size(layer).filter(|_| is_windowed(keys, &rule, layer))).collect()
}

fn is_windowed(keys: &Keys<'_>, rule: &Windows, layer: usize) -> bool {
    match keys.get("attention.sliding_window_pattern") {
        Some(Value::Array(values)) => values.get(layer).and_then(Value::as_u64).is_some_and(|value| value != 0),
        value => {
            let period = value.and_then(Value::as_u64).unwrap_or(rule.period);
            let place = (layer as u64).checked_rem(period);
            // No period: every layer has one.
            place.is_none_or(|place| place != if rule.dense_first { 0 } else { period - 1 })
        }
    }
}
