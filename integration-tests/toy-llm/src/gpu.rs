//! Loads a model into device memory in llama.cpp's order and runs it with the kernels.

use crate::cuda::{CudaError, DevicePtr, Driver, Handle, param};
use crate::gguf::{BLOCK, BLOCK_BYTES, Model};
use crate::plan::{Answer, Matrix, Plan, START_TOKEN};
use crate::pool::Pool;
use anyhow::{Result, anyhow};
use std::ffi::CStr;

/// ggml's alignment of tensors in a CUDA buffer.
const TENSOR_ALIGNMENT: u64 = 128;
/// The piece size of loading without a file mapping.
const PIECE: usize = 1 << 20;

const PTX: &CStr = match CStr::from_bytes_with_nul(concat!(include_str!("../../kernels/toy.ptx"), "\0").as_bytes()) {
    Ok(text) => text,
    Err(_) => panic!("the PTX text contains a NUL"),
};

/// How to load and run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Tokens the KV buffer has room for.
    pub context: u32,
    /// Streams the rows of a product are spread over.
    pub streams: usize,
    /// Run each token as a captured graph.
    pub graph: bool,
    /// Upload in pieces on a stream instead of a copy per tensor.
    pub pieces: bool,
}

/// A buffer of the loaded model, for people.
pub struct Buffer {
    /// What it is for.
    pub name: &'static str,
    /// Where it is.
    pub address: DevicePtr,
    /// How large it is.
    pub bytes: u64,
}

struct Kernels {
    module: Handle,
    matvec: Handle,
    quantize: Handle,
    embed: Handle,
    kv_step: Handle,
    argmax: Handle,
}

impl Kernels {
    fn load(driver: &Driver) -> Result<Self> {
        let module = driver.load(PTX)?;
        let get = |name| driver.function(module, name);
        Ok(Self {
            module,
            matvec: get(c"gb_matvec_q8")?,
            quantize: get(c"gb_quantize_i8")?,
            embed: get(c"gb_embed_q8")?,
            kv_step: get(c"gb_kv_step")?,
            argmax: get(c"gb_argmax")?,
        })
    }
}

/// The model in device memory.
pub struct Engine<'a> {
    driver: &'a Driver,
    plan: &'a Plan,
    options: Options,
    device: i32,
    kernels: Kernels,
    /// One stream with its event each; the first is the main one.
    streams: Vec<(Handle, Handle)>,
    weights: Buffer,
    tensors: Vec<DevicePtr>,
    kv: Buffer,
    /// Token and activations: `[token, padding][x of the model][x of the feed-forward]`.
    compute: Buffer,
    pool: Pool,
    pool_base: DevicePtr,
}

impl<'a> Engine<'a> {
    /// Weights first, then the KV buffer, then scratch: the order that spills the wrong ones when placement is blind.
    pub fn load(driver: &'a Driver, model: &Model, plan: &'a Plan, options: Options) -> Result<Self> {
        let device = driver.enter(0)?;
        let kernels = Kernels::load(driver)?;
        let mut streams = Vec::new();
        for _ in 0..options.streams.max(1) {
            streams.push((driver.stream()?, driver.event()?));
        }

        let mut offsets = Vec::new();
        let mut bytes = 0u64;
        for (tensor, _) in model.tensors() {
            offsets.push(bytes);
            bytes += tensor.bytes().next_multiple_of(TENSOR_ALIGNMENT);
        }
        let weights = allocate(driver, "weights", bytes)?;
        let tensors: Vec<_> = offsets.iter().map(|offset| weights.address + offset).collect();
        for (address, (_, data)) in tensors.iter().zip(model.tensors()) {
            if !options.pieces {
                driver.upload(*address, data)?;
                continue;
            }
            for (i, piece) in data.chunks(PIECE).enumerate() {
                driver.upload_async(address + (i * PIECE) as u64, piece, streams[0].0)?;
            }
        }
        driver.wait(streams[0].0)?;

        let layers = plan.layers.len() as u64;
        let kv = allocate(driver, "kv", layers * u64::from(options.context) * u64::from(plan.dim()))?;
        driver.clear(kv.address, kv.bytes)?;
        let compute = allocate(driver, "compute", 256 + u64::from(plan.dim()) + u64::from(plan.ffn()))?;
        driver.upload(compute.address, &START_TOKEN.to_le_bytes())?;
        // The clear and the copy above were on the default stream, which ours do not wait for.
        driver.synchronize()?;

        // Grown twice, as the first batch does: the layers' products, then the output's.
        let mut pool = Pool::new(driver)?;
        let mut pool_base = 0;
        for floats in [plan.ffn(), plan.ffn().max(plan.vocab())] {
            let bytes = u64::from(floats) * 4;
            pool_base =
                pool.at_least(driver, bytes).map_err(|error| out_of_memory("the scratch pool", bytes, error))?;
        }
        Ok(Self { driver, plan, options, device, kernels, streams, weights, tensors, kv, compute, pool, pool_base })
    }

