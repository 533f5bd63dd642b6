//! Mat-vec over experts with the names, the parameters and the addresses of llama.cpp's kernels (v0.5.0).
//!
//! What is summed is not what llama.cpp sums: a checksum in whole numbers, so that a wrong expert, an old copy or another
//! order shows in the output, bit by bit, on every GPU. Where each byte is read is the same: widths, signs and wrapping of
//! every offset are those that `mmvq.cu` and `mmvf.cu` compile to. `docs/experts.md` has the layout of the parameters.
//!
//! A row's product with its column is the sum of `w[k] * (y[k] + 2k + 1)` over the row's bytes, modulo 2^32. With a gate
//! it is `31 * product + gate + glu_op`, scales multiply and biases add as whole numbers, and what is written are the
//! 32 bits of that.

use crate::env::options;
use crate::errors::{Error, Result};
use crate::gpu::Gpu;
use crate::kernel::{Arguments, aligned};
use crate::random::Random;

/// The parameters of `mul_mat_vec_q` and `mul_mat_vec_f`.
pub const PLAIN: &[usize] = &[8, 8, 8, 48, 8, 4, 12, 4, 4, 4, 12, 4, 4, 4, 12, 4, 4, 4, 4];
/// Those of `mul_mat_vec_q_moe`.
pub const MOE: &[usize] = &[8, 8, 8, 48, 8, 4, 12, 4, 4, 4, 4, 4, 4, 4, 4, 4];

/// The type whose fused kernels look at scales.
const NVFP4: u32 = 40;
/// A column's blocks have 32 elements in this many bytes (`block_q8_1`).
const COLUMN_BLOCK: u64 = 36;
/// Rows of a block of `mul_mat_vec_q_moe`.
const MOE_ROWS: u32 = 2;

/// Elements and bytes of a block of a type, by ggml's number for it.
fn block(kind: u32) -> Result<(u32, u32)> {
    Ok(match kind {
        2 => (32, 18),
        8 => (32, 34),
        12 => (256, 144),
        14 => (256, 210),
        39 => (32, 17),
        NVFP4 => (64, 36),
        _ => return Err(Error::NOT_SUPPORTED),
    })
}

/// A template's arguments that are numbers, from the mangled name.
fn template(name: &str) -> Vec<u32> {
    let list = name.split("EEv").next().unwrap_or_default();
    let number = |part: &str| {
        let digits = part.len() - part.bytes().rev().take_while(u8::is_ascii_digit).count();
        part[digits..].parse().ok()
    };
    list.split('E').filter_map(number).collect()
}

/// `ggml_cuda_mm_fusion_args_device`
#[derive(Default)]
struct Fusion {
    x_bias: u64,
    gate: u64,
    gate_bias: u64,
    x_scale: u64,
    gate_scale: u64,
    glu_op: u32,
}

impl Fusion {
    /// What a kernel sees of it that was compiled with or without fusion, and for a type with or without scales.
    fn seen(arguments: &Arguments, fused: bool, scaled: bool) -> Fusion {
        if !fused {
            return Fusion::default();
        }
        let at = |member| arguments.member_u64(3, member);
        let scale = |member| if scaled { at(member) } else { 0 };
        Fusion {
            x_bias: at(0),
            gate: at(8),
            gate_bias: at(16),
            x_scale: scale(24),
            gate_scale: scale(32),
            glu_op: arguments.member_u32(3, 40),
        }
    }

    /// From a row's products to what is written; `bias` and `scale` are offsets in bytes.
    fn finish(&self, gpu: &Gpu, product: u32, gate: u32, bias: u64, scale: u64) -> Result<u32> {
        let half = |product: u32, (scales, biases): (u64, u64)| -> Result<u32> {
            let factor = if scales == 0 { 1 } else { word(gpu, scales.wrapping_add(scale))? };
            let added = if biases == 0 { 0 } else { word(gpu, biases.wrapping_add(bias))? };
            Ok(product.wrapping_mul(factor).wrapping_add(added))
        };
        let product = half(product, (self.x_scale, self.x_bias))?;
        if self.gate == 0 {
            return Ok(product);
        }
        let gate = half(gate, (self.gate_scale, self.gate_bias))?;
        Ok(product.wrapping_mul(31).wrapping_add(gate).wrapping_add(self.glu_op))
    }
}

