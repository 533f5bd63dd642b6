//! Mat-vec over experts, with llama.cpp's parameters, and the kernel that rewrites ids in front of it.

mod common;
use common::*;
use cuda::launch_attributes::Attribute;
use cuda::launch_calls::{Config, cuLaunchKernelEx};
use std::ffi::{CString, c_void};

const IDS: &str = include_str!("../../../hook/stream/src/experts/ids.ptx");
const EXPERTS: &str = include_str!("../../kernels/experts.ptx");

const Q: &str = "_Z13mul_mat_vec_qIL9ggml_type12ELi1ELb0ELb0ELb0EEvPKvS2_PKi31ggml_cuda_mm_fusion_args_devicePfj5uint3\
                 jjjS7_jjjS7_jjjj";
const Q_FUSED: &str = "_Z13mul_mat_vec_qIL9ggml_type12ELi1ELb1ELb0ELb0EEvPKvS2_PKi31ggml_cuda_mm_fusion_args_device\
                       Pfj5uint3jjjS7_jjjS7_jjjj";
const Q_SMALL: &str = "_Z13mul_mat_vec_qIL9ggml_type12ELi1ELb0ELb1ELb0EEvPKvS2_PKi31ggml_cuda_mm_fusion_args_device\
                       Pfj5uint3jjjS7_jjjS7_jjjj";
const MOE_FUSED: &str = "_Z17mul_mat_vec_q_moeIL9ggml_type12ELi2ELb1EEvPKvS2_PKi31ggml_cuda_mm_fusion_args_device\
                         Pfj5uint3jjjjjjjjj";
const SCALED: &str = "_Z13mul_mat_vec_qIL9ggml_type40ELi1ELb1ELb0ELb0EEvPKvS2_PKi31ggml_cuda_mm_fusion_args_device\
                      Pfj5uint3jjjS7_jjjS7_jjjj";
const F_FUSED: &str = "_Z13mul_mat_vec_fI6__halffLi1ELi256ELb1ELb0EEvPKT_PKfPKi31ggml_cuda_mm_fusion_args_device\
                       Pfi5uint3iiiSA_iiiSA_iiii";

const EXPERTS_OF_LAYER: u32 = 8;
const USED: u32 = 3;
const ROWS: u32 = 5;
/// Two blocks of Q4_K in a row.
const COLUMNS: u32 = 512;
const BLOCK: u32 = 144;
const ROW: u32 = 2 * BLOCK;
/// A column as `block_q8_1` holds it.
const COLUMN: u32 = COLUMNS / 32 * 36;

fn load(text: &str, name: &str) -> usize {
    let text = CString::new(text).expect("no zero in it");
    let module = got(|out| cuda::module_calls::cuModuleLoadData(out, cuda::edge::In::from(text.as_ptr().cast())));
    let name = CString::new(name).expect("no zero in it");
    got(|out| cuda::module_calls::cuModuleGetFunction(out, module, cuda::edge::In::from(name.as_ptr())))
}

