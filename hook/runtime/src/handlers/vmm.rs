//! Physical memory that the program creates and maps itself: it stays where it asked for it, and counts.

use crate::runtime::core;
use greenboost_cuda::abi::*;
use greenboost_intercept::guard::{Bypass, Handled};
use greenboost_memory::Memory;
use greenboost_memory::device::Use;
use std::ffi::c_void;

type Create = unsafe extern "C" fn(*mut CUmemGenericAllocationHandle, usize, *const AllocationProp, u64) -> Status;
type Release = unsafe extern "C" fn(CUmemGenericAllocationHandle) -> Status;
type Retain = unsafe extern "C" fn(*mut CUmemGenericAllocationHandle, *mut c_void) -> Status;
type SetAccess = unsafe extern "C" fn(CUdeviceptr, usize, *const AccessDesc, usize) -> Status;
type GetAccess = unsafe extern "C" fn(*mut u64, *const Location, CUdeviceptr) -> Status;
type Map = unsafe extern "C" fn(CUdeviceptr, usize, usize, CUmemGenericAllocationHandle, u64) -> Status;
type Unmap = unsafe extern "C" fn(CUdeviceptr, usize) -> Status;

/// `cuMemCreate`. Other locations than a device, and threads without a context, are legal and not ours.
pub unsafe fn create(
    original: Create,
    handle: *mut CUmemGenericAllocationHandle,
    bytes: usize,
    prop: *const AllocationProp,
    flags: u64,
) -> Handled {
    // SAFETY: the driver would read the same structure.
    let location = unsafe { prop.as_ref() }.ok_or(Bypass::BadArguments)?.location;
    if location.kind != LOCATION_DEVICE || handle.is_null() {
        return Err(Bypass::NotOurs);
    }
    let core = core()?;
    let memory = core.memory;
    let device = memory.device(location.id)?;
    if !core.take_vram(device, Use::Mapped, bytes as u64) {
        // A pool of scratch memory must be in VRAM: there is no substitute to give.
        device.record.refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        return Ok(OUT_OF_MEMORY);
    }
    // SAFETY: the program's own call.
    let status = core.retry(device, bytes as u64, || unsafe { original(handle, bytes, prop, flags) });
    if status == SUCCESS {
        // SAFETY: the driver has just written the handle there.
        memory.mapped.created(unsafe { handle.read() }, bytes as u64, device.ordinal);
    } else {
        device.give_back(Use::Mapped, bytes as u64);
    }
    Ok(status)
}

/// `cuMemRelease`.
pub unsafe fn release(original: Release, handle: CUmemGenericAllocationHandle) -> Handled {
    let core = core()?;
    let memory = core.memory;
    // Before the driver's own, after which another thread may be given the same handle.
    let freed = memory.mapped.released(handle);
    // SAFETY: the program's own call.
    let status = unsafe { original(handle) };
    give_back(memory, freed);
    Ok(status)
}

/// `cuMemRetainAllocationHandle`: what the program has not mapped itself has no handle, and that of a chunk would soon name
/// memory that the chunk has left.
pub unsafe fn retain(original: Retain, handle: *mut CUmemGenericAllocationHandle, at: *mut c_void) -> Handled {
    let core = core()?;
    let memory = core.memory;
    if is_ours(memory, at as CUdeviceptr) {
        return Ok(INVALID_VALUE);
    }
    // SAFETY: the program's own call.
    let status = unsafe { original(handle, at) };
    // SAFETY: the driver has just written the handle there.
    if let Some(handle) = unsafe { handle.as_ref() }.filter(|_| status == SUCCESS) {
        memory.mapped.retained(*handle, at as CUdeviceptr);
    }
    Ok(status)
}

/// Whether an address is in memory that the program did not map itself: the driver refuses to have it treated so.
fn is_ours(memory: &Memory, at: CUdeviceptr) -> bool {
    memory.table().find(at).is_some()
}

/// `cuMemSetAccess`.
pub unsafe fn set_access(_: SetAccess, at: CUdeviceptr, _: usize, _: *const AccessDesc, _: usize) -> Handled {
    refuse_ours(at)
}

/// `cuMemGetAccess`.
pub unsafe fn get_access(_: GetAccess, _: *mut u64, _: *const Location, at: CUdeviceptr) -> Handled {
    refuse_ours(at)
}

/// `cuMemAddressFree`.
pub unsafe fn free_addresses(_: Unmap, at: CUdeviceptr, _: usize) -> Handled {
    refuse_ours(at)
}

fn refuse_ours(at: CUdeviceptr) -> Handled {
    if is_ours(core()?.memory, at) { Ok(INVALID_VALUE) } else { Err(Bypass::NotOurAllocation) }
}

/// `cuMemMap`.
pub unsafe fn map(
    original: Map,
    at: CUdeviceptr,
    bytes: usize,
    offset: usize,
    handle: CUmemGenericAllocationHandle,
    flags: u64,
) -> Handled {
    let core = core()?;
    let memory = core.memory;
    if is_ours(memory, at) {
        return Ok(INVALID_VALUE);
    }
    // SAFETY: the program's own call.
    let status = unsafe { original(at, bytes, offset, handle, flags) };
    if status == SUCCESS {
        memory.mapped.mapped(at, bytes as u64, handle);
    }
    Ok(status)
}

/// `cuMemUnmap`, of many maps in one call.
pub unsafe fn unmap(original: Unmap, at: CUdeviceptr, bytes: usize) -> Handled {
    let core = core()?;
    let memory = core.memory;
    if is_ours(memory, at) {
        return Ok(INVALID_VALUE);
    }
    // SAFETY: the program's own call.
    let status = unsafe { original(at, bytes) };
    if status == SUCCESS {
        give_back(memory, memory.mapped.unmapped(at, bytes as u64));
    }
    Ok(status)
}

fn give_back(memory: &Memory, freed: impl IntoIterator<Item = (CUdevice, u64)>) {
    for (ordinal, bytes) in freed {
        if let Ok(device) = memory.device(ordinal) {
            device.give_back(Use::Mapped, bytes);
        }
    }
}