fn word(gpu: &Gpu, address: u64) -> Result<u32> {
    aligned(address, 4)?;
    gpu.read_u32(address)
}

fn product(gpu: &Gpu, row: u64, column: &[u8]) -> Result<u32> {
    let row = gpu.read(row, column.len() as u64)?;
    Ok(row.iter().zip(column).zip(0u32..).fold(0, |sum: u32, ((w, y), k)| {
        sum.wrapping_add(u32::from(*w).wrapping_mul(u32::from(*y).wrapping_add(2 * k + 1)))
    }))
}

/// Divides by a number that was prepared as `{multiplier, shift, divisor}`.
fn fast_division(arguments: &Arguments, index: usize, n: u32) -> (u32, u32) {
    let [multiplier, shift, divisor] = [0, 4, 8].map(|member| arguments.member_u32(index, member));
    let high = ((u64::from(n) * u64::from(multiplier)) >> 32) as u32;
    let quotient = high.wrapping_add(n).checked_shr(shift).unwrap_or(0);
    (quotient, n.wrapping_sub(quotient.wrapping_mul(divisor)))
}

/// A signed 32-bit count of things of a size, as an offset in bytes.
fn signed(count: u32, size: u32) -> u64 {
    (i64::from(count.cast_signed()) * i64::from(size)).cast_unsigned()
}

/// One output column of one expert: where its rows are, and its rows' places in the output.
struct Rows<'a> {
    gpu: &'a Gpu<'a>,
    x: u64,
    fusion: Fusion,
    column: Vec<u8>,
    scale: u64,
}

impl Rows<'_> {
    /// Computes the row whose weights, bias and output are at these offsets in bytes.
    fn row(&self, weights: u64, bias: u64, to: u64) -> Result {
        let first = product(self.gpu, self.x.wrapping_add(weights), &self.column)?;
        let gate = match self.fusion.gate {
            0 => 0,
            gate => product(self.gpu, gate.wrapping_add(weights), &self.column)?,
        };
        let value = self.fusion.finish(self.gpu, first, gate, bias, self.scale)?;
        aligned(to, 4)?;
        self.gpu.write(to, &value.to_le_bytes())
    }
}

/// Reads an id. After the first one some time passes, as between the blocks of a grid: a list that is rewritten too early
/// is seen by the others, a copy that is overwritten too early by the first.
fn id(gpu: &Gpu, list: u64, index: u32) -> Result<u32> {
    let id = word(gpu, list.wrapping_add(4 * u64::from(index)))?;
    if index == 0 {
        Random::new(options().seed ^ list ^ u64::from(id) << 32).delay();
    }
    Ok(id)
}

