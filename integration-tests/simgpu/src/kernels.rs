//! The kernels this GPU can run. The tests' PTX has the same names and does the same on real hardware.

use crate::errors::Result;
use crate::expert_ids;
use crate::experts;
use crate::gpu::{Gpu, Shares, Window};
use crate::kernel::{Arguments, Kernel, aligned};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const WHOLE: Shares = (1.0, 1.0);
/// What llama.cpp's mat-vec kernels make of a GPU whose VRAM they do not outrun, and of 51.2 GB/s in place: 41.5.
const MATVEC: Shares = (0.85, 0.81);

const KERNELS: &[Kernel] = &[
    Kernel { name: "gb_fill_u32", parameters: &[8, 8, 4], shares: WHOLE, run: fill },
    Kernel { name: "_Z12gb_overwritePjmj", parameters: &[8, 8, 4], shares: WHOLE, run: fill },
    Kernel { name: "gb_checksum_u32", parameters: &[8, 8, 8], shares: WHOLE, run: checksum },
    Kernel { name: "gb_checksum_struct", parameters: &[24], shares: WHOLE, run: checksum_struct },
    Kernel { name: "gb_matvec_q8", parameters: &[8, 8, 8, 4, 4], shares: MATVEC, run: matvec },
    Kernel { name: "gb_quantize_i8", parameters: &[8, 8, 4, 4], shares: WHOLE, run: quantize },
    Kernel { name: "gb_embed_q8", parameters: &[8, 8, 8, 4], shares: WHOLE, run: embed },
    Kernel { name: "gb_kv_step", parameters: &[8, 8, 4, 4], shares: WHOLE, run: kv_step },
    Kernel { name: "gb_argmax", parameters: &[8, 4, 8], shares: WHOLE, run: argmax },
    Kernel { name: "gb_probe", parameters: &[8, 8, 4], shares: WHOLE, run: probe },
    Kernel { name: "gb_probe_read", parameters: &[8, 8, 4], shares: WHOLE, run: probe_read },
    Kernel { name: "gb_weights_u32", parameters: &[8, 8, 8, 8, 4], shares: WHOLE, run: weights },
    Kernel { name: "gb_early_checksum_u32", parameters: &[8, 8, 8, 8], shares: WHOLE, run: early_checksum },
    Kernel { name: "gb_spin", parameters: &[8], shares: WHOLE, run: spin },
    Kernel { name: expert_ids::NAME, parameters: expert_ids::PARAMETERS, shares: WHOLE, run: expert_ids::rewrite },
];

/// Kernels that are instances of templates, which have these names in front.
const TEMPLATES: &[Kernel] = &[
    Kernel {
        name: "_Z13mul_mat_vec_qIL9ggml_type",
        parameters: experts::PLAIN,
        shares: MATVEC,
        run: experts::quantised,
    },
    Kernel {
        name: "_Z17mul_mat_vec_q_moeIL9ggml_type",
        parameters: experts::MOE,
        shares: MATVEC,
        run: experts::quantised_tokens,
    },
    Kernel { name: "_Z13mul_mat_vec_fI", parameters: experts::PLAIN, shares: MATVEC, run: experts::floating },
];

/// The kernel of a name.
pub fn find(name: &str) -> Option<&'static Kernel> {
    let instance = || TEMPLATES.iter().find(|kernel| name.starts_with(kernel.name));
    KERNELS.iter().find(|kernel| kernel.name == name).or_else(instance)
}

fn fill(gpu: &Gpu, arguments: &Arguments) -> Result {
    let (to, n, value) = (arguments.u64(0), arguments.u64(1), arguments.u32(2));
    aligned(to, 4)?;
    gpu.each(to, n * 4, true, |offset, to, len| {
        // SAFETY: a writable window of `len` bytes; its start and length are multiples of the word.
        let words = unsafe { std::slice::from_raw_parts_mut(to.cast::<[u8; 4]>(), len / 4) };
        let first = (offset / 4) as u32;
        for (index, word) in words.iter_mut().enumerate() {
            *word = value.wrapping_add(first.wrapping_add(index as u32)).to_le_bytes();
        }
    })
}