    /// Where everything is.
    pub fn map(&self) -> [(&'static str, DevicePtr, u64); 4] {
        let of = |buffer: &Buffer| (buffer.name, buffer.address, buffer.bytes);
        [of(&self.weights), of(&self.kv), of(&self.compute), ("pool", self.pool_base, self.pool.bytes())]
    }

    /// Generates `count` tokens.
    pub fn generate(&self, count: u32) -> Result<Answer> {
        let mut answer = Answer::new();
        let mut logits = vec![0; self.plan.vocab() as usize * 4];
        let main = self.streams[0].0;
        for position in 0..count {
            if self.options.graph {
                self.driver.as_graph(main, || self.token(position))?;
            } else {
                self.token(position)?;
            }
            self.driver.download(&mut logits, self.pool_base, main)?;
            answer.digest(&logits);
            let mut token = [0; 4];
            self.driver.download(&mut token, self.compute.address, main)?;
            answer.tokens.push(u32::from_le_bytes(token));
        }
        let mut kv = vec![0; self.kv.bytes as usize];
        self.driver.download(&mut kv, self.kv.address, main)?;
        answer.digest(&kv);
        Ok(answer)
    }

    /// Queues one token's kernels.
    fn token(&self, position: u32) -> Result<()> {
        let (dim, ffn) = (self.plan.dim(), self.plan.ffn());
        let x = self.compute.address + 256;
        let wide = x + u64::from(dim);
        self.embed(x)?;
        let mut kv = self.kv.address;
        for layer in &self.plan.layers {
            self.product(layer.attention, x)?;
            self.quantize(layer.attention, x, dim)?;
            self.kv_step(kv, x, position)?;
            kv += u64::from(self.options.context) * u64::from(dim);
            self.product(layer.up, x)?;
            self.quantize(layer.up, wide, ffn)?;
            self.product(layer.down, wide)?;
            self.quantize(layer.down, x, dim)?;
        }
        self.product(self.plan.output, x)?;
        self.argmax()
    }

    fn launch(&self, kernel: Handle, threads: u32, stream: Handle, params: &mut [*mut std::ffi::c_void]) -> Result<()> {
        // SAFETY: called only by the methods below, each of which passes the parameters its kernel declares in toy.ptx.
        unsafe { self.driver.launch(kernel, u64::from(threads), stream, params) }
    }

    fn embed(&self, mut x: DevicePtr) -> Result<()> {
        let Matrix { tensor, mut cols, .. } = self.plan.embedding;
        let (mut weights, mut token) = (self.tensors[tensor], self.compute.address);
        let mut params = [param(&mut weights), param(&mut token), param(&mut x), param(&mut cols)];
        self.launch(self.kernels.embed, cols, self.streams[0].0, &mut params)
    }

    /// The pool = matrix * x; the rows are spread over the streams, forked from the main one and joined again.
    fn product(&self, matrix: Matrix, mut x: DevicePtr) -> Result<()> {
        let (main, main_event) = self.streams[0];
        let share = matrix.rows.div_ceil(self.streams.len() as u32);
        for (i, (stream, event)) in self.streams.iter().enumerate() {
            let first = (i as u32 * share).min(matrix.rows);
            let (mut rows, mut cols) = (share.min(matrix.rows - first), matrix.cols);
            let row_bytes = u64::from(cols) / BLOCK * BLOCK_BYTES;
            let mut weights = self.tensors[matrix.tensor] + u64::from(first) * row_bytes;
            let mut y = self.pool_base + u64::from(first) * 4;
            if i > 0 {
                // The main stream already holds its own share of this product; waiting for that as well costs
                // overlap, never correctness.
                self.driver.order(main, *stream, main_event)?;
            }
            let mut params = [param(&mut weights), param(&mut x), param(&mut y), param(&mut rows), param(&mut cols)];
            self.launch(self.kernels.matvec, rows.max(1), *stream, &mut params)?;
            if i > 0 {
                self.driver.order(*stream, main, *event)?;
            }
        }
        Ok(())
    }

    fn quantize(&self, from: Matrix, mut x: DevicePtr, mut n: u32) -> Result<()> {
        let (mut y, mut scale) = (self.pool_base, from.output_scale());
        let mut params = [param(&mut y), param(&mut x), param(&mut n), param(&mut scale)];
        self.launch(self.kernels.quantize, n, self.streams[0].0, &mut params)
    }

    fn kv_step(&self, mut kv: DevicePtr, mut x: DevicePtr, mut position: u32) -> Result<()> {
        let mut dim = self.plan.dim();
        let mut params = [param(&mut kv), param(&mut x), param(&mut dim), param(&mut position)];
        self.launch(self.kernels.kv_step, dim, self.streams[0].0, &mut params)
    }

    fn argmax(&self) -> Result<()> {
        let (mut y, mut n, mut token) = (self.pool_base, self.plan.vocab(), self.compute.address);
        let mut params = [param(&mut y), param(&mut n), param(&mut token)];
        self.launch(self.kernels.argmax, 128, self.streams[0].0, &mut params)
    }

    /// Frees everything, in the order llama.cpp does.
    pub fn close(self) -> Result<()> {
        self.driver.synchronize()?;
        self.pool.close(self.driver)?;
        for buffer in [self.compute, self.kv, self.weights] {
            self.driver.free(buffer.address)?;
        }
        for (stream, event) in self.streams {
            self.driver.drop_event(event)?;
            self.driver.drop_stream(stream)?;
        }
        self.driver.unload(self.kernels.module)?;
        self.driver.leave(self.device)
    }
}

fn allocate(driver: &Driver, name: &'static str, bytes: u64) -> Result<Buffer> {
    let address = driver.alloc(bytes).map_err(|error| out_of_memory(name, bytes, error))?;
    Ok(Buffer { name, address, bytes })
}

fn out_of_memory(what: &str, bytes: u64, error: CudaError) -> anyhow::Error {
    let hint = if error.is_out_of_memory() { " (out of device memory)" } else { "" };
    anyhow!("cannot allocate {bytes} bytes for {what}: {error}{hint}")
}
