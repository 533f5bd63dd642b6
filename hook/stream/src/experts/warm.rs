//! Counts of earlier sessions: what a model's expert slots are filled with first.

use super::cache::Cache;
use super::layers::State;
use greenboost_contract::counts::Counts;
use greenboost_contract::{cache, counts};
use greenboost_cuda::abi::CUdeviceptr;

/// Tells the layers of an allocation that have got their first expert slots what earlier sessions counted.
pub fn warm(cache: &Cache, state: &mut State, fresh: &[usize]) {
    let State { kept, layers, .. } = state;
    for at in fresh {
        let Some(layer) = layers.get_mut(*at) else { continue };
        let file = || layer.parts.iter().find_map(|(window, _)| cache.file_of(window.at));
        let (_, known) = kept.entry(layer.base).or_insert_with(|| {
            let key = file().and_then(|file| counts::key(&file).ok());
            let known = key.as_ref().zip(cache::folder()).map(|(key, folder)| counts::load(&folder, key));
            let known = known.unwrap_or_default();
            log::info!(
                "experts begin with {}",
                if known.is_empty() { "the first ones" } else { "those of earlier sessions" }
            );
            (key, known)
        });
        let own = layer.number().and_then(|number| known.get(&number));
        layer.cache.warm(own.map_or(&[], |own| own));
    }
}

/// What was counted so far, by the models' keys.
pub fn counted(state: &State) -> Vec<(String, Counts)> {
    let of = |base: &CUdeviceptr| -> Counts {
        let layers = state.layers.iter().filter(|layer| layer.base == *base && !layer.parts.is_empty());
        layers.filter_map(|layer| Some((layer.number()?, layer.cache.counts().collect()))).collect()
    };
    let all = state.kept.iter().filter_map(|(base, (key, _))| Some((key.clone()?, of(base))));
    all.filter(|(_, counts)| !counts.is_empty()).collect()
}

/// Keeps it in the cache folder. Nothing is held meanwhile: a file may be waited for.
pub fn keep(counted: Vec<(String, Counts)>) {
    let Some(folder) = cache::folder() else { return };
    for (key, counts) in counted {
        if !counts::keep(&folder, &key, &counts) {
            log::debug!("counts of experts are not kept in {}", folder.display());
        }
    }
}