fn checksum(gpu: &Gpu, arguments: &Arguments) -> Result {
    let sum = sum(gpu, arguments.u64(0), arguments.u64(1))?;
    add(gpu, arguments.u64(2), sum)
}

fn checksum_struct(gpu: &Gpu, arguments: &Arguments) -> Result {
    let members = Arguments { offsets: vec![0, 8, 16], ..*arguments };
    checksum(gpu, &members)
}

/// A kernel written for programmatic launches: it reads its weights before it waits for the kernel in front.
fn early_checksum(gpu: &Gpu, arguments: &Arguments) -> Result {
    spend(gpu, arguments.u64(3));
    let sum = sum(gpu, arguments.u64(0), arguments.u64(1))?;
    gpu.wait_for_dependencies()?;
    add(gpu, arguments.u64(2), sum)
}

fn sum(gpu: &Gpu, from: u64, n: u64) -> Result<u64> {
    aligned(from, 4)?;
    let mut sum = 0u64;
    gpu.each(from, n * 4, false, |offset, from, len| {
        // SAFETY: a readable window of `len` bytes.
        let words = unsafe { std::slice::from_raw_parts(from.cast::<[u8; 4]>(), len / 4) };
        sum = sum.wrapping_add(weighted(words, offset / 4));
    })?;
    Ok(sum)
}

/// The sum of words[i] * (2 * (first + i) + 1). Benchmarks read large weights with it, so it is written for wide
/// registers: within a run of words the sums fit without wrapping.
#[inline(always)]
fn weighted_words(words: &[[u8; 4]], first: u64) -> u64 {
    const RUN: usize = 4096;
    let mut sum = 0u64;
    for (run, words) in words.chunks(RUN).enumerate() {
        let (mut plain, mut weighted) = (0u64, 0u64);
        for (index, word) in words.iter().enumerate() {
            let word = u64::from(u32::from_le_bytes(*word));
            plain += word;
            weighted += word * u64::from(index as u32);
        }
        let factor = 2 * (first + (run * RUN) as u64) + 1;
        sum = sum.wrapping_add(plain.wrapping_mul(factor)).wrapping_add(2 * weighted);
    }
    sum
}

/// The same, compiled for wider registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn weighted_avx2(words: &[[u8; 4]], first: u64) -> u64 {
    weighted_words(words, first)
}

fn weighted(words: &[[u8; 4]], first: u64) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has it.
        return unsafe { weighted_avx2(words, first) };
    }
    weighted_words(words, first)
}

fn add(gpu: &Gpu, out: u64, sum: u64) -> Result {
    aligned(out, 8)?;
    let window = gpu.window(out, true)?;
    // SAFETY: an aligned word of the window; kernels of several streams may add to it at once.
    unsafe { AtomicU64::from_ptr(window.at(out).cast()) }.fetch_add(sum, Ordering::AcqRel);
    Ok(())
}

/// GGUF's Q8_0: an f16 scale, 32 signed bytes.
const BLOCK: usize = 34;

/// IEEE half to single precision.
fn half(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let exponent = u32::from(bits >> 10) & 0x1f;
    let mantissa = u32::from(bits) & 0x3ff;
    let magnitude = match exponent {
        0 => return f32::from_bits(sign | (mantissa as f32 * 2f32.powi(-24)).to_bits()),
        31 => 0x7f80_0000 | mantissa << 13,
        _ => (exponent + 112) << 23 | mantissa << 13,
    };
    f32::from_bits(sign | magnitude)
}

