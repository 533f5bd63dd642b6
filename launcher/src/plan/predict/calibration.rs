//! What cannot be measured in seconds on the user's machine: how well llama.cpp's kernels use it. Each figure was fitted
//! to runs of llama-bench (llama.cpp v0.5.0, Q4_K_M) on one H200 with 16 cores, the table in docs/speed.md; `tests.rs` compares
//! the formulas with every row of it. On other machines they are estimates, and reports say so.

/// Bytes of quantised weights that a multiprocessor gets through in a clock in decode. It binds where VRAM is fast: an
/// H200 reads 4,500 GB/s and decodes at 2,100.
pub const MATVEC_BYTES_PER_CLOCK: f64 = 8.1;
/// The share of the VRAM's read rate that decode reaches where that does not bind.
pub const MATVEC_VRAM_SHARE: f64 = 0.85;
/// Seconds a layer takes in decode whatever its size: some ten small kernels.
pub const LAYER_SECONDS: f64 = 52e-6;
/// Seconds a layer takes to launch where no CUDA graph does: 4.8 ms for 48 layers of experts, all in VRAM.
pub const DIRECT_LAYER_SECONDS: f64 = 100e-6;
/// The same kernels reading host memory in place: 41.5 GB/s over a link that carries 51.2.
pub const MATVEC_IN_PLACE_SHARE: f64 = 0.81;

/// Seconds of the kernel in front of one that multiplies with chosen experts, which has it read copies: measured in a graph of 48
/// layers on an H200.
pub const EXPERT_NUMBERS_SECONDS: f64 = 1.2e-6;
/// How often a layer has that: gate and up together, then down.
pub const EXPERT_LAUNCHES: f64 = 2.0;
/// Seconds that copying experts into VRAM takes from a token at the most: 16 of 2.65 MB, about as many as recorded routing asks for,
/// cost 0.4 to 0.6 ms, and the cache has a limit for each token. Never more than reading what missed.
pub const PROMOTION_SECONDS: f64 = 0.4e-3;

/// Multiplications and additions a multiprocessor makes in a clock in a prompt, for dense matrices (8-bit tensor cores).
pub const MULTIPLY_PER_CLOCK: f64 = 610.0;
/// The compute capability from which GPUs have those tensor cores.
pub const MULTIPLY_SINCE: (i32, i32) = (7, 5);
/// Experts get small batches. The share of the dense rate for `t` tokens an expert is this times t to the power below;
/// fitted to 32 and 128 tokens.
pub const EXPERT_SHARE: f64 = 0.105;
/// See [`EXPERT_SHARE`].
pub const EXPERT_POWER: f64 = 0.2;
/// The share of the shorter of computing and copying that the longer does not hide, where experts are streamed: they are
/// large, come three in a row, and a ring holds four. Fitted to micro-batches of 512 and 2048.
pub const EXPERTS_OVERLAP_LOSS: f64 = 0.18;
/// Tokens a kernel multiplies with a weight before it reads it again: in place, every reading crosses the link.
pub const TILE_TOKENS: f64 = 108.0;

/// The share of the RAM's read rate at which the CPU decodes.
pub const CPU_SHARE: f64 = 0.92;
/// GB/s of quantised weights that a core gets through, however fast the RAM is. Fitted to 4 and 16 threads, as 8 cores run
/// them.
pub const CPU_CORE: f64 = 6.5;
/// What a second thread on a core adds.
pub const CPU_SIBLING: f64 = 1.7;
/// What the CPU loses of its speed alone for each GB/s that is copied beside it, where the RAM has enough for both. Fitted to
/// 9 to 17 layers of 64 beside a link of 55 GB/s.
pub const CPU_BESIDE_LINK: f64 = 0.25 / 55.0;
/// More than that it does not lose.
pub const CPU_LOSES_AT_MOST: f64 = 0.25;
/// Seconds for each layer whose experts the CPU computes: handing over and waiting, twice.
pub const HANDOVER_SECONDS: f64 = 100e-6;
/// Seconds for each token and each matrix that llama.cpp copies by itself, served or not: it splits its graph there, and
/// what the parts hand over is copied as well. Fitted to micro-batches of 512 and 2048 of both models.
pub const SERVED_SECONDS: f64 = 0.4e-6;
/// Matrices of a layer's attention and feed-forward network, and of the latter alone or of its experts.
pub const LAYER_MATRICES: u64 = 7;
/// See [`LAYER_MATRICES`].
pub const FFN_MATRICES: u64 = 3;
/// The share of the experts that a micro-batch chooses: llama.cpp's offload copies only those.
pub const CHOSEN_EXPERTS: f64 = 0.85;

/// Seconds until a model can answer beside what its bytes take: the driver's context, the vocabulary, the first pass.
pub const START_SECONDS: f64 = 1.1;
/// What threads that upload get of the link, which stands still between two tensors.
pub const UPLOAD_SHARE: f64 = 0.5;
/// GB/s at which a file's pages become what the device reads.
pub const REGISTERING: f64 = 36.0;
/// GB/s at which llama.cpp reads a file that it does not map.
pub const READ: f64 = 2.6;