/// `mul_mat_vec_q` for one column of output: a token's experts, or a dense matrix where there are no ids.
pub fn quantised(gpu: &Gpu, arguments: &Arguments) -> Result {
    // Nothing but parameters is read before.
    gpu.wait_for_dependencies()?;
    let [kind, 1, fused, small, ..] = template(arguments.name)[..] else { return Err(Error::NOT_SUPPORTED) };
    let (elements, bytes) = block(kind)?;
    let at = |index| arguments.u32(index);
    let (list, row_bytes) = (arguments.u64(2), u64::from(at(5) / elements) * u64::from(bytes));
    let rows_of_block = if small == 0 { 1 } else { arguments.block[1] };
    for (channel, sample) in places(arguments.grid) {
        let (expert, column) = match list {
            0 => (fast_division(arguments, 10, channel).0, channel),
            list => (id(gpu, list, channel)?, fast_division(arguments, 6, channel).1),
        };
        let y = u64::from(sample.wrapping_mul(at(16))) + u64::from(column.wrapping_mul(at(12)));
        let rows = Rows {
            gpu,
            x: arguments.u64(0),
            fusion: Fusion::seen(arguments, fused != 0, kind == NVFP4),
            column: gpu.read(arguments.u64(1).wrapping_add(COLUMN_BLOCK * y), row_bytes)?,
            scale: if list == 0 { 0 } else { 4 * u64::from(expert) },
        };
        let first = fast_division(arguments, 14, sample).0.wrapping_mul(at(15));
        let first = first.wrapping_add(expert.wrapping_mul(at(11)));
        let of_bias = if list == 0 { channel } else { expert };
        let sample_out = u64::from(sample.wrapping_mul(at(17)));
        for row in 0..arguments.grid[0] * rows_of_block {
            if rows_of_block > 1 && row >= at(9) {
                break;
            }
            let place = |channel: u32| 4 * (sample_out + u64::from(channel.wrapping_mul(at(13))) + u64::from(row));
            let blocks = first.wrapping_add(row.wrapping_mul(at(7)));
            rows.row(signed(blocks, bytes), place(of_bias), arguments.u64(4).wrapping_add(place(channel)))?;
        }
    }
    Ok(())
}

/// `mul_mat_vec_q_moe`: several tokens, each with its experts.
pub fn quantised_tokens(gpu: &Gpu, arguments: &Arguments) -> Result {
    gpu.wait_for_dependencies()?;
    let [kind, MOE_ROWS, fused, ..] = template(arguments.name)[..] else { return Err(Error::NOT_SUPPORTED) };
    let (elements, bytes) = block(kind)?;
    let at = |index| arguments.u32(index);
    let row_bytes = u64::from(at(5) / elements) * u64::from(bytes);
    for channel in 0..arguments.grid[1] {
        for token in 0..at(14).min(arguments.block[1]) {
            let expert = id(gpu, arguments.u64(2), channel.wrapping_add(token.wrapping_mul(at(15))))?;
            let column = fast_division(arguments, 6, channel).1;
            let y = u64::from(column.wrapping_mul(at(12))) + u64::from(token.wrapping_mul(at(9)));
            let rows = Rows {
                gpu,
                x: arguments.u64(0),
                fusion: Fusion::seen(arguments, fused != 0, kind == NVFP4),
                column: gpu.read(arguments.u64(1).wrapping_add(COLUMN_BLOCK * y), row_bytes)?,
                scale: 4 * u64::from(expert),
            };
            let first = expert.wrapping_mul(at(11));
            let out = channel.wrapping_mul(at(13)).wrapping_add(token.wrapping_mul(at(10)));
            for row in 0..at(7).min(arguments.grid[0] * MOE_ROWS) {
                let blocks = first.wrapping_add(row.wrapping_mul(at(8)));
                let bias = expert.wrapping_mul(at(13)).wrapping_add(row);
                let to = arguments.u64(4).wrapping_add(4 * u64::from(out.wrapping_add(row)));
                rows.row(signed(blocks, bytes), 4 * u64::from(bias), to)?;
            }
        }
    }
    Ok(())
}