#[inline(always)]
fn dot(row: &[u8], x: &[i8]) -> f32 {
    let mut sum = 0f32;
    for (block, x) in row.as_chunks::<BLOCK>().0.iter().zip(x.as_chunks::<32>().0) {
        let scale = half(u16::from_le_bytes([block[0], block[1]]));
        let dot: i32 = block[2..].iter().zip(x).map(|(w, x)| i32::from(*w as i8) * i32::from(*x)).sum();
        // Two roundings, as the kernel does it: never a fused multiply-add.
        sum += scale * dot as f32;
    }
    sum
}

/// The same, compiled for wider registers; the arithmetic does not change.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dot_avx2(row: &[u8], x: &[i8]) -> f32 {
    dot(row, x)
}

fn row_dot(row: &[u8], x: &[i8]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has it.
        return unsafe { dot_avx2(row, x) };
    }
    dot(row, x)
}

fn signed(bytes: Vec<u8>) -> Vec<i8> {
    bytes.into_iter().map(|byte| byte as i8).collect()
}

fn matvec(gpu: &Gpu, arguments: &Arguments) -> Result {
    let (w, x, y) = (arguments.u64(0), arguments.u64(1), arguments.u64(2));
    let (rows, cols) = (arguments.u32(3), arguments.u32(4));
    aligned(w, 2)?;
    aligned(y, 4)?;
    let x = signed(gpu.read(x, cols.into())?);
    let row_bytes = u64::from(cols / 32) * BLOCK as u64;
    let mut result = Vec::with_capacity(rows as usize * 4);
    let mut window: Option<Window> = None;
    for row in 0..u64::from(rows) {
        let at = w + row * row_bytes;
        if row_bytes > 0 && !window.as_ref().is_some_and(|window| window.covers(at, row_bytes)) {
            window = Some(gpu.window(at, false)?);
        }
        let sum = match &window {
            Some(whole) if whole.covers(at, row_bytes) => {
                gpu.took(row_bytes, whole.host);
                // SAFETY: a readable window of `row_bytes` bytes.
                row_dot(unsafe { std::slice::from_raw_parts(whole.at(at), row_bytes as usize) }, &x)
            }
            // The row goes over the end of its chunk.
            _ => row_dot(&gpu.read(at, row_bytes)?, &x),
        };
        result.extend(sum.to_le_bytes());
    }
    gpu.write(y, &result)
}

fn quantize(gpu: &Gpu, arguments: &Arguments) -> Result {
    let (y, x, n, scale) = (arguments.u64(0), arguments.u64(1), arguments.u32(2), arguments.f32(3));
    aligned(y, 4)?;
    let values = gpu.read(y, u64::from(n) * 4)?;
    let quantized: Vec<u8> = values
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| ((f32::from_le_bytes(*bytes) * scale).round_ties_even().clamp(-127.0, 127.0)) as i8 as u8)
        .collect();
    gpu.write(x, &quantized)
}

fn embed(gpu: &Gpu, arguments: &Arguments) -> Result {
    let (w, token, x, cols) = (arguments.u64(0), arguments.u64(1), arguments.u64(2), arguments.u32(3));
    aligned(token, 4)?;
    let token = gpu.read_u32(token)?;
    let row_bytes = u64::from(cols / 32) * BLOCK as u64;
    let row = gpu.read(w + u64::from(token) * row_bytes, row_bytes)?;
    let quants: Vec<u8> = row.as_chunks::<BLOCK>().0.iter().flat_map(|block| block[2..].iter().copied()).collect();
    gpu.write(x, &quants)
}

fn kv_step(gpu: &Gpu, arguments: &Arguments) -> Result {
    let (kv, x, dim, pos) = (arguments.u64(0), arguments.u64(1), arguments.u32(2), arguments.u32(3));
    let input = gpu.read(x, dim.into())?;
    gpu.write(kv + u64::from(pos) * u64::from(dim), &input)?;
    let cache = gpu.read(kv, (u64::from(pos) + 1) * u64::from(dim))?;
    let mut sums = vec![0i32; dim as usize];
    for row in cache.chunks_exact((dim as usize).max(1)) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum = sum.wrapping_add(i32::from(*value as i8));
        }
    }
    let mixed = input.iter().zip(sums).map(|(x, sum)| {
        let mixed = i32::from(*x as i8).wrapping_add(sum).rem_euclid(251) - 125;
        mixed as i8 as u8
    });
    gpu.write(x, &mixed.collect::<Vec<u8>>())
}

