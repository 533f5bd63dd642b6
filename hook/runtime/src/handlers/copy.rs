//! Copies along one line.

use crate::runtime::{Core, core};
use greenboost_cuda::abi::*;
use greenboost_cuda::event;
use greenboost_intercept::guard::Handled;
use greenboost_memory::split;
use std::ffi::c_void;

type Unified = unsafe extern "C" fn(CUdeviceptr, CUdeviceptr, usize) -> Status;
type UnifiedAsync = unsafe extern "C" fn(CUdeviceptr, CUdeviceptr, usize, CUstream) -> Status;
type Peer = unsafe extern "C" fn(CUdeviceptr, CUcontext, CUdeviceptr, CUcontext, usize) -> Status;
type PeerAsync = unsafe extern "C" fn(CUdeviceptr, CUcontext, CUdeviceptr, CUcontext, usize, CUstream) -> Status;
type FromArray = unsafe extern "C" fn(CUdeviceptr, *mut c_void, usize, usize) -> Status;
type ToArray = unsafe extern "C" fn(*mut c_void, usize, CUdeviceptr, usize) -> Status;
type HostToDevice = unsafe extern "C" fn(CUdeviceptr, *const c_void, usize) -> Status;
type HostToDeviceAsync = unsafe extern "C" fn(CUdeviceptr, *const c_void, usize, CUstream) -> Status;
type DeviceToHost = unsafe extern "C" fn(*mut c_void, CUdeviceptr, usize) -> Status;
type DeviceToHostAsync = unsafe extern "C" fn(*mut c_void, CUdeviceptr, usize, CUstream) -> Status;

/// Submits a copy between two addresses (device or host: the boundaries are those of the table alone), `on` a stream, or at once.
fn submit(
    on: Option<CUstream>,
    dst: CUdeviceptr,
    src: CUdeviceptr,
    bytes: usize,
    issue: impl FnMut(usize, usize) -> Status,
) -> Handled {
    submit_or(|_| None, on, dst, src, bytes, issue)
}

/// The same, unless `serve` does it.
fn submit_or(
    serve: impl FnOnce(&Core) -> Option<Status>,
    on: Option<CUstream>,
    dst: CUdeviceptr,
    src: CUdeviceptr,
    bytes: usize,
    mut issue: impl FnMut(usize, usize) -> Status,
) -> Handled {
    let core = core()?;
    let memory = core.memory;
    if memory.has_deferred() {
        core.touch(&[dst, src]);
    }
    let _guard = match core.copy_to(on, dst, src, bytes as u64) {
        Ok(guard) => guard,
        Err(status) => return Ok(status),
    };
    // A file's pages have the bytes, and are not to be written.
    if !core.is_in_file(dst, bytes as u64)
        && let Some(status) = serve(core)
    {
        return Ok(status);
    }
    if memory.has_boundaries() {
        let mut issue = |at: usize, piece| match core.is_in_file(dst + at as u64, 1) {
            // The bytes are there.
            true => SUCCESS,
            false => issue(at, piece),
        };
        return Ok(split::linear(&|at, bytes| memory.run(at, bytes), [dst, src], bytes, &mut issue));
    }
    Ok(issue(0, bytes))
}

/// `cuMemcpy`, `cuMemcpyDtoD`.
pub unsafe fn unified(original: Unified, dst: CUdeviceptr, src: CUdeviceptr, bytes: usize) -> Handled {
    // SAFETY: the program's own call, in pieces.
    submit(None, dst, src, bytes, |at, piece| unsafe { original(dst + at as u64, src + at as u64, piece) })
}

