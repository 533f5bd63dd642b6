//! Contexts: which there are, whose memory they reach, and their ends, with which goes the memory that was made in them.

use crate::pending::Due;
use crate::runtime::{Core, core, core_if_made};
use greenboost_cuda::Current;
use greenboost_cuda::abi::*;
use greenboost_intercept::guard::{Bypass, Handled};
use greenboost_memory::quiet::device_of;
use std::ffi::{c_int, c_uint, c_void};

type Create = unsafe extern "C" fn(*mut CUcontext, c_uint, CUdevice) -> Status;
type CreateWithAffinity = unsafe extern "C" fn(*mut CUcontext, *mut c_void, c_int, c_uint, CUdevice) -> Status;
type CreateWithParams = unsafe extern "C" fn(*mut CUcontext, *mut c_void, c_uint, CUdevice) -> Status;
type EnablePeer = unsafe extern "C" fn(CUcontext, c_uint) -> Status;
type SetPoolAccess = unsafe extern "C" fn(CUmemoryPool, *const AccessDesc, usize) -> Status;
type Destroy = unsafe extern "C" fn(CUcontext) -> Status;
type UnloadModule = unsafe extern "C" fn(CUmodule) -> Status;
type UnloadLibrary = unsafe extern "C" fn(*mut c_void) -> Status;
type OfDevice = unsafe extern "C" fn(CUdevice) -> Status;

/// Gives back what a context has, while it is still there: its work is waited for, as its end would.
/// One that is gone already is not `is_alive`.
fn empty(core: &Core, context: CUcontext, is_alive: bool) {
    let memory = core.memory;
    let allocations = core.detach_context(context);
    core.forget_plain_of(context);
    core.reap(Due::In(context));
    for device in memory.devices() {
        device.forget_context(context);
    }
    memory.gates.context_gone(context);
    core.streaming.forget_layouts();
    let holds = core.streaming.is_of(context)
        || memory.files.is_of(context as usize)
        || core.streaming.knows_pinned()
        || core.uploads.is_of(context);
    if allocations.is_empty() && !holds {
        return;
    }
    let current = Current::push(memory.driver, context);
    if current.is_ok() {
        // SAFETY: waits for a context that is about to end.
        let _ = unsafe { memory.driver.cuCtxSynchronize() };
    }
    // Before the weights: nothing is left that a copy could be made for.
    core.streaming.context_gone(context, is_alive && current.is_ok());
    core.streaming.sources_gone(context);
    core.uploads.context_gone(memory.driver, context);
    drop(current);
    allocations.into_iter().for_each(|allocation| core.release(allocation));
}

/// Remembers a context that the program has made: its work may use any memory of its device.
fn made(status: Status, context: *const CUcontext) -> Handled {
    if status == SUCCESS
        && let Ok(core) = core()
    {
        // SAFETY: the driver has just written it.
        let context = unsafe { *context };
        if let Some(device) = device_of(core.memory.driver, context) {
            core.memory.gates.context_made(device, context);
        }
    }
    Ok(status)
}

/// `cuCtxCreate_v2`.
pub unsafe fn create(original: Create, context: *mut CUcontext, flags: c_uint, device: CUdevice) -> Handled {
    // SAFETY: the program's own call.
    made(unsafe { original(context, flags, device) }, context)
}

/// `cuCtxCreate_v3`.
pub unsafe fn create_with_affinity(
    original: CreateWithAffinity,
    context: *mut CUcontext,
    affinity: *mut c_void,
    count: c_int,
    flags: c_uint,
    device: CUdevice,
) -> Handled {
    // SAFETY: the program's own call.
    made(unsafe { original(context, affinity, count, flags, device) }, context)
}

/// `cuCtxCreate_v4`.
pub unsafe fn create_with_params(
    original: CreateWithParams,
    context: *mut CUcontext,
    params: *mut c_void,
    flags: c_uint,
    device: CUdevice,
) -> Handled {
    // SAFETY: the program's own call.
    made(unsafe { original(context, params, flags, device) }, context)
}

