//! The keys of a model, which bear its architecture's name. Where a number is usual there may be one for each layer.

use super::architecture;
use greenboost_gguf::{Metadata, Tensor, Value};

/// The keys of a model.
pub struct Keys<'a> {
    metadata: &'a Metadata,
    /// The architecture, as the file says it.
    pub architecture: String,
}

impl<'a> Keys<'a> {
    /// Those of a file.
    pub fn new(metadata: &'a Metadata) -> Self {
        Self { metadata, architecture: metadata.text("general.architecture").unwrap_or_default().to_owned() }
    }

    /// The value of a key of the architecture.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.metadata.get(&format!("{}.{key}", self.architecture))
    }

    /// A whole number, the largest of several.
    pub fn number(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Value::Array(values) => values.iter().filter_map(Value::as_u64).max(),
            value => value.as_u64(),
        }
    }

    /// A number for a layer, from a list or one for all.
    pub fn of_layer(&self, key: &str, layer: usize) -> Option<u64> {
        match self.get(key)? {
            Value::Array(values) => values.get(layer)?.as_u64(),
            value => value.as_u64(),
        }
    }

    /// The numbers of a list, or the one there is.
    pub fn list(&self, key: &str) -> Vec<u64> {
        match self.get(key) {
            Some(Value::Array(values)) => values.iter().filter_map(Value::as_u64).collect(),
            value => value.and_then(Value::as_u64).into_iter().collect(),
        }
    }
}

/// How many of a file's blocks, the last ones, only guess ahead.
pub fn speculative(keys: &Keys<'_>, tensors: &[Tensor], blocks: u64) -> u64 {
    let named = keys.number("nextn_predict_layers").unwrap_or(0).min(blocks);
    // Files of this one say so also where the blocks have been left out, and llama.cpp looks.
    let probe = format!("blk.{}.nextn.eh_proj.weight", blocks - named);
    let is_probed = architecture::find(&keys.architecture).is_some_and(|known| known.name == "deepseek4");
    if is_probed && !tensors.iter().any(|tensor| tensor.name == probe) { 0 } else { named }
}
