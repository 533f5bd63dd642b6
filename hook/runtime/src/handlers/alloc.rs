//! Allocation and free: one record and one way to free for all entry points.

use crate::runtime::{Core, core};
use greenboost_cuda::Current;
use greenboost_cuda::abi::*;
use greenboost_intercept::guard::{Bypass, Handled};
use greenboost_memory::Memory;
use greenboost_memory::device::{Device, Use};
use greenboost_memory::pools::PoolHome;
use greenboost_memory::streams::StreamOrder;
use std::ffi::c_uint;

/// Rows of a pitched allocation begin at multiples of this, as the driver's own do.
const PITCH: usize = 512;

type Alloc = unsafe extern "C" fn(*mut CUdeviceptr, usize) -> Status;
type AllocPitch = unsafe extern "C" fn(*mut CUdeviceptr, *mut usize, usize, usize, c_uint) -> Status;
type Free = unsafe extern "C" fn(CUdeviceptr) -> Status;
type AllocAsync = unsafe extern "C" fn(*mut CUdeviceptr, usize, CUstream) -> Status;
type AllocFromPool = unsafe extern "C" fn(*mut CUdeviceptr, usize, CUmemoryPool, CUstream) -> Status;
type CreatePool = unsafe extern "C" fn(*mut CUmemoryPool, *const PoolProp) -> Status;
type DestroyPool = unsafe extern "C" fn(CUmemoryPool) -> Status;
type FreeAsync = unsafe extern "C" fn(CUdeviceptr, CUstream) -> Status;

/// Where an allocation is to be.
struct Place<'a> {
    device: &'a Device,
    /// One of the device's.
    context: CUcontext,
    /// The order of the stream that it is allocated in, if in any.
    order: Option<StreamOrder>,
    /// Whether RAM may stand in for VRAM.
    may_span: bool,
}

impl<'a> Place<'a> {
    /// On the current device.
    fn current(memory: &'a Memory) -> Result<Self, Bypass> {
        let (device, context) = (memory.current_device()?, memory.current_context()?);
        Ok(Self { device, context, order: None, may_span: true })
    }

    /// On the device of a pool, or else of the stream, in the order of the stream.
    fn ordered(memory: &'a Memory, pool: Option<CUmemoryPool>, stream: CUstream) -> Result<Self, Bypass> {
        let context = memory.context_of(stream)?;
        let of_stream = memory.device_of(context)?;
        let home = match pool {
            Some(pool) => memory.pools.home(memory.driver, pool),
            None => memory.pools.home_of(memory.driver, of_stream.ordinal),
        };
        let (ordinal, may_span) = match home {
            PoolHome::Spans(device) => (device, true),
            PoolHome::Device(device) => (device, false),
            PoolHome::Elsewhere => return Err(Bypass::NotOurs),
        };
        let order = Some(memory.order_of(stream)?);
        if ordinal == of_stream.ordinal {
            return Ok(Self { device: of_stream, context, order, may_span });
        }
        let own = memory.any_context_of(ordinal);
        let context = own.unwrap_or(context);
        Ok(Self { device: memory.device(ordinal)?, context, order, may_span: may_span && own.is_some() })
    }

    /// What was freed earlier in the same order. `None`: there is nothing of this size.
    fn reuse(&self, core: &Core, bytes: u64) -> Option<CUdeviceptr> {
        let order = self.order.filter(|_| self.may_span)?;
        core.reuse_whole(self.device, self.context, bytes, order)
    }

    /// An allocation spread over tiers. `None`: not here.
    fn span(&self, core: &Core, bytes: u64) -> Option<Result<CUdeviceptr, Status>> {
        if !self.may_span {
            return None;
        }
        let _current = Current::enter(core.memory.driver, self.context).ok()?;
        core.can_span(self.device).then(|| core.span(self.device, bytes, self.order))
    }
}

