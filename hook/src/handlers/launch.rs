//! Kernels and graphs: submitted while no memory moves. This path is nanoseconds long and must stay so.

use crate::abi::*;
use crate::guard::Handled;
use crate::memory;
use crate::memory::gate::GATE;
use std::ffi::{c_uint, c_void};
use std::sync::atomic::Ordering::Relaxed;

type Kernel = unsafe extern "C" fn(
    CUfunction,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    CUstream,
    *mut *mut c_void,
    *mut *mut c_void,
) -> Status;
type KernelEx = unsafe extern "C" fn(*const CUlaunchConfig, CUfunction, *mut *mut c_void, *mut *mut c_void) -> Status;
type Cooperative = unsafe extern "C" fn(
    CUfunction,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    CUstream,
    *mut *mut c_void,
) -> Status;
type Graph = unsafe extern "C" fn(CUgraphExec, CUstream) -> Status;

/// Submits work. A driver that needs memory for it (a module loaded at its first launch) and has none is
/// asked again after room was made.
#[inline]
fn submit(issue: impl Fn() -> Status) -> Handled {
    let memory = memory::get()?;
    memory.record.launches.fetch_add(1, Relaxed);
    if memory.has_late() {
        memory.settle_all();
    }
    let status = {
        let _inside = GATE.enter();
        issue()
    };
    if status == OUT_OF_MEMORY { after_room(memory, issue) } else { Ok(status) }
}

#[cold]
fn after_room(memory: &memory::Memory, issue: impl Fn() -> Status) -> Handled {
    let Ok(device) = memory.current_device() else { return Ok(OUT_OF_MEMORY) };
    Ok(memory.again(device, 0, || {
        let _inside = GATE.enter();
        issue()
    }))
}

/// `cuLaunchKernel`.
pub unsafe fn kernel(
    original: Kernel,
    function: CUfunction,
    gx: c_uint,
    gy: c_uint,
    gz: c_uint,
    bx: c_uint,
    by: c_uint,
    bz: c_uint,
    shared: c_uint,
    stream: CUstream,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Handled {
    // SAFETY: the program's own call.
    submit(|| unsafe { original(function, gx, gy, gz, bx, by, bz, shared, stream, params, extra) })
}

/// `cuLaunchKernelEx`.
pub unsafe fn kernel_ex(
    original: KernelEx,
    config: *const CUlaunchConfig,
    function: CUfunction,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Handled {
    // SAFETY: the program's own call.
    submit(|| unsafe { original(config, function, params, extra) })
}

/// `cuLaunchCooperativeKernel`.
pub unsafe fn cooperative(
    original: Cooperative,
    function: CUfunction,
    gx: c_uint,
    gy: c_uint,
    gz: c_uint,
    bx: c_uint,
    by: c_uint,
    bz: c_uint,
    shared: c_uint,
    stream: CUstream,
    params: *mut *mut c_void,
) -> Handled {
    // SAFETY: the program's own call.
    submit(|| unsafe { original(function, gx, gy, gz, bx, by, bz, shared, stream, params) })
}

/// `cuGraphLaunch`.
pub unsafe fn graph(original: Graph, exec: CUgraphExec, stream: CUstream) -> Handled {
    // SAFETY: the program's own call.
    submit(|| unsafe { original(exec, stream) })
}
