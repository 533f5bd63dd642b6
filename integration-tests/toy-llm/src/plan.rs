//! What both engines compute: the sequence of kernels for one token, and the numbers they agree on.

use crate::gguf::Model;
use anyhow::{Context, Result, ensure};
use std::collections::HashMap;

/// The first token of every answer.
pub const START_TOKEN: u32 = 1;

/// A matrix by its position in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// Index among the model's tensors.
    pub tensor: usize,
    /// Rows.
    pub rows: u32,
    /// Columns.
    pub cols: u32,
}

impl Matrix {
    /// What makes a product of this matrix fit signed bytes again: the standard deviation of weights times activations
    /// is known from how models are made.
    pub fn output_scale(self) -> f32 {
        3.0 / (self.cols as f32).sqrt()
    }
}

/// The matrices of one layer.
#[derive(Debug, Clone, Copy)]
pub struct Layer {
    /// Model width to model width, in front of the KV step.
    pub attention: Matrix,
    /// Model width to feed-forward width.
    pub up: Matrix,
    /// And back.
    pub down: Matrix,
}

/// A model's matrices by role.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Token embeddings.
    pub embedding: Matrix,
    /// All layers in order.
    pub layers: Vec<Layer>,
    /// The last product, whose largest element is the next token.
    pub output: Matrix,
}

impl Plan {
    /// Finds the matrices and checks that they fit together.
    pub fn of(model: &Model) -> Result<Self> {
        let (dim, ffn) = (model.number("toy.embedding_length")?, model.number("toy.feed_forward_length")?);
        let vocab = model.number("toy.vocab_size")?;
        let mut by_name = HashMap::new();
        for (tensor, (about, _)) in model.tensors().enumerate() {
            let matrix = Matrix { tensor, rows: u32::try_from(about.rows)?, cols: u32::try_from(about.cols)? };
            by_name.insert(about.name.as_str(), matrix);
        }
        let find = |name: &str, cols, rows| -> Result<Matrix> {
            let matrix = *by_name.get(name).with_context(|| format!("the model has no {name}"))?;
            ensure!((matrix.cols, matrix.rows) == (cols, rows), "{name} is not {cols} x {rows}");
            Ok(matrix)
        };
        let layers = (0..model.number("toy.block_count")?)
            .map(|layer| {
                Ok(Layer {
                    attention: find(&format!("blk.{layer}.attn_qkv.weight"), dim, dim)?,
                    up: find(&format!("blk.{layer}.ffn_up.weight"), dim, ffn)?,
                    down: find(&format!("blk.{layer}.ffn_down.weight"), ffn, dim)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            embedding: find("token_embd.weight", dim, vocab)?,
            layers,
            output: find("output.weight", dim, vocab)?,
        })
    }

    /// Model width.
    pub fn dim(&self) -> u32 {
        self.embedding.cols
    }

    /// Feed-forward width.
    pub fn ffn(&self) -> u32 {
        self.layers.first().map_or(self.dim(), |layer| layer.up.rows)
    }

    /// Tokens in the vocabulary.
    pub fn vocab(&self) -> u32 {
        self.output.rows
    }
}

/// The tokens and a digest of everything the engine computed on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Generated tokens.
    pub tokens: Vec<u32>,
    /// FNV-1a over the logits of every token and the KV buffer at the end.
    pub checksum: u64,
}

impl Answer {
    /// Nothing generated yet.
    pub fn new() -> Self {
        Self { tokens: Vec::new(), checksum: 0xcbf2_9ce4_8422_2325 }
    }

    /// Takes bytes into the digest.
    pub fn digest(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.checksum = (self.checksum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}
