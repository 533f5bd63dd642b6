//! What a model's tokens asked its experts for in earlier sessions, as the hook keeps it.

use greenboost_contract::{cache, counts};
use greenboost_gguf::Model;

/// How often each expert was used, the most used first, for each layer that was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uses(Vec<Vec<u32>>);

/// Uses of an expert, in the mean, from which on counts say more of a model than other models do: as many tokens as the recorded
/// routing has that [`Uses::share`] is compared with.
const ENOUGH: u64 = 4;

impl Uses {
    /// Those that are kept of a model, in whichever of its files the hook found its experts.
    pub fn kept(model: &Model) -> Self {
        let Some(folder) = cache::folder() else { return Self::default() };
        let of = |path: &std::path::Path| Some(counts::load(&folder, &counts::key(path).ok()?));
        let known = model.files.iter().filter_map(|file| of(&file.path)).find(|counts| !counts.is_empty());
        Self::new(known.unwrap_or_default().into_values())
    }

    /// Of counts, one list for each layer.
    pub fn new(layers: impl IntoIterator<Item = Vec<u32>>) -> Self {
        let sorted = |mut layer: Vec<u32>| {
            layer.sort_unstable_by(|one, other| other.cmp(one));
            layer
        };
        Self(layers.into_iter().map(sorted).collect())
    }

    /// The share of reads that were of each layer's most used experts, this many of them; `None` where too little was counted.
    pub fn share(&self, most_used: u64) -> Option<f64> {
        let sum = |layer: &[u32]| layer.iter().map(|uses| u64::from(*uses)).sum::<u64>();
        let most_used = usize::try_from(most_used).unwrap_or(usize::MAX);
        let all: u64 = self.0.iter().map(|layer| sum(layer)).sum();
        let experts: u64 = self.0.iter().map(|layer| layer.len() as u64).sum();
        let hot: u64 = self.0.iter().map(|layer| sum(&layer[..most_used.min(layer.len())])).sum();
        (all > 0 && all >= ENOUGH * experts).then(|| hot as f64 / all as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_that_of_each_layers_most_used_experts() {
        let uses = Uses::new([vec![1, 30, 9, 0], vec![10, 10, 10, 10]]);
        for (most_used, share) in [(0, 0.0), (1, 0.5), (2, 59.0 / 80.0), (4, 1.0), (9, 1.0)] {
            assert_eq!(uses.share(most_used), Some(share), "{most_used}");
        }
        assert_eq!(Uses::new([vec![1, 2, 3, 4]]).share(2), None, "a few tokens");
        assert_eq!(Uses::default().share(1), None);
    }
}