/// `cuMemcpyAsync`, `cuMemcpyDtoDAsync`.
pub unsafe fn unified_async(
    original: UnifiedAsync,
    dst: CUdeviceptr,
    src: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> Handled {
    // SAFETY: the program's own call, in pieces.
    submit(Some(stream), dst, src, bytes, |at, piece| unsafe {
        original(dst + at as u64, src + at as u64, piece, stream)
    })
}

/// `cuMemcpyPeer`.
pub unsafe fn peer(
    original: Peer,
    dst: CUdeviceptr,
    dst_context: CUcontext,
    src: CUdeviceptr,
    src_context: CUcontext,
    bytes: usize,
) -> Handled {
    submit(None, dst, src, bytes, |at, piece| {
        // SAFETY: the program's own call, in pieces.
        unsafe { original(dst + at as u64, dst_context, src + at as u64, src_context, piece) }
    })
}

/// `cuMemcpyPeerAsync`.
pub unsafe fn peer_async(
    original: PeerAsync,
    dst: CUdeviceptr,
    dst_context: CUcontext,
    src: CUdeviceptr,
    src_context: CUcontext,
    bytes: usize,
    stream: CUstream,
) -> Handled {
    submit(Some(stream), dst, src, bytes, |at, piece| {
        // SAFETY: the program's own call, in pieces.
        unsafe { original(dst + at as u64, dst_context, src + at as u64, src_context, piece, stream) }
    })
}

/// Does a piece of an upload in the fastest way: where it stays in RAM that the processor sees, it is written there, since the
/// driver would have it cross the link twice; else by several threads ([`greenboost_stream::upload`]); else `issue` submits it. Straight only
/// weights that are not whole yet, which nothing reads; on a stream that is idle, since what it has to do may write to the
/// weight, or to the source, before this copy; and not while anything is captured, since what is captured is to happen later,
/// and again.
///
/// # Safety
/// The arguments of a copy that the program makes, `on` a stream or, with `wait`, at once; inside the gate.
unsafe fn bring(
    dst: CUdeviceptr,
    src: *const c_void,
    bytes: usize,
    on: CUstream,
    wait: bool,
    issue: impl FnOnce() -> Status,
) -> Status {
    let Ok(core) = core() else { return issue() };
    let memory = core.memory;
    let is_straight = memory.has_boundaries()
        && core.tensors.is_arriving(dst)
        && !memory.captures.maybe_any()
        && memory.table().is_open_to_cpu(dst, bytes as u64)
        && !memory.is_on_device(src as u64)
        && event::is_idle(memory.driver, on);
    if !is_straight {
        // SAFETY: the program's own copy.
        return unsafe { core.uploads.copy(memory, dst, src.cast(), bytes, on, wait) }.unwrap_or_else(issue);
    }
    // SAFETY: memory of ours that is mapped here, and stays so while the gate is open; the source is the program's.
    unsafe { std::ptr::copy_nonoverlapping(src.cast::<u8>(), dst as *mut u8, bytes) };
    SUCCESS
}

/// `cuMemcpyHtoD`.
pub unsafe fn host_to_device(original: HostToDevice, dst: CUdeviceptr, src: *const c_void, bytes: usize) -> Handled {
    // SAFETY: the program's own call.
    unsafe { from_host(original, dst, src, bytes, STREAM_LEGACY) }
}

/// `cuMemcpyHtoD_ptds`.
pub unsafe fn host_to_device_per_thread(
    original: HostToDevice,
    dst: CUdeviceptr,
    src: *const c_void,
    bytes: usize,
) -> Handled {
    // SAFETY: the program's own call.
    unsafe { from_host(original, dst, src, bytes, STREAM_PER_THREAD) }
}

unsafe fn from_host(
    original: HostToDevice,
    dst: CUdeviceptr,
    src: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> Handled {
    // SAFETY: the program's own call.
    let serve = |core: &Core| unsafe { core.streaming.copy_from_host(dst, src as u64, bytes as u64, stream, true) };
    // SAFETY: the program's own call, in pieces.
    submit_or(serve, None, dst, src as u64, bytes, |at, piece| unsafe {
        let (dst, src) = (dst + at as u64, src.byte_add(at));
        bring(dst, src, piece, stream, true, || original(dst, src, piece))
    })
}

/// `cuMemcpyHtoDAsync`.
pub unsafe fn host_to_device_async(
    original: HostToDeviceAsync,
    dst: CUdeviceptr,
    src: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> Handled {
    // SAFETY: the program's own call.
    unsafe { from_host_async(original, dst, src, bytes, stream, STREAM_LEGACY) }
}

/// `cuMemcpyHtoDAsync_ptsz`.
pub unsafe fn host_to_device_async_per_thread(
    original: HostToDeviceAsync,
    dst: CUdeviceptr,
    src: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> Handled {
    // SAFETY: the program's own call.
    unsafe { from_host_async(original, dst, src, bytes, stream, STREAM_PER_THREAD) }
}

unsafe fn from_host_async(
    original: HostToDeviceAsync,
    dst: CUdeviceptr,
    src: *const c_void,
    bytes: usize,
    stream: CUstream,
    null_means: CUstream,
) -> Handled {
    let on = if stream.is_null() { null_means } else { stream };
    // SAFETY: the program's own call.
    let serve = |core: &Core| unsafe { core.streaming.copy_from_host(dst, src as u64, bytes as u64, on, false) };
    // SAFETY: the program's own call, in pieces.
    submit_or(serve, Some(on), dst, src as u64, bytes, |at, piece| unsafe {
        let (dst, src) = (dst + at as u64, src.byte_add(at));
        bring(dst, src, piece, on, false, || original(dst, src, piece, stream))
    })
}

/// `cuMemcpyDtoH`.
pub unsafe fn device_to_host(original: DeviceToHost, dst: *mut c_void, src: CUdeviceptr, bytes: usize) -> Handled {
    // SAFETY: the program's own call, in pieces.
    submit(None, dst as u64, src, bytes, |at, piece| unsafe { original(dst.byte_add(at), src + at as u64, piece) })
}

/// `cuMemcpyDtoHAsync`.
pub unsafe fn device_to_host_async(
    original: DeviceToHostAsync,
    dst: *mut c_void,
    src: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> Handled {
    // SAFETY: the program's own call, in pieces.
    submit(Some(stream), dst as u64, src, bytes, |at, piece| unsafe {
        original(dst.byte_add(at), src + at as u64, piece, stream)
    })
}

/// `cuMemcpyAtoD`.
pub unsafe fn from_array(
    original: FromArray,
    dst: CUdeviceptr,
    array: *mut c_void,
    offset: usize,
    bytes: usize,
) -> Handled {
    // An array has no address, and no boundaries.
    // SAFETY: the program's own call, in pieces.
    submit(None, dst, 0, bytes, |at, piece| unsafe { original(dst + at as u64, array, offset + at, piece) })
}

/// `cuMemcpyDtoA`.
pub unsafe fn to_array(
    original: ToArray,
    array: *mut c_void,
    offset: usize,
    src: CUdeviceptr,
    bytes: usize,
) -> Handled {
    // SAFETY: as above.
    submit(None, 0, src, bytes, |at, piece| unsafe { original(array, offset + at, src + at as u64, piece) })
}
