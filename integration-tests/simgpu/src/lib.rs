//! A simulated CUDA driver (libcuda.so.1) for machines without a GPU.
//!
//! GreenBoost is tested against this library, so it behaves as the real driver does wherever GreenBoost depends on
//! it, errors included, and is stricter where a program could get away with a mistake: streams really run apart,
//! device memory really is out of the host's reach, and an address is translated when the work runs.
//!
//! # Environment
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `SIMGPU_DEVICES` | boards in the machine | 1 |
//! | `SIMGPU_VRAM` | bytes of VRAM, `512MiB`, `4GiB`; a list gives each board its own | `1GiB` |
//! | `SIMGPU_CTX_OVERHEAD` | VRAM a context takes | 0 |
//! | `SIMGPU_SEED` | seed of the delays, and of the order of independent graph nodes | 0 |
//! | `SIMGPU_DELAY_US` | longest random delay before an operation of a stream, in microseconds; 0 also runs the nodes of a graph in the order they were added | 20 |
//! | `SIMGPU_LINK_GBPS` | GB/s of the link to the host, for copies | no limit |
//! | `SIMGPU_IN_PLACE_GBPS` | the same for kernels that read host memory over it | as the link |
//! | `SIMGPU_VRAM_GBPS` | GB/s at which kernels read and write VRAM | no limit |
//! | `SIMGPU_MULTIPROCESSORS` | what the device says it has; no kernel gets slower | 132 |
//! | `SIMGPU_DRIVER_VERSION` | what `cuDriverGetVersion` says, and the newest functions there are | 13000 |
//! | `SIMGPU_VMM` | 0: no virtual memory management | 1 |
//! | `SIMGPU_ADDRESS_HINTS` | 0: reservations are not where they ask to be, but where the last one of that length was | 1 |
//! | `SIMGPU_HOST_NUMA` | `ok`; `unreadable`: kernels fault on host chunks; `stale`: they read zeroes and their writes are lost; `unsupported`: `cuMemCreate` refuses | `ok` |
//! | `SIMGPU_HOST_REGISTER` | `ok`, or `fail`: `cuMemHostRegister` is not supported | `ok` |
//! | `SIMGPU_READ_ONLY` | `ok`; `unreadable`: kernels fault on memory that is registered read-only; `stale`: they read zeroes; `unsupported`: `cuMemHostRegister` refuses it | `ok` |
//! | `SIMGPU_FAIL` | `cuMemCreate:3,cuMemMap:1:999`: the Nth call of a function (symbol or base name) fails with a code | out of memory |
//! | `SIMGPU_TRACE` | a file that gets a line `name(arguments) = code` for every call | none |
//! | `SIMGPU_TWINS` | 1: `cuGetProcAddress` returns other addresses than the exported symbols; calls through them are traced as `name@twin` | 0 |
//! | `SIMGPU_SHM` | a file all processes of one simulated machine share: VRAM is then theirs together, and NVML sees it | none |
//! | `CUDA_VISIBLE_DEVICES` | indices or UUIDs, as ever | all |
//!
//! # Time
//!
//! With speeds set, an operation takes the time its bytes take (see [`clock`]): a copy occupies the link, a kernel the
//! multiprocessors, and for host memory the link as well; the two run side by side. Mat-vec kernels over quantised
//! weights reach the share of the speeds that llama.cpp's do. Event times are modelled times.
//!
//! # Files
//!
//! `NAME_calls` has the driver's functions on what `NAME` is, declared by [`edge`]'s macro, and nothing below [`edge`]
//! knows of them: from [`errors`] over [`physical`], [`va`], [`context`], [`gpu`], [`work`], [`graph`] and [`capture`] to
//! [`stream`], each file uses only those before it.
//!
//! # What it does not do
//!
//! It runs only the kernels of [`kernels`], whatever code the PTX has. The export tables the CUDA runtime wants are
//! missing, so a real libcudart does not start on it. There are no textures, multicast or external memory.
//! A kernel launched with programmatic serialisation may begin as soon as the one in front of it has begun, whether
//! that one says so or not; there are no programmatic events. An allocation of 1 MiB or more is
//! accounted in steps of 2 MiB, a smaller one in steps of 512 bytes; the real driver's small allocations share
//! 2 MiB blocks. Memory from `cuMemCreate` survives the reset of a context. Pages the program unmaps while they
//! are registered are gone, where a real driver would still have them pinned.
#![allow(non_snake_case)]
// Nothing here is a Rust API: the crate is a library only so that its own tests can link it.
pub mod accounting;
pub mod alloc;
pub mod alloc_calls;
pub mod arguments;
pub mod array;
pub mod capture;
pub mod capture_calls;
pub mod clock;
pub mod context;
pub mod context_calls;
pub mod copy;
pub mod copy_start;
pub mod device;
pub mod device_calls;
pub mod driver;
pub mod driver_calls;
pub mod edge;
pub mod entry;
pub mod env;
pub mod error_calls;
pub mod errors;
pub mod event;
pub mod event_calls;
pub mod expert_ids;
pub mod experts;
pub mod fence;
pub mod function;
pub mod gpu;
pub mod graph;
pub mod graph_build;
pub mod graph_exec;
pub mod graph_nodes;
pub mod handles;
pub mod host;
pub mod host_calls;
pub mod kernel;
pub mod kernels;
pub mod launch;
pub mod launch_attributes;
pub mod launch_calls;
pub mod link;
pub mod memcpy;
pub mod memcpy_array;
pub mod memcpy_batch;
pub mod memcpy_shaped;
pub mod memset;
pub mod memset_calls;
pub mod module;
pub mod module_calls;
pub mod physical;
pub mod pointer;
pub mod pool;
pub mod pool_calls;
pub mod primary;
pub mod ptx;
pub mod queue;
pub mod random;
pub mod replay;
pub mod share;
pub mod stream;
pub mod stream_calls;
pub mod trace;
pub mod unsupported;
pub mod v1;
pub mod va;
pub mod vmm;
pub mod waiting;
pub mod work;
pub mod worker;
pub mod world;
