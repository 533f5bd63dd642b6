//! Copies along one line, and batches of them.

use super::cut;
use crate::abi::*;
use crate::guard::Handled;
use crate::memory::gate::GATE;
use crate::memory::{self, Memory};
use crate::stream as streaming;
use std::ffi::c_void;

type Unified = unsafe extern "C" fn(CUdeviceptr, CUdeviceptr, usize) -> Status;
type UnifiedAsync = unsafe extern "C" fn(CUdeviceptr, CUdeviceptr, usize, CUstream) -> Status;
type Peer = unsafe extern "C" fn(CUdeviceptr, CUcontext, CUdeviceptr, CUcontext, usize) -> Status;
type PeerAsync = unsafe extern "C" fn(CUdeviceptr, CUcontext, CUdeviceptr, CUcontext, usize, CUstream) -> Status;
type HostToDevice = unsafe extern "C" fn(CUdeviceptr, *const c_void, usize) -> Status;
type HostToDeviceAsync = unsafe extern "C" fn(CUdeviceptr, *const c_void, usize, CUstream) -> Status;
type DeviceToHost = unsafe extern "C" fn(*mut c_void, CUdeviceptr, usize) -> Status;
type DeviceToHostAsync = unsafe extern "C" fn(*mut c_void, CUdeviceptr, usize, CUstream) -> Status;
type Batch = unsafe extern "C" fn(
    *mut CUdeviceptr,
    *mut CUdeviceptr,
    *mut usize,
    usize,
    *mut c_void,
    *mut usize,
    usize,
    *mut usize,
    CUstream,
) -> Status;
type BatchV2 = unsafe extern "C" fn(
    *mut CUdeviceptr,
    *mut CUdeviceptr,
    *mut usize,
    usize,
    *mut c_void,
    *mut usize,
    usize,
    CUstream,
) -> Status;

/// `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD`: what the null stream means in the two forms of a function.
const LEGACY: CUstream = 1 as CUstream;
const PER_THREAD: CUstream = 2 as CUstream;

/// Submits a copy between two addresses (device or host: the seams are those of the table alone).
fn submit(dst: CUdeviceptr, src: CUdeviceptr, bytes: usize, issue: impl FnMut(usize, usize) -> Status) -> Handled {
    submit_or(|_| None, dst, src, bytes, issue)
}

/// The same, unless `serve` does it.
fn submit_or(
    serve: impl FnOnce(&Memory) -> Option<Status>,
    dst: CUdeviceptr,
    src: CUdeviceptr,
    bytes: usize,
    mut issue: impl FnMut(usize, usize) -> Status,
) -> Handled {
    let memory = memory::get()?;
    if memory.has_late() {
        memory.touch(&[dst, src]);
    }
    let _inside = GATE.enter();
    let _writing = streaming::writing(memory, [(dst, bytes as u64)]);
    if let Some(status) = serve(memory) {
        return Ok(status);
    }
    if memory.has_seams() {
        return Ok(cut::linear(&|at, bytes| memory.run(at, bytes), [dst, src], bytes, issue));
    }
    Ok(issue(0, bytes))
}