/// `mul_mat_vec_f` for one column of output: one token's experts, those of several, or a dense matrix.
pub fn floating(gpu: &Gpu, arguments: &Arguments) -> Result {
    gpu.wait_for_dependencies()?;
    let [1, _, fused, many] = template(arguments.name)[..] else { return Err(Error::NOT_SUPPORTED) };
    let bytes: u32 = if arguments.name.contains("_fIf") { 4 } else { 2 };
    let at = |index| arguments.u32(index);
    let (list, row_bytes) = (arguments.u64(2), 2 * u64::from(at(5)) * u64::from(bytes));
    for (channel, depth) in places(arguments.grid) {
        // Without ids the third dimension is of samples, with them of tokens.
        let (token, sample) = if list == 0 { (0, depth) } else { (depth, 0) };
        let (expert, column) = match list {
            0 => (fast_division(arguments, 10, channel).0, channel),
            list => (
                id(gpu, list, channel.wrapping_add(token.wrapping_mul(at(18))))?,
                fast_division(arguments, 6, channel).1,
            ),
        };
        let wide = |count: u32, stride: usize| signed(count, 1).wrapping_mul(signed(at(stride), 1));
        let mut y = wide(sample, 16).wrapping_add(signed(column.wrapping_mul(at(12)), 1));
        let mut out = wide(sample, 17).wrapping_add(signed(channel.wrapping_mul(at(13)), 1));
        if many != 0 {
            y = y.wrapping_add(signed(token.wrapping_mul(at(8)).wrapping_mul(2), 1));
            out = out.wrapping_add(signed(token.wrapping_mul(at(9)), 1));
        }
        let rows = Rows {
            gpu,
            x: arguments.u64(0),
            fusion: Fusion::seen(arguments, fused != 0, false),
            column: gpu.read(arguments.u64(1).wrapping_add(y.wrapping_mul(4)), row_bytes)?,
            scale: 0,
        };
        let first = wide(fast_division(arguments, 14, sample).0, 15);
        let first = first.wrapping_add(signed(expert.wrapping_mul(at(11)), 1));
        let of_bias = if list == 0 { channel } else { expert };
        let bias = wide(sample, 17).wrapping_add(signed(of_bias.wrapping_mul(at(13)), 1));
        for row in 0..arguments.grid[0] {
            let weights = first.wrapping_add(signed(row.wrapping_mul(at(7)), 1)).wrapping_mul(u64::from(bytes));
            let place = |of: u64| of.wrapping_add(u64::from(row)).wrapping_mul(4);
            rows.row(weights, place(bias), arguments.u64(4).wrapping_add(place(out)))?;
        }
    }
    Ok(())
}

/// The second and third place of every block of a grid.
fn places(grid: [u32; 3]) -> impl Iterator<Item = (u32, u32)> {
    (0..grid[2]).flat_map(move |depth| (0..grid[1]).map(move |channel| (channel, depth)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_templates_arguments_are_in_its_name() {
        let fused = "_Z13mul_mat_vec_qIL9ggml_type12ELi1ELb1ELb0ELb0EEvPKvS2_PKi31ggml_cuda_mm_fusion_args_devicePf";
        assert_eq!(template(fused), [12, 1, 1, 0, 0]);
        assert_eq!(template("_Z17mul_mat_vec_q_moeIL9ggml_type39ELi2ELb0EEvPKvS2_PKi31ggml_cuda"), [39, 2, 0]);
        assert_eq!(template("_Z13mul_mat_vec_fI6__halffLi1ELi256ELb1ELb0EEvPKT_PKfPKi31ggml"), [1, 256, 1, 0]);
    }

    #[test]
    fn prepared_divisions_are_divisions() {
        for divisor in [1u32, 2, 3, 7, 8, 100] {
            let shift = divisor.next_power_of_two().trailing_zeros();
            let multiplier = ((1u64 << 32) * ((1u64 << shift) - u64::from(divisor)) / u64::from(divisor) + 1) as u32;
            let bytes: Vec<u8> = [multiplier, shift, divisor].iter().flat_map(|word| word.to_le_bytes()).collect();
            let arguments = Arguments { name: "", grid: [1; 3], block: [1; 3], bytes: &bytes, offsets: vec![0] };
            for n in [0, 1, 6, 7, 8, 99, 100, 65_535] {
                assert_eq!(fast_division(&arguments, 0, n), (n / divisor, n % divisor), "{n} / {divisor}");
            }
        }
    }

    #[test]
    fn offsets_of_weights_are_signed() {
        assert_eq!(signed(3, 144), 432);
        assert_eq!(signed(u32::MAX, 144).cast_signed(), -144);
    }
}