/// Launches with parameters of any size.
fn launch_sized(function: usize, stream: usize, shape: [[u32; 3]; 2], parameters: &[Vec<u8>]) {
    let pointers: Vec<*const c_void> = parameters.iter().map(|bytes| bytes.as_ptr().cast()).collect();
    let none = cuda::edge::In::from(std::ptr::null());
    let [[x, y, z], [bx, by, bz]] = shape;
    ok(cuda::launch_calls::cuLaunchKernel(function, x, y, z, bx, by, bz, 0, stream, input(&pointers), none));
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn address(value: u64) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

/// `{multiplier, shift, divisor}`
fn division(divisor: u32) -> Vec<u8> {
    let shift = divisor.next_power_of_two().trailing_zeros();
    let multiplier = ((1u64 << 32) * ((1u64 << shift) - u64::from(divisor)) / u64::from(divisor) + 1) as u32;
    words(&[multiplier, shift, divisor])
}

/// Bytes that differ everywhere.
fn noise(count: u32, seed: u32) -> Vec<u8> {
    (0..count).map(|i| ((i ^ seed.wrapping_mul(40_503)).wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Copies, and waits for it: the streams of these tests do not.
fn upload_bytes(to: u64, bytes: &[u8]) {
    ok(cuda::memcpy::cuMemcpyHtoD_v2(to, pointer(bytes), bytes.len()));
    ok(synchronize());
}

fn resident(bytes: &[u8]) -> u64 {
    let at = alloc(bytes.len() as u64);
    upload_bytes(at, bytes);
    at
}

fn product(row: &[u8], column: &[u8]) -> u32 {
    row.iter()
        .zip(column)
        .zip(0u32..)
        .fold(0, |sum, ((w, y), k)| sum.wrapping_add(u32::from(*w).wrapping_mul(u32::from(*y).wrapping_add(2 * k + 1))))
}

/// A layer's experts in memory, and the same on the host.
struct Layer {
    up: (u64, Vec<u8>),
    gate: (u64, Vec<u8>),
    bias: (u64, Vec<u32>),
    gate_bias: (u64, Vec<u32>),
    column: (u64, Vec<u8>),
    out: u64,
}

impl Layer {
    fn new(tokens: u32) -> Layer {
        let weights = |seed| {
            let bytes = noise(EXPERTS_OF_LAYER * ROWS * ROW, seed);
            (resident(&bytes), bytes)
        };
        let biases = |seed: u32| {
            let values: Vec<u32> = (0..EXPERTS_OF_LAYER * ROWS).map(|i| i.wrapping_mul(seed)).collect();
            (resident(&words(&values)), values)
        };
        let column = noise(tokens * COLUMN, 9);
        Layer {
            up: weights(1),
            gate: weights(2),
            bias: biases(7_919),
            gate_bias: biases(104_729),
            column: (resident(&column), column),
            out: alloc(u64::from(tokens * USED * ROWS * 4)),
        }
    }

    fn fusion(&self) -> Vec<u8> {
        let pointers = [self.bias.0, self.gate.0, self.gate_bias.0, 0, 0].map(address).concat();
        [pointers, words(&[2, 0])].concat()
    }

    /// What the fused kernel writes for an expert and a token.
    fn fused(&self, expert: u32, token: u32) -> Vec<u32> {
        let column = &self.column.1[(token * COLUMN) as usize..][..COLUMN as usize];
        (0..ROWS)
            .map(|row| {
                let index = (expert * ROWS + row) as usize;
                let at = |weights: &[u8]| product(&weights[index * ROW as usize..][..ROW as usize], column);
                let gate = at(&self.gate.1).wrapping_add(self.gate_bias.1[index]);
                let plain = at(&self.up.1).wrapping_add(self.bias.1[index]);
                plain.wrapping_mul(31).wrapping_add(gate).wrapping_add(2)
            })
            .collect()
    }

    /// The parameters of `mul_mat_vec_q`, with the weights anywhere.
    fn plain(&self, up: u64, ids: u64, fusion: Vec<u8>) -> Vec<Vec<u8>> {
        let mut parameters = vec![address(up), address(self.column.0), address(ids), fusion, address(self.out)];
        let blocks = ROW / BLOCK;
        parameters.extend([words(&[COLUMNS]), division(1)]);
        parameters.extend([blocks, COLUMN / 36, ROWS * USED].map(|value| words(&[value])));
        parameters.push(words(&[0, 0, 0]));
        parameters.extend([ROWS * blocks, COLUMN / 36, ROWS].map(|value| words(&[value])));
        parameters.push(division(1));
        parameters.extend([0, 0, 0, USED].map(|value| words(&[value])));
        parameters
    }
}

fn place(shape: [[u32; 3]; 2], name: &str, parameters: &[Vec<u8>]) {
    let stream = stream();
    launch_sized(load(EXPERTS, name), stream, shape, parameters);
    ok(cuda::stream_calls::cuStreamSynchronize(stream));
}

isolated! {
    every_expert_that_is_used_is_read_with_its_gate_and_its_biases [] {
        start();
        let layer = Layer::new(1);
        let ids = resident(&words(&[6, 0, 3]));
        place([[ROWS, USED, 1], [32, 4, 1]], Q_FUSED, &layer.plain(layer.up.0, ids, layer.fusion()));
        let wanted = [6, 0, 3].map(|expert| layer.fused(expert, 0)).concat();
        assert_eq!(download(layer.out, wanted.len()), wanted);
    }

    a_kernel_that_is_not_fused_does_not_look_at_what_is_to_be_fused [] {
        start();
        let layer = Layer::new(1);
        let ids = resident(&words(&[1, 1, 7]));
        for (name, shape) in [(Q, [[ROWS, USED, 1], [32, 4, 1]]), (Q_SMALL, [[2, USED, 1], [32, 4, 1]])] {
            let mut parameters = layer.plain(layer.up.0, ids, vec![0xff; 48]);
            // The rows there are: the last block of a small matrix has some that are not.
            parameters[9] = words(&[ROWS]);
            place(shape, name, &parameters);
            let row = |index: u32| product(&layer.up.1[(index * ROW) as usize..][..ROW as usize], &layer.column.1);
            let wanted: Vec<u32> = [1, 1, 7].iter().flat_map(|expert| (0..ROWS).map(move |i| expert * ROWS + i)).map(row).collect();
            assert_eq!(download(layer.out, wanted.len()), wanted, "{name}");
        }
    }

    slots_may_lie_before_and_after_their_home [] {
        start();
        let layer = Layer::new(1);
        let stride = ROWS * ROW;
        // Everything in one buffer: a slot, the experts, another slot.
        let gap = 3 * stride;
        let all = alloc(u64::from(2 * gap + EXPERTS_OF_LAYER * stride));
        let home = all + u64::from(gap);
        let (before, after) = (0u32.wrapping_sub(3), EXPERTS_OF_LAYER + 2);
        let expert = |id: u32| &layer.up.1[(id * stride) as usize..][..stride as usize];
        for (id, bytes) in [(before, expert(5)), (after, expert(2)), (4, expert(4))] {
            let at = home.wrapping_add_signed(i64::from(id.cast_signed()) * i64::from(stride));
            upload_bytes(at, bytes);
        }
        let run = |up, list: [u32; 3]| {
            let parameters = layer.plain(up, resident(&words(&list)), vec![0; 48]);
            place([[ROWS, USED, 1], [32, 4, 1]], Q, &parameters);
            download(layer.out, (USED * ROWS) as usize)
        };
        assert_eq!(run(home, [before, after, 4]), run(layer.up.0, [5, 2, 4]));
    }

    several_tokens_read_the_experts_of_each [] {
        start();
        let layer = Layer::new(2);
        // The ids of a token lie four apart.
        let ids = resident(&words(&[6, 0, 3, 77, 1, 6, 2, 77]));
        let blocks = ROW / BLOCK;
        let mut parameters = [layer.up.0, layer.column.0, ids].map(address).to_vec();
        parameters.extend([layer.fusion(), address(layer.out), words(&[COLUMNS]), division(1), words(&[ROWS])]);
        let strides = [blocks, COLUMN / 36, ROWS * USED, ROWS * blocks, 0, ROWS, 2, 4];
        parameters.extend(strides.map(|value| words(&[value])));
        place([[ROWS.div_ceil(2), USED, 1], [32, 2, 1]], MOE_FUSED, &parameters);
        let token = |list: [u32; 3], token| list.map(|expert| layer.fused(expert, token)).concat();
        let wanted = [token([6, 0, 3], 0), token([1, 6, 2], 1)].concat();
        assert_eq!(download(layer.out, wanted.len()), wanted);
    }

    scales_of_an_expert_multiply [] {
        start();
        let (rows, bytes) = (2u32, 36u32);
        let weights = noise(4 * rows * bytes, 3);
        let column = noise(2 * 36, 4);
        let (up, y, out) = (resident(&weights), resident(&column), alloc(u64::from(rows * 4)));
        let (ids, scales) = (resident(&words(&[2])), resident(&words(&[3, 5, 7, 11])));
        let fusion = [[0, 0, 0, scales, 0].map(address).concat(), words(&[0, 0])].concat();
        let mut parameters = [up, y, ids].map(address).to_vec();
        parameters.extend([fusion, address(out), words(&[64]), division(1)]);
        parameters.extend([1, 2, rows].map(|value| words(&[value])));
        parameters.extend([words(&[0; 3]), words(&[rows]), words(&[2]), words(&[rows]), division(1)]);
        parameters.extend([0, 0, 0, 1].map(|value| words(&[value])));
        place([[rows, 1, 1], [32, 4, 1]], SCALED, &parameters);
        let wanted = |row: u32| product(&weights[((2 * rows + row) * bytes) as usize..][..bytes as usize], &column) * 7;
        assert_eq!(download(out, 2), [wanted(0), wanted(1)]);
    }

    weights_of_halves_are_found_by_elements [] {
        start();
        let (rows, elements) = (3u32, 64u32);
        let (up, gate) = (noise(5 * rows * elements * 2, 5), noise(5 * rows * elements * 2, 6));
        let column = noise(elements * 4, 7);
        let (ids, out) = (resident(&words(&[4, 1])), alloc(u64::from(2 * rows * 4)));
        let fusion = [[0, resident(&gate), 0, 0, 0].map(address).concat(), words(&[1, 0])].concat();
        let mut parameters = [resident(&up), resident(&column), ids].map(address).to_vec();
        parameters.extend([fusion, address(out), words(&[elements / 2]), division(1)]);
        parameters.extend([elements, elements / 2, 2 * rows].map(|value| words(&[value])));
        parameters.extend([words(&[0; 3]), words(&[rows * elements]), words(&[elements]), words(&[rows]), division(1)]);
        parameters.extend([0, 0, 0, 2].map(|value| words(&[value])));
        place([[rows, 2, 1], [256, 1, 1]], F_FUSED, &parameters);
        let at = |weights: &[u8], index: u32| {
            let bytes = (elements * 2) as usize;
            product(&weights[index as usize * bytes..][..bytes], &column)
        };
        let value = |index| at(&up, index).wrapping_mul(31).wrapping_add(at(&gate, index)).wrapping_add(1);
        let wanted: Vec<u32> = [4, 1].iter().flat_map(|id| (0..rows).map(move |row| id * rows + row)).map(value).collect();
        assert_eq!(download(out, wanted.len()), wanted);
    }

    a_launch_that_begins_early_waits_before_it_reads_its_ids [SIMGPU_DELAY_US = "200"] {
        start();
        let layer = Layer::new(1);
        let rewrite = load(IDS, "greenboost_expert_ids");
        let q = load(EXPERTS, Q_FUSED);
        let spin = function("gb_spin");
        let stream = stream();
        let (table, asked) = (resident(&words(&[7, 6, 5, 4, 3, 2, 1, 0])), resident(&words(&[1, 7, 4])));
        // What a kernel that does not wait would read.
        let ids = resident(&words(&[2, 2, 2]));
        for _ in 0..20 {
            upload_bytes(ids, &words(&[2, 2, 2]));
            ok(launch(spin, stream, &[100_000]));
            ok(launch(rewrite, stream, &[table, asked, ids, USED.into(), 1, 4, 0, 8, 0, 0, 0, 0]));
            let parameters = layer.plain(layer.up.0, ids, layer.fusion());
            let pointers: Vec<*const c_void> = parameters.iter().map(|bytes| bytes.as_ptr().cast()).collect();
            let attributes = [Attribute::programmatic(true)];
            let config = Config::new(stream, &attributes).shaped([ROWS, USED, 1], [32, 4, 1]);
            let none = cuda::edge::In::from(std::ptr::null());
            ok(cuLaunchKernelEx(input(&[config]), q, input(&pointers), none));
            ok(cuda::stream_calls::cuStreamSynchronize(stream));
            let wanted = [6, 0, 3].map(|expert| layer.fused(expert, 0)).concat();
            assert_eq!(download(layer.out, wanted.len()), wanted);
        }
    }

    ids_become_slots_and_what_was_asked_is_noted [] {
        start();
        let kernel = load(IDS, "greenboost_expert_ids");
        let table = resident(&words(&[u32::MAX, 2, u32::MAX, 0]));
        // Two tokens with three ids each, four apart; -1 and 9 are no experts.
        let ids = resident(&words(&[1, 0, 3, 55, u32::MAX, 9, 2, 55]));
        let out = resident(&words(&[77; 8]));
        let (notes, head) = (resident(&words(&[0; 8])), resident(&words(&[5])));
        let (slot_base, layer) = (1000u64, 40u64);
        let stream = stream();
        ok(launch(kernel, stream, &[table, ids, out, 3, 2, 4, slot_base, 4, notes, 7, head, layer]));
        ok(cuda::stream_calls::cuStreamSynchronize(stream));
        assert_eq!(download(out, 8), [1002, 0, 1000, 77, u32::MAX, 9, 2, 77]);
        let note = |hit: u32, expert: u32| 0x8000_0000 | 40 << 16 | hit << 15 | expert;
        // From the counter on, round the end of the ring.
        let told = [note(0, 0x7fff), note(0, 0x7fff), note(0, 2), 0, 0, note(1, 1), note(0, 0), note(1, 3)];
        assert_eq!(download(notes, 8), told);
        assert_eq!(download(head, 1), [11]);
    }

    without_a_ring_nothing_is_noted [] {
        start();
        let kernel = load(IDS, "greenboost_expert_ids");
        let (table, ids, out) = (resident(&words(&[4])), resident(&words(&[0])), alloc(4));
        let stream = stream();
        // A negative base: the slots lie before the home.
        let base = u64::from(0u32.wrapping_sub(100));
        ok(launch(kernel, stream, &[table, ids, out, 1, 1, 1, base, 1, 0, 0, 0, 0]));
        ok(cuda::stream_calls::cuStreamSynchronize(stream));
        assert_eq!(download(out, 1), [0u32.wrapping_sub(96)]);
    }
}