/// `cuMemcpy`, `cuMemcpyDtoD`.
pub unsafe fn unified(original: Unified, dst: CUdeviceptr, src: CUdeviceptr, bytes: usize) -> Handled {
    // SAFETY: the program's own call, in pieces.
    submit(dst, src, bytes, |at, piece| unsafe { original(dst + at as u64, src + at as u64, piece) })
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
    submit(dst, src, bytes, |at, piece| unsafe { original(dst + at as u64, src + at as u64, piece, stream) })
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
    submit(dst, src, bytes, |at, piece| {
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
    submit(dst, src, bytes, |at, piece| {
        // SAFETY: the program's own call, in pieces.
        unsafe { original(dst + at as u64, dst_context, src + at as u64, src_context, piece, stream) }
    })
}

/// `cuMemcpyHtoD`.
pub unsafe fn host_to_device(original: HostToDevice, dst: CUdeviceptr, src: *const c_void, bytes: usize) -> Handled {
    // SAFETY: the program's own call.
    unsafe { from_host(original, dst, src, bytes, LEGACY) }
}

/// `cuMemcpyHtoD_ptds`.
pub unsafe fn host_to_device_per_thread(
    original: HostToDevice,
    dst: CUdeviceptr,
    src: *const c_void,
    bytes: usize,
) -> Handled {
    // SAFETY: the program's own call.
    unsafe { from_host(original, dst, src, bytes, PER_THREAD) }
}

unsafe fn from_host(
    original: HostToDevice,
    dst: CUdeviceptr,
    src: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> Handled {
    // SAFETY: the program's own call.
    let serve = |memory: &Memory| unsafe { streaming::assist(memory, dst, src as u64, bytes as u64, stream, true) };
    // SAFETY: the program's own call, in pieces.
    submit_or(serve, dst, src as u64, bytes, |at, piece| unsafe { original(dst + at as u64, src.byte_add(at), piece) })
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
    unsafe { from_host_async(original, dst, src, bytes, stream, LEGACY) }
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
    unsafe { from_host_async(original, dst, src, bytes, stream, PER_THREAD) }
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
    let serve = |memory: &Memory| unsafe { streaming::assist(memory, dst, src as u64, bytes as u64, on, false) };
    submit_or(serve, dst, src as u64, bytes, |at, piece| {
        // SAFETY: the program's own call, in pieces.
        unsafe { original(dst + at as u64, src.byte_add(at), piece, stream) }
    })
}

/// `cuMemcpyDtoH`.
pub unsafe fn device_to_host(original: DeviceToHost, dst: *mut c_void, src: CUdeviceptr, bytes: usize) -> Handled {
    // SAFETY: the program's own call, in pieces.
    submit(dst as u64, src, bytes, |at, piece| unsafe { original(dst.byte_add(at), src + at as u64, piece) })
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
    submit(dst as u64, src, bytes, |at, piece| unsafe { original(dst.byte_add(at), src + at as u64, piece, stream) })
}

/// A batch can name any address.
fn settle_before_batch() {
    if let Ok(memory) = memory::get()
        && memory.has_late()
    {
        memory.settle_all();
    }
}

/// What a batch writes.
unsafe fn targets(dsts: *const CUdeviceptr, sizes: *const usize, count: usize) -> Vec<(CUdeviceptr, u64)> {
    if !streaming::is_on() || dsts.is_null() || sizes.is_null() {
        return Vec::new();
    }
    // SAFETY: the program passes `count` of each, as for the driver.
    (0..count).map(|copy| unsafe { (*dsts.add(copy), *sizes.add(copy) as u64) }).collect()
}

/// A batch with copies across seams replaced by their pieces.
struct Pieces {
    dsts: Vec<CUdeviceptr>,
    srcs: Vec<CUdeviceptr>,
    sizes: Vec<usize>,
    /// For each range of copies with common attributes, its first piece.
    attribute_starts: Vec<usize>,
    /// For each piece, the program's copy it belongs to.
    of: Vec<usize>,
}

/// The pieces of a batch, or nothing when it may go to the driver as it is.
unsafe fn pieces(
    dsts: *const CUdeviceptr,
    srcs: *const CUdeviceptr,
    sizes: *const usize,
    count: usize,
    starts: *const usize,
    start_count: usize,
) -> Result<Option<Pieces>, crate::guard::Bypass> {
    let memory = memory::get()?;
    if !memory.has_seams() || dsts.is_null() || srcs.is_null() || sizes.is_null() {
        return Ok(None);
    }
    let mut all = Pieces { dsts: vec![], srcs: vec![], sizes: vec![], attribute_starts: vec![], of: vec![] };
    let mut first_piece = Vec::with_capacity(count);
    for copy in 0..count {
        // SAFETY: the program passes `count` of each, as for the driver.
        let (dst, src, bytes) = unsafe { (*dsts.add(copy), *srcs.add(copy), *sizes.add(copy)) };
        first_piece.push(all.of.len());
        cut::linear(&|at, bytes| memory.run(at, bytes), [dst, src], bytes, |at, piece| {
            all.dsts.push(dst + at as u64);
            all.srcs.push(src + at as u64);
            all.sizes.push(piece);
            all.of.push(copy);
            SUCCESS
        });
    }
    if all.of.len() == count {
        return Ok(None);
    }
    for at in 0..if starts.is_null() { 0 } else { start_count } {
        // SAFETY: the program passes `start_count` of them.
        let start = unsafe { *starts.add(at) };
        all.attribute_starts.push(first_piece.get(start).copied().unwrap_or(start));
    }
    Ok(Some(all))
}

/// `cuMemcpyBatchAsync` of CUDA 12.8.
pub unsafe fn batch(
    original: Batch,
    dsts: *mut CUdeviceptr,
    srcs: *mut CUdeviceptr,
    sizes: *mut usize,
    count: usize,
    attributes: *mut c_void,
    starts: *mut usize,
    attribute_count: usize,
    failed: *mut usize,
    stream: CUstream,
) -> Handled {
    settle_before_batch();
    let memory = memory::get()?;
    let _inside = GATE.enter();
    // SAFETY: the program's own arrays, or ours in their place.
    unsafe {
        let _writing = streaming::writing(memory, targets(dsts, sizes, count));
        let Some(mut all) = pieces(dsts, srcs, sizes, count, starts, attribute_count)? else {
            return Ok(original(dsts, srcs, sizes, count, attributes, starts, attribute_count, failed, stream));
        };
        let mut failed_piece = usize::MAX;
        let status = original(
            all.dsts.as_mut_ptr(),
            all.srcs.as_mut_ptr(),
            all.sizes.as_mut_ptr(),
            all.of.len(),
            attributes,
            all.attribute_starts.as_mut_ptr(),
            attribute_count,
            &mut failed_piece,
            stream,
        );
        if let Some(failed) = failed.as_mut().filter(|_| status != SUCCESS) {
            // SIZE_MAX says that no single copy was at fault; it has no piece.
            *failed = all.of.get(failed_piece).copied().unwrap_or(failed_piece);
        }
        Ok(status)
    }
}

/// `cuMemcpyBatchAsync` of CUDA 13.
pub unsafe fn batch_v2(
    original: BatchV2,
    dsts: *mut CUdeviceptr,
    srcs: *mut CUdeviceptr,
    sizes: *mut usize,
    count: usize,
    attributes: *mut c_void,
    starts: *mut usize,
    attribute_count: usize,
    stream: CUstream,
) -> Handled {
    settle_before_batch();
    let memory = memory::get()?;
    let _inside = GATE.enter();
    // SAFETY: the program's own arrays, or ours in their place.
    unsafe {
        let _writing = streaming::writing(memory, targets(dsts, sizes, count));
        let Some(mut all) = pieces(dsts, srcs, sizes, count, starts, attribute_count)? else {
            return Ok(original(dsts, srcs, sizes, count, attributes, starts, attribute_count, stream));
        };
        Ok(original(
            all.dsts.as_mut_ptr(),
            all.srcs.as_mut_ptr(),
            all.sizes.as_mut_ptr(),
            all.of.len(),
            attributes,
            all.attribute_starts.as_mut_ptr(),
            attribute_count,
            stream,
        ))
    }
}
