//! Ends of contexts: memory goes with the context it was made in.

use crate::pending::Due;
use crate::runtime::{Core, core, core_if_made};
use greenboost_cuda::Current;
use greenboost_cuda::abi::*;
use greenboost_intercept::guard::{Bypass, Handled};
use std::ffi::c_void;

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