/// Allocates `bytes`, by `plain` (the driver's own way) or spread over tiers, and writes the address.
unsafe fn place(
    core: &Core,
    at: impl FnOnce() -> Result<Place<'static>, Bypass>,
    dptr: *mut CUdeviceptr,
    bytes: usize,
    plain: impl FnMut() -> Status,
) -> Handled {
    let memory = core.memory;
    if dptr.is_null() || bytes == 0 {
        return Err(Bypass::BadArguments);
    }
    let at = at()?;
    let size = bytes as u64;
    if let Some(base) = at.reuse(core, size) {
        // SAFETY: the program's own out pointer, seen to be non-null.
        unsafe { dptr.write(base) };
        return Ok(SUCCESS);
    }
    if size >= memory.settings.threshold {
        match at.span(core, size) {
            Some(Ok(base)) => {
                // SAFETY: as above.
                unsafe { dptr.write(base) };
                return Ok(SUCCESS);
            }
            Some(Err(OUT_OF_MEMORY)) => return Ok(OUT_OF_MEMORY),
            Some(Err(status)) => log::warn!("no spanning allocation ({status}); the driver is asked for a plain one"),
            None => {}
        }
    }
    let status = take_plain(core, at.device, size, plain);
    if status == SUCCESS {
        // SAFETY: the driver has just written the address there.
        memory.plain.note(unsafe { dptr.read() }, size, at.device.ordinal, at.context);
        return Ok(SUCCESS);
    }
    // What VRAM cannot hold spans, however small.
    if status == OUT_OF_MEMORY
        && let Some(Ok(base)) = at.span(core, size)
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

unsafe fn on_current(dptr: *mut CUdeviceptr, bytes: usize, plain: impl FnMut() -> Status) -> Handled {
    let core = core()?;
    // SAFETY: the caller's promise.
    unsafe { place(core, || Place::current(core.memory), dptr, bytes, plain) }
}

/// `cuMemAlloc`.
pub unsafe fn alloc(original: Alloc, dptr: *mut CUdeviceptr, bytes: usize) -> Handled {
    // SAFETY: the program's own call.
    unsafe { on_current(dptr, bytes, || original(dptr, bytes)) }
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
        let handled = on_current(dptr, bytes, || original(dptr, pitch, width, height, element));
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
    core.free_after_all(allocation);
    Ok(SUCCESS)
}

/// The stream that a null one means in the forms of functions for per-thread default streams.
fn per_thread(stream: CUstream) -> CUstream {
    if stream.is_null() { STREAM_PER_THREAD } else { stream }
}

/// The stream that a null one means in the other forms.
fn legacy(stream: CUstream) -> CUstream {
    if stream.is_null() { STREAM_LEGACY } else { stream }
}

unsafe fn in_order(
    dptr: *mut CUdeviceptr,
    bytes: usize,
    pool: Option<CUmemoryPool>,
    on: CUstream,
    plain: impl FnMut() -> Status,
) -> Handled {
    let core = core()?;
    let memory = core.memory;
    if memory.captures.takes(memory.driver, on) {
        // It becomes a node of the graph; its address is the graph's.
        return Err(Bypass::Capturing);
    }
    // SAFETY: the caller's promise.
    unsafe { place(core, || Place::ordered(memory, pool, on), dptr, bytes, plain) }
}

/// `cuMemAllocAsync`.
pub unsafe fn alloc_async(original: AllocAsync, dptr: *mut CUdeviceptr, bytes: usize, stream: CUstream) -> Handled {
    // SAFETY: the program's own call.
    unsafe { in_order(dptr, bytes, None, legacy(stream), || original(dptr, bytes, stream)) }
}

/// `cuMemAllocAsync_ptsz`.
pub unsafe fn alloc_async_per_thread(
    original: AllocAsync,
    dptr: *mut CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> Handled {
    // SAFETY: the program's own call.
    unsafe { in_order(dptr, bytes, None, per_thread(stream), || original(dptr, bytes, stream)) }
}

/// `cuMemAllocFromPoolAsync`.
pub unsafe fn alloc_from_pool_async(
    original: AllocFromPool,
    dptr: *mut CUdeviceptr,
    bytes: usize,
    pool: CUmemoryPool,
    stream: CUstream,
) -> Handled {
    // SAFETY: the program's own call.
    unsafe { in_order(dptr, bytes, Some(pool), legacy(stream), || original(dptr, bytes, pool, stream)) }
}

/// `cuMemAllocFromPoolAsync_ptsz`.
pub unsafe fn alloc_from_pool_async_per_thread(
    original: AllocFromPool,
    dptr: *mut CUdeviceptr,
    bytes: usize,
    pool: CUmemoryPool,
    stream: CUstream,
) -> Handled {
    // SAFETY: the program's own call.
    unsafe { in_order(dptr, bytes, Some(pool), per_thread(stream), || original(dptr, bytes, pool, stream)) }
}

/// `cuMemFreeAsync`.
pub unsafe fn free_async(original: FreeAsync, dptr: CUdeviceptr, stream: CUstream) -> Handled {
    // SAFETY: the program's own call.
    unsafe { free_on(original, dptr, stream, legacy(stream)) }
}

/// `cuMemFreeAsync_ptsz`.
pub unsafe fn free_async_per_thread(original: FreeAsync, dptr: CUdeviceptr, stream: CUstream) -> Handled {
    // SAFETY: the program's own call.
    unsafe { free_on(original, dptr, stream, per_thread(stream)) }
}

unsafe fn free_on(original: FreeAsync, dptr: CUdeviceptr, stream: CUstream, on: CUstream) -> Handled {
    let core = core()?;
    let memory = core.memory;
    // In a capture only memory of the graph can be freed: the driver refuses the rest.
    let is_captured = memory.captures.takes(memory.driver, on);
    if is_captured || !memory.table().has(dptr) {
        // SAFETY: the program's own call.
        let status = unsafe { original(dptr, stream) };
        if status == SUCCESS && !is_captured {
            core.forget_plain(dptr);
        }
        return Ok(status);
    }
    match core.free_in_order(dptr, on) {
        Ok(true) => Ok(SUCCESS),
        Ok(false) => Err(Bypass::NotOurAllocation),
        Err(status) => Ok(status),
    }
}

/// `cuMemPoolCreate`.
pub unsafe fn create_pool(original: CreatePool, pool: *mut CUmemoryPool, prop: *const PoolProp) -> Handled {
    let core = core()?;
    // SAFETY: the program's own call.
    let status = unsafe { original(pool, prop) };
    // SAFETY: the driver has just read the properties and written the handle.
    if let (SUCCESS, Some(pool), Some(prop)) = unsafe { (status, pool.as_ref(), prop.as_ref()) } {
        core.memory.pools.created(*pool, prop);
    }
    Ok(status)
}

/// `cuMemPoolDestroy`. Forgotten first: another thread may be given the same handle right after.
pub unsafe fn destroy_pool(original: DestroyPool, pool: CUmemoryPool) -> Handled {
    let core = core()?;
    let pools = &core.memory.pools;
    let known = pools.destroyed(pool);
    // SAFETY: the program's own call.
    let status = unsafe { original(pool) };
    if status != SUCCESS {
        known.into_iter().for_each(|home| pools.keep(pool, home));
    }
    Ok(status)
}
