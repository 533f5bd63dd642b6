//! What a plan needs to know about a model: bytes and weights of each class in each layer, and what a context costs.

mod architecture;
mod cache;
mod class;
mod context;
mod keys;
mod scratch;
mod stacked;
mod uses;

pub use cache::{Cache, Kept, LayerCache, Rows};
pub use class::Class;
pub use context::{ContextParams, KvTypes};
use keys::Keys;
pub use scratch::{POOLS, Widths};
pub use stacked::Stacked;
pub use uses::Uses;

use greenboost_gguf::Model;
use serde::Serialize;

/// How much there is of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Bytes in memory.
    pub bytes: u64,
    /// Weights, each of which is multiplied once for a token.
    pub weights: u64,
}

impl Amount {
    /// Both sums.
    pub fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), weights: self.weights.saturating_add(other.weights) }
    }

    /// A share of both.
    pub fn times(self, share: f64) -> Self {
        Self { bytes: (self.bytes as f64 * share) as u64, weights: (self.weights as f64 * share) as u64 }
    }
}

/// The weights of a layer, or of what is in no layer, by class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weights([Amount; Class::ALL.len()]);

impl Weights {
    /// Those of a class.
    pub fn of(&self, class: Class) -> Amount {
        self.0[class as usize]
    }

    /// All that a GPU computes with and that is not an expert's.
    pub fn dense(&self) -> Amount {
        Class::ALL
            .iter()
            .filter(|class| class.is_dense())
            .fold(Amount::default(), |sum, class| sum.plus(self.of(*class)))
    }

    /// The experts'.
    pub fn experts(&self) -> Amount {
        self.of(Class::Experts)
    }
}

/// More than any model has.
const MOST_LAYERS: u64 = 4096;

/// A model.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Its name, as it says itself.
    pub name: String,
    /// Its architecture: `llama`, `qwen3moe`.
    pub architecture: String,
    /// Bytes of its files.
    pub file_bytes: u64,
    /// Its layers.
    pub layers: Vec<Weights>,
    /// Of each of them, experts that a kernel finds by their numbers.
    pub stacked: Vec<Stacked>,
    /// How often its experts were used in earlier sessions; nothing of it is in the file.
    pub uses: Uses,
    /// Blocks after them that only guess ahead: not loaded, but llama.cpp's `-ngl` counts them.
    pub speculative: u64,
    /// The output matrix and its norm; a copy of the embedding where the model has only that.
    pub output: Amount,
    /// The norm alone.
    pub output_norm: Amount,
    /// The embedding, which llama.cpp keeps in RAM.
    pub embedding: Amount,
    /// What is not computed with in text: extra heads for speculation, vision.
    pub unused: Amount,
    /// Bytes of the largest tensor of a layer.
    pub largest: u64,
    /// Experts in a layer; 0 in a dense model.
    pub experts: u64,
    /// Experts a token goes through; the most of any layer.
    pub experts_used: u64,
    active: f64,
    /// The context it was trained for.
    pub context: u64,
    /// How wide its graph is, which says what a micro-batch needs.
    pub widths: Widths,
    /// What a context costs.
    pub cache: Cache,
}

