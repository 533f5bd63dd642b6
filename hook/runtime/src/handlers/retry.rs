//! Calls in which the driver needs VRAM of its own: when it has none, room is made and they are tried again.

use crate::runtime::core;
use greenboost_cuda::abi::*;
use greenboost_intercept::guard::Handled;
use std::ffi::{c_int, c_uint, c_void};

/// Runs a call, and once more after VRAM was freed or evicted for it: never a third time, because a refusal of that would
/// cost as much again. The driver does not say how much it lacks: it is taken to be a chunk, or `bytes` when the call names
/// more.
fn retried(bytes: u64, mut call: impl FnMut() -> Status) -> Handled {
    let core = core()?;
    let memory = core.memory;
    let status = call();
    if status != OUT_OF_MEMORY {
        return Ok(status);
    }
    match memory.current_device() {
        Ok(device) => Ok(core.again(device, bytes, call)),
        Err(_) => Ok(status),
    }
}

macro_rules! retries {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) needs $bytes:expr;)+) => { $(
        $(#[$doc])*
        pub unsafe fn $name(original: unsafe extern "C" fn($($type),*) -> Status, $($arg: $type),*) -> Handled {
            // SAFETY: the program's own call.
            retried($bytes, || unsafe { original($($arg),*) })
        }
    )+ };
}
retries! {
    /// `cuMemAllocManaged`.
    managed(dptr: *mut CUdeviceptr, bytes: usize, flags: c_uint) needs bytes as u64;
    /// Calls with an out pointer and a source: `cuModuleLoadData`, `cuModuleLoad`, `cuModuleLoadFatBinary`, `cuArrayCreate`,
    /// `cuArray3DCreate`.
    two(module: *mut c_void, source: *const c_void) needs 0;
    /// `cuModuleLoadDataEx`.
    load_ex(module: *mut c_void, image: *const c_void, count: c_uint, options: *mut c_void,
            values: *mut *mut c_void) needs 0;
    /// `cuLibraryLoadData`.
    load_library(library: *mut c_void, image: *const c_void, jit: *mut c_void, jit_values: *mut *mut c_void,
                 jit_count: c_uint, options: *mut c_void, values: *mut *mut c_void, count: c_uint) needs 0;
    /// `cuStreamCreate`, `cuEventCreate`.
    create(created: *mut *mut c_void, flags: c_uint) needs 0;
    /// `cuStreamCreateWithPriority`.
    create_with_priority(stream: *mut *mut c_void, flags: c_uint, priority: c_int) needs 0;
    /// `cuGraphInstantiateWithFlags`.
    instantiate(exec: *mut CUgraphExec, graph: CUgraph, flags: u64) needs 0;
    /// `cuGraphInstantiateWithParams`.
    instantiate_with_params(exec: *mut CUgraphExec, graph: CUgraph, params: *mut c_void) needs 0;
}
