//! Makes models of random weights: the shape of a small transformer, any size in bytes.

use crate::gguf::{self, ALIGNMENT, BLOCK, Tensor};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// What a model looks like. The feed-forward width is three times the model width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Transformer layers.
    pub layers: u32,
    /// Model width, a multiple of 32.
    pub dim: u32,
    /// Tokens in the vocabulary.
    pub vocab: u32,
}

impl Shape {
    /// The shape whose file comes closest to `bytes` without being smaller than one layer.
    pub fn of_size(bytes: u64) -> Self {
        let dim = match bytes >> 20 {
            0..=15 => 256,
            16..=511 => 512,
            512..=4095 => 1024,
            _ => 4096,
        };
        let mut shape = Self { layers: 0, dim, vocab: 2048 };
        let around = shape.data_bytes();
        shape.layers = 1;
        let layer = shape.data_bytes() - around;
        shape.layers = u32::try_from((bytes.saturating_sub(around) + layer / 2) / layer).unwrap_or(u32::MAX).max(1);
        shape
    }

    /// Feed-forward width.
    pub fn ffn(self) -> u32 {
        self.dim * 3
    }

    /// The tensors in file order, named as llama.cpp names them.
    pub fn tensors(self) -> Vec<Tensor> {
        let (dim, ffn, vocab) = (u64::from(self.dim), u64::from(self.ffn()), u64::from(self.vocab));
        let matrix = |name: String, cols, rows| Tensor { name, cols, rows };
        let mut tensors = vec![matrix("token_embd.weight".to_owned(), dim, vocab)];
        for layer in 0..self.layers {
            tensors.push(matrix(format!("blk.{layer}.attn_qkv.weight"), dim, dim));
            tensors.push(matrix(format!("blk.{layer}.ffn_up.weight"), dim, ffn));
            tensors.push(matrix(format!("blk.{layer}.ffn_down.weight"), ffn, dim));
        }
        tensors.push(matrix("output.weight".to_owned(), dim, vocab));
        tensors
    }

    fn data_bytes(self) -> u64 {
        self.tensors().iter().map(|tensor| tensor.bytes().next_multiple_of(ALIGNMENT)).sum()
    }
}

/// Writes a model; the same seed gives the same file.
pub fn make(path: &Path, shape: Shape, seed: u64) -> Result<()> {
    ensure!(shape.dim > 0 && u64::from(shape.dim) % BLOCK == 0, "--dim must be a multiple of {BLOCK}");
    ensure!(shape.layers > 0 && shape.vocab > 0, "--layers and --vocab must be at least 1");
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let tensors = shape.tensors();
    let numbers = [
        ("toy.block_count", shape.layers),
        ("toy.embedding_length", shape.dim),
        ("toy.feed_forward_length", shape.ffn()),
        ("toy.vocab_size", shape.vocab),
    ];
    gguf::write_header(&mut out, &numbers, &tensors)?;
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for tensor in &tensors {
        for _ in 0..tensor.rows * tensor.cols / BLOCK {
            out.write_all(&random.block())?;
        }
        let padding = tensor.bytes().next_multiple_of(ALIGNMENT) - tensor.bytes();
        out.write_all(&[0; ALIGNMENT as usize][..padding as usize])?;
    }
    out.flush().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One Q8_0 block: the scale lies in 2^-9..2^-7, so that sums stay well inside an f32.
    fn block(&mut self) -> [u8; gguf::BLOCK_BYTES as usize] {
        let mut block = [0; gguf::BLOCK_BYTES as usize];
        let exponent = 6 + (self.next() >> 63) as u16;
        let scale = exponent << 10 | (self.next() >> 54) as u16;
        block[..2].copy_from_slice(&scale.to_le_bytes());
        for eight in block[2..].chunks_exact_mut(8) {
            eight.copy_from_slice(&self.next().to_le_bytes());
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_met_within_a_layer() {
        for mib in [4u64, 16, 64, 256, 1024] {
            let shape = Shape::of_size(mib << 20);
            let bytes = shape.data_bytes();
            assert!(bytes.abs_diff(mib << 20) < 4 << 20, "{mib} MiB: {bytes} bytes, {shape:?}");
        }
    }
}