impl Facts {
    /// Reads them off a model's metadata and tensor table.
    pub fn new(model: &Model) -> Self {
        let keys = Keys::new(&model.metadata);
        let count = keys.number("block_count").unwrap_or(0).min(MOST_LAYERS);
        let speculative = keys::speculative(&keys, &model.tensors, count);
        let computed = count - speculative;
        let mut layers = vec![Weights::default(); computed as usize];
        let mut stacked = vec![Stacked::default(); layers.len()];
        let (mut output, mut embedding, mut unused) = (Amount::default(), Amount::default(), Amount::default());
        let tied = !model.tensors.iter().any(|tensor| tensor.name == "output.weight");
        let mut output_norm = Amount::default();
        let (mut vocabulary, mut largest) = (keys.number("vocab_size").unwrap_or(0), 0);
        for tensor in &model.tensors {
            let amount = Amount { bytes: tensor.bytes, weights: tensor.weights() };
            let (class, layer) = Class::of(&tensor.name);
            let place = match (class, layer) {
                (Class::Embedding, _) => &mut embedding,
                (Class::Output, None) => &mut output,
                (Class::Norm, None) => &mut output_norm,
                (_, Some(layer)) if class != Class::Other && layer < computed => {
                    largest = largest.max(tensor.bytes);
                    if class == Class::Experts {
                        stacked[layer as usize].count(tensor);
                    }
                    &mut layers[layer as usize].0[class as usize]
                }
                _ => &mut unused,
            };
            *place = place.plus(amount);
            if tensor.name == "token_embd.weight" {
                vocabulary = tensor.shape[1];
                if tied {
                    output = output.plus(amount);
                }
            }
        }
        let experts = keys.number("expert_count").unwrap_or(0);
        let used = |layer: usize| keys.of_layer("expert_used_count", layer).unwrap_or(0);
        let cache = Cache::new(&keys, &model.tensors, layers.len(), speculative as usize);
        Self {
            name: model.metadata.text("general.name").unwrap_or("a model without a name").to_owned(),
            architecture: keys.architecture.clone(),
            file_bytes: model.bytes(),
            output: output.plus(output_norm),
            output_norm,
            embedding,
            unused,
            largest,
            experts,
            experts_used: (0..layers.len()).map(used).max().unwrap_or(0),
            active: active_share(&layers, experts, used),
            context: keys.number("context_length").unwrap_or(0),
            widths: Widths::new(&keys, &model.tensors, layers.len(), &cache.layers, vocabulary),
            cache,
            speculative,
            layers,
            stacked,
            uses: Uses::default(),
        }
    }

    /// The same of a model whose experts were used so.
    #[must_use]
    pub fn with(self, uses: Uses) -> Self {
        Self { uses, ..self }
    }

    /// Whether every layer's experts are found by their numbers, and there are some.
    pub fn has_stacked_experts(&self) -> bool {
        let are_stacked = |(layer, stacked): (&Weights, &Stacked)| layer.experts().bytes == 0 || stacked.tensors > 0;
        self.experts > 0
            && self.stacked.iter().any(|layer| layer.tensors > 0)
            && self.layers.iter().zip(&self.stacked).all(are_stacked)
    }

    /// The share of its experts' weights that a token goes through.
    pub fn active_share(&self) -> f64 {
        self.active
    }

    /// What the GPU computes with: everything but the embedding and what is not used.
    pub fn computed(&self) -> Split {
        let mut split = Split { dense: self.output, experts: Amount::default() };
        for layer in &self.layers {
            split.dense = split.dense.plus(layer.dense());
            split.experts = split.experts.plus(layer.experts());
        }
        split
    }

    /// Bytes of a class over all layers, for the report.
    pub fn class_bytes(&self, class: Class) -> u64 {
        let sum = self.layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.of(class).bytes));
        match class {
            Class::Embedding => self.embedding.bytes,
            Class::Output => self.output.bytes.saturating_sub(self.output_norm.bytes),
            Class::Norm => sum.saturating_add(self.output_norm.bytes),
            Class::Other => self.unused.bytes,
            _ => sum,
        }
    }
}

/// The share of all experts' weights that a token goes through: layers may use more of them or fewer.
fn active_share(layers: &[Weights], experts: u64, used: impl Fn(usize) -> u64) -> f64 {
    let (mut read, mut all) = (0.0, 0.0);
    for (index, layer) in layers.iter().enumerate() {
        let bytes = layer.experts().bytes as f64;
        all += bytes;
        read += bytes * (used(index) as f64 / experts.max(1) as f64).min(1.0);
    }
    if experts == 0 {
        1.0
    } else if all > 0.0 {
        read / all
    } else {
        (used(0) as f64 / experts as f64).min(1.0)
    }
}

/// Weights that every token reads, and weights of which it reads a share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Split {
    /// Attention, norms, feed-forward networks, routers, output.
    pub dense: Amount,
    /// Experts.
    pub experts: Amount,
}

impl Split {
    /// Both sums.
    pub fn plus(self, other: Self) -> Self {
        Self { dense: self.dense.plus(other.dense), experts: self.experts.plus(other.experts) }
    }

    /// Bytes of both.
    pub fn bytes(&self) -> u64 {
        self.dense.bytes.saturating_add(self.experts.bytes)
    }
}

#[cfg(test)]
mod tests;
