//! The kernels in plain Rust: what the GPU must compute, bit by bit. Used when there is no GPU, as llama.cpp does, and
//! by tests as the reference that no driver had a hand in.

use crate::gguf::{BLOCK, BLOCK_BYTES, Model};
use crate::plan::{Answer, Matrix, Plan, START_TOKEN};
use anyhow::Result;

/// Generates `count` tokens.
pub fn generate(model: &Model, plan: &Plan, count: u32, context: u32) -> Result<Answer> {
    let weights: Vec<&[u8]> = model.tensors().map(|(_, bytes)| bytes).collect();
    let (dim, layers) = (plan.dim() as usize, plan.layers.len());
    let layer_kv = dim * context as usize;
    let mut kv = vec![0i8; layer_kv * layers];
    let mut token = START_TOKEN;
    let mut answer = Answer::new();
    for position in 0..count as usize {
        let mut x = embed(weights[plan.embedding.tensor], token, dim);
        for (layer, kv) in plan.layers.iter().zip(kv.chunks_exact_mut(layer_kv)) {
            let product =
                |matrix: Matrix, x: &[i8]| quantize(&matvec(weights[matrix.tensor], x, matrix), matrix.output_scale());
            x = product(layer.attention, &x);
            kv_step(kv, &mut x, position);
            x = product(layer.up, &x);
            x = product(layer.down, &x);
        }
        let logits = matvec(weights[plan.output.tensor], &x, plan.output);
        for logit in &logits {
            answer.digest(&logit.to_le_bytes());
        }
        token = argmax(&logits);
        answer.tokens.push(token);
    }
    for value in &kv {
        answer.digest(&value.to_le_bytes());
    }
    Ok(answer)
}

fn embed(weights: &[u8], token: u32, dim: usize) -> Vec<i8> {
    let row_bytes = dim / BLOCK as usize * BLOCK_BYTES as usize;
    let row = &weights[token as usize * row_bytes..][..row_bytes];
    row.chunks_exact(BLOCK_BYTES as usize).flat_map(|block| block[2..].iter().map(|byte| *byte as i8)).collect()
}

fn matvec(weights: &[u8], x: &[i8], matrix: Matrix) -> Vec<f32> {
    let row_bytes = x.len() / BLOCK as usize * BLOCK_BYTES as usize;
    let rows = weights.chunks_exact(row_bytes).take(matrix.rows as usize);
    rows.map(|row| {
        row.chunks_exact(BLOCK_BYTES as usize).zip(x.chunks_exact(BLOCK as usize)).fold(0.0, |sum: f32, (block, x)| {
            let scale = half(u16::from_le_bytes([block[0], block[1]]));
            let dot: i32 = block[2..].iter().zip(x).map(|(w, x)| i32::from(*w as i8) * i32::from(*x)).sum();
            sum + scale * dot as f32
        })
    })
    .collect()
}

/// A normal f16, the only kind models are made with.
fn half(bits: u16) -> f32 {
    let (sign, exponent, mantissa) = (u32::from(bits >> 15), u32::from(bits >> 10 & 31), u32::from(bits & 1023));
    f32::from_bits(sign << 31 | (exponent + 112) << 23 | mantissa << 13)
}

fn quantize(y: &[f32], scale: f32) -> Vec<i8> {
    y.iter().map(|y| (y * scale).round_ties_even().clamp(-127.0, 127.0) as i8).collect()
}

fn kv_step(kv: &mut [i8], x: &mut [i8], position: usize) {
    let dim = x.len();
    kv[position * dim..][..dim].copy_from_slice(x);
    for (i, x) in x.iter_mut().enumerate() {
        let sum: i32 = (0..=position).map(|row| i32::from(kv[row * dim + i])).sum();
        *x = ((i32::from(*x) + sum).rem_euclid(251) - 125) as i8;
    }
}

fn argmax(y: &[f32]) -> u32 {
    let mut best = 0;
    for (i, value) in y.iter().enumerate() {
        if *value > y[best] {
            best = i;
        }
    }
    best as u32
}