fn argmax(gpu: &Gpu, arguments: &Arguments) -> Result {
    let (y, n, out) = (arguments.u64(0), arguments.u32(1), arguments.u64(2));
    aligned(y, 4)?;
    aligned(out, 4)?;
    let values = gpu.read(y, u64::from(n) * 4)?;
    let mut best = (0u32, f32::NEG_INFINITY);
    for (index, bytes) in values.as_chunks::<4>().0.iter().enumerate() {
        let value = f32::from_le_bytes(*bytes);
        if value > best.1 {
            best = (index as u32, value);
        }
    }
    gpu.write(out, &best.0.to_le_bytes())
}

fn probe(gpu: &Gpu, arguments: &Arguments) -> Result {
    let words = flip(gpu, arguments)?;
    let counted: Vec<u8> = words.iter().flat_map(|word| word.wrapping_add(1).to_le_bytes()).collect();
    gpu.write(arguments.u64(0), &counted)
}

fn probe_read(gpu: &Gpu, arguments: &Arguments) -> Result {
    flip(gpu, arguments).map(drop)
}

/// What both probes do first; the words that were read.
fn flip(gpu: &Gpu, arguments: &Arguments) -> Result<Vec<u32>> {
    let (from, to, n) = (arguments.u64(0), arguments.u64(1), arguments.u32(2));
    aligned(from, 4)?;
    aligned(to, 4)?;
    let words = gpu.read(from, u64::from(n) * 4)?;
    let words: Vec<u32> = words.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    let flipped: Vec<u8> = words.iter().flat_map(|word| (word ^ 0x5bd1_e995).to_le_bytes()).collect();
    gpu.write(to, &flipped)?;
    Ok(words)
}

/// Reads a weight as a product with a batch of tokens does: it takes some time at least, whatever the memory, and
/// reads host memory again for every tile of tokens. In VRAM that is as good as free, caches being what they are.
fn weights(gpu: &Gpu, arguments: &Arguments) -> Result {
    gpu.begin();
    let over = gpu.clock().now() + Duration::from_nanos(arguments.u64(3));
    gpu.set_crossings(arguments.u32(4));
    let sum = sum(gpu, arguments.u64(0), arguments.u64(1))?;
    gpu.clock().not_before(over);
    add(gpu, arguments.u64(2), sum)
}

/// Time that needs nothing of the GPU: kernels of other streams run beside it.
fn spend(gpu: &Gpu, nanoseconds: u64) {
    gpu.clock().take(Duration::from_nanos(nanoseconds));
    gpu.clock().settle();
}

fn spin(gpu: &Gpu, arguments: &Arguments) -> Result {
    spend(gpu, arguments.u64(0));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_definition() {
        let words: Vec<[u8; 4]> = (0..9001u32).map(|i| (i.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
        let plain = words.iter().zip(77u64..).fold(0u64, |sum, (word, at)| {
            sum.wrapping_add(u64::from(u32::from_le_bytes(*word)).wrapping_mul(2 * at + 1))
        });
        assert_eq!((weighted(&words, 77), weighted_words(&words, 77)), (plain, plain));
    }

    #[test]
    fn halves_become_singles() {
        assert_eq!(half(0x3c00), 1.0);
        assert_eq!(half(0xc000), -2.0);
        assert_eq!(half(0x0001), 2f32.powi(-24));
        assert_eq!(half(0x8000).to_bits(), (-0f32).to_bits());
        assert_eq!(half(0x7bff), 65504.0);
        assert_eq!(half(0x7c00), f32::INFINITY);
    }
}