/// `cuCtxEnablePeerAccess`: from now on kernels of the current context's device may use the other's memory.
pub unsafe fn enable_peer(original: EnablePeer, peer: CUcontext, flags: c_uint) -> Handled {
    let memory = core()?.memory;
    let device = memory.current_context().ok().and_then(|context| device_of(memory.driver, context));
    let (Some(device), Some(of)) = (device, device_of(memory.driver, peer)) else { return Err(Bypass::NoContext) };
    // SAFETY: the program's own call.
    Ok(memory.open_to(device, of, || unsafe { original(peer, flags) }))
}

/// `cuMemPoolSetAccess`: what is allocated from a pool may be used by other devices; which of the pool's is not asked.
pub unsafe fn set_pool_access(
    original: SetPoolAccess,
    pool: CUmemoryPool,
    access: *const AccessDesc,
    count: usize,
) -> Handled {
    let memory = core()?.memory;
    if !access.is_null() && memory.driver.device_count() > 1 {
        // SAFETY: the program passes this many, as for the driver.
        let opened = unsafe { std::slice::from_raw_parts(access, count) };
        for access in opened.iter().filter(|access| access.location.kind == LOCATION_DEVICE) {
            for of in (0..memory.driver.device_count()).filter(|of| *of != access.location.id) {
                memory.open_to(access.location.id, of, || ());
            }
        }
    }
    // SAFETY: the program's own call.
    Ok(unsafe { original(pool, access, count) })
}

/// `cuCtxDestroy`.
pub unsafe fn destroy(original: Destroy, context: CUcontext) -> Handled {
    let core = core()?;
    let memory = core.memory;
    // A primary context is not destroyed this way: the driver refuses, and everything in it lives on.
    if memory.devices().any(|device| memory.driver.primary_context(device.ordinal) == Some(context)) {
        return Err(Bypass::NotOurs);
    }
    let _paused = core.streaming.experts().pause();
    empty(core, context, true);
    // SAFETY: the program's own call.
    Ok(unsafe { original(context) })
}

/// `cuDevicePrimaryCtxReset`.
pub unsafe fn reset_primary(original: OfDevice, device: CUdevice) -> Handled {
    let core = core()?;
    let memory = core.memory;
    let _paused = core.streaming.experts().pause();
    if let Some(context) = memory.driver.primary_context(device) {
        empty(core, context, true);
    }
    // SAFETY: the program's own call.
    Ok(unsafe { original(device) })
}

/// `cuDevicePrimaryCtxRelease`: the last one ends the context, and only the driver counts them.
pub unsafe fn release_primary(original: OfDevice, device: CUdevice) -> Handled {
    let core = core()?;
    let memory = core.memory;
    let _paused = core.streaming.experts().pause();
    let before = memory.driver.primary_context(device);
    if let Some(context) = before {
        core.streaming.context_may_go(context);
    }
    // SAFETY: the program's own call.
    let status = unsafe { original(device) };
    if let Some(context) = before.filter(|_| memory.driver.primary_context(device).is_none()) {
        // The context is gone and all its work is done; mappings outlive it and are ours to undo.
        empty(core, context, false);
    }
    Ok(status)
}

/// `cuModuleUnload`.
pub unsafe fn unload_module(original: UnloadModule, module: CUmodule) -> Handled {
    if let Some(core) = core_if_made() {
        core.streaming.forget_layouts();
    }
    // SAFETY: the program's own call.
    Ok(unsafe { original(module) })
}

/// `cuLibraryUnload`.
pub unsafe fn unload_library(original: UnloadLibrary, library: *mut c_void) -> Handled {
    if let Some(core) = core_if_made() {
        core.streaming.forget_layouts();
    }
    // SAFETY: the program's own call.
    Ok(unsafe { original(library) })
}
