//! Allocation and free: one record and one way to free for all entry points.

use crate::runtime::{Core, core};
use greenboost_cuda::abi::*;
use greenboost_intercept::guard::{Bypass, Handled};
use greenboost_memory::device::Device;
use greenboost_memory::device::Use;
use std::ffi::c_uint;

/// Rows of a pitched allocation begin at multiples of this, as the driver's own do.
const PITCH: usize = 512;

type Alloc = unsafe extern "C" fn(*mut CUdeviceptr, usize) -> Status;
type AllocPitch = unsafe extern "C" fn(*mut CUdeviceptr, *mut usize, usize, usize, c_uint) -> Status;
type Free = unsafe extern "C" fn(CUdeviceptr) -> Status;
type AllocAsync = unsafe extern "C" fn(*mut CUdeviceptr, usize, CUstream) -> Status;
type AllocFromPool = unsafe extern "C" fn(*mut CUdeviceptr, usize, CUmemoryPool, CUstream) -> Status;
type FreeAsync = unsafe extern "C" fn(CUdeviceptr, CUstream) -> Status;

/// Allocates `bytes`, by `plain` (the driver's own way) or spread over tiers, and writes the address.
unsafe fn place(dptr: *mut CUdeviceptr, bytes: usize, plain: impl FnMut() -> Status) -> Handled {
    let core = core()?;
    let memory = core.memory;
    if dptr.is_null() || bytes == 0 {
        return Err(Bypass::BadArguments);
    }
    let device = memory.current_device()?;
    let size = bytes as u64;
    if size >= memory.settings.threshold && core.can_span(device) {
        match core.span(device, size) {
            Ok(base) => {
                // SAFETY: the program's own out pointer, seen to be non-null.
                unsafe { dptr.write(base) };
                return Ok(SUCCESS);
            }
            Err(OUT_OF_MEMORY) => return Ok(OUT_OF_MEMORY),
            Err(status) => log::warn!("no spanning allocation ({status}); the driver is asked for a plain one"),
        }
    }
    let status = take_plain(core, device, size, plain);
    if status == SUCCESS {
        // SAFETY: the driver has just written the address there.
        let at = unsafe { dptr.read() };
        let context = memory.current_context().unwrap_or(std::ptr::null_mut());
        memory.plain.note(at, size, device.ordinal, context);
        return Ok(SUCCESS);
    }
    // What VRAM cannot hold spans, however small.
    if status == OUT_OF_MEMORY
        && core.can_span(device)
        && let Ok(base) = core.span(device, size)
    {
        // SAFETY: as above.
        unsafe { dptr.write(base) };
        return Ok(SUCCESS);
    }
    Ok(status)
}

/// Runs the driver's allocation inside the budget.
fn take_plain(core: &Core, device: &Device, bytes: u64, plain: impl FnMut() -> Status) -> Status {
    if !core.take_vram(device, Use::Plain, bytes) {
        return OUT_OF_MEMORY;
    }
    let status = core.retry(device, bytes, plain);
    if status != SUCCESS {
        device.give_back(Use::Plain, bytes);
    }
    status
}

/// `cuMemAlloc`.
pub unsafe fn alloc(original: Alloc, dptr: *mut CUdeviceptr, bytes: usize) -> Handled {
    // SAFETY: the program's own call.
    unsafe { place(dptr, bytes, || original(dptr, bytes)) }
}

/// `cuMemAllocPitch`.
pub unsafe fn alloc_pitch(
    original: AllocPitch,
    dptr: *mut CUdeviceptr,
    pitch: *mut usize,
    width: usize,
    height: usize,
    element: c_uint,
) -> Handled {
    let row = width.checked_next_multiple_of(PITCH).ok_or(Bypass::BadArguments)?;
    let bytes = row.checked_mul(height).ok_or(Bypass::BadArguments)?;
    if pitch.is_null() || !matches!(element, 4 | 8 | 16) {
        return Err(Bypass::BadArguments);
    }
    // A spanning allocation has our pitch; the driver's own overwrites it.
    // SAFETY: the program's own call and out pointer.
    unsafe {
        let before = pitch.replace(row);
        let handled = place(dptr, bytes, || original(dptr, pitch, width, height, element));
        if handled != Ok(SUCCESS) {
            pitch.write(before);
        }
        handled
    }
}

/// `cuMemFree`. Waits for the device, as the driver's does.
pub unsafe fn free(original: Free, dptr: CUdeviceptr) -> Handled {
    let core = core()?;
    let memory = core.memory;
    if !memory.table().has(dptr) {
        // SAFETY: the program's own call.
        let status = unsafe { original(dptr) };
        if status == SUCCESS {
            core.forget_plain(dptr);
        }
        return Ok(status);
    }
    let Some(allocation) = core.detach(dptr) else { return Err(Bypass::NotOurAllocation) };
    core.free_after(allocation, None);
    Ok(SUCCESS)
}

/// `cuMemAllocAsync`.
pub unsafe fn alloc_async(original: AllocAsync, dptr: *mut CUdeviceptr, bytes: usize, stream: CUstream) -> Handled {
    let core = core()?;
    let memory = core.memory;
    if memory.captures.any(memory.driver) {
        // It becomes a node of the graph; its address is the graph's.
        return Err(Bypass::Capturing);
    }
    // SAFETY: the program's own call.
    unsafe { place(dptr, bytes, || original(dptr, bytes, stream)) }
}

/// `cuMemAllocFromPoolAsync`.
pub unsafe fn alloc_from_pool_async(
    original: AllocFromPool,
    dptr: *mut CUdeviceptr,
    bytes: usize,
    pool: CUmemoryPool,
    stream: CUstream,
) -> Handled {
    let core = core()?;
    let memory = core.memory;
    if memory.captures.any(memory.driver) {
        return Err(Bypass::Capturing);
    }
    // SAFETY: the program's own call.
    unsafe { place(dptr, bytes, || original(dptr, bytes, pool, stream)) }
}

/// `cuMemFreeAsync`.
pub unsafe fn free_async(original: FreeAsync, dptr: CUdeviceptr, stream: CUstream) -> Handled {
    // SAFETY: the program's own call.
    unsafe { free_on(original, dptr, stream, stream) }
}

/// `cuMemFreeAsync_ptsz`.
pub unsafe fn free_async_per_thread(original: FreeAsync, dptr: CUdeviceptr, stream: CUstream) -> Handled {
    let behind = if stream.is_null() { STREAM_PER_THREAD } else { stream };
    // SAFETY: the program's own call.
    unsafe { free_on(original, dptr, stream, behind) }
}

unsafe fn free_on(original: FreeAsync, dptr: CUdeviceptr, stream: CUstream, behind: CUstream) -> Handled {
    let core = core()?;
    let memory = core.memory;
    if !memory.table().has(dptr) {
        // SAFETY: the program's own call.
        let status = unsafe { original(dptr, stream) };
        if status == SUCCESS && !memory.captures.any(memory.driver) {
            core.forget_plain(dptr);
        }
        return Ok(status);
    }
    let Some(allocation) = core.detach(dptr) else { return Err(Bypass::NotOurAllocation) };
    // During a capture the stream's work is not running: an event would become part of the graph.
    core.free_after(allocation, (!memory.captures.any(memory.driver)).then_some(behind));
    Ok(SUCCESS)
}
