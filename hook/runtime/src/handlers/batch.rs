//! Batches of copies.

use crate::runtime::core;
use greenboost_cuda::abi::*;
use greenboost_intercept::guard::{Bypass, Handled};
use greenboost_memory::Memory;
use greenboost_memory::split;
use std::ffi::c_void;

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

/// `CUmemcpyAttributes`: when the source is read, and where both sides are.
#[repr(C)]
struct Attributes {
    source_order: u32,
    _hints: [i32; 4],
    _flags: u32,
}

/// `CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL`.
const DURING_CALL: u32 = 2;

/// A batch can name any address.
fn settle_before_batch() {
    if let Ok(core) = core()
        && core.memory.has_deferred()
    {
        core.materialise_all();
    }
}

/// What a batch writes.
unsafe fn targets(dsts: *const CUdeviceptr, sizes: *const usize, count: usize) -> Vec<(CUdeviceptr, u64)> {
    if dsts.is_null() || sizes.is_null() {
        return Vec::new();
    }
    // SAFETY: the program passes `count` of each, as for the driver.
    (0..count).map(|copy| unsafe { (*dsts.add(copy), *sizes.add(copy) as u64) }).collect()
}

/// What a batch reads and writes.
unsafe fn used(dsts: *const CUdeviceptr, srcs: *const CUdeviceptr, count: usize) -> Vec<CUdeviceptr> {
    let known = [dsts, srcs].into_iter().filter(|of| !of.is_null());
    // SAFETY: the program passes `count` of each, as for the driver.
    known.flat_map(|of| (0..count).map(move |copy| unsafe { *of.add(copy) })).collect()
}

/// A batch with copies across boundaries replaced by their pieces.
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
) -> Result<Option<Pieces>, Bypass> {
    let core = core()?;
    let memory = core.memory;
    if !memory.has_boundaries() || dsts.is_null() || srcs.is_null() || sizes.is_null() {
        return Ok(None);
    }
    let mut all = Pieces { dsts: vec![], srcs: vec![], sizes: vec![], attribute_starts: vec![], of: vec![] };
    let mut first_piece = Vec::with_capacity(count);
    for copy in 0..count {
        // SAFETY: the program passes `count` of each, as for the driver.
        let (dst, src, bytes) = unsafe { (*dsts.add(copy), *srcs.add(copy), *sizes.add(copy)) };
        first_piece.push(all.of.len());
        split::linear(&|at, bytes| memory.run(at, bytes), [dst, src], bytes, |at, piece| {
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

/// What a program passes for a batch.
#[derive(Clone, Copy)]
struct Asked {
    dsts: *const CUdeviceptr,
    srcs: *const CUdeviceptr,
    sizes: *const usize,
    count: usize,
    attributes: *const c_void,
    attribute_count: usize,
    stream: CUstream,
}

impl Asked {
    /// Makes the copies one by one where the driver cannot make them as a batch: it takes memory whose home is RAM that only
    /// the device may touch for the processor's, and copies it there, in a thread of its own, which crashes (seen with
    /// driver 580). `Some` with the status, and the copy that failed; `None` when the batch is the driver's.
    ///
    /// # Safety
    /// The arrays have as many entries as they say.
    unsafe fn singly(&self, memory: &Memory) -> Option<(Status, usize)> {
        // A batch refuses some of those that have none.
        let has_name = has_name(self.stream);
        let is_whole = !self.dsts.is_null() && !self.srcs.is_null() && !self.sizes.is_null() && self.count > 0;
        if !has_name || !is_whole || self.attributes.is_null() || self.attribute_count == 0 {
            return None;
        }
        // SAFETY: the caller's promise.
        let copies =
            || (0..self.count).map(|at| unsafe { (*self.dsts.add(at), *self.srcs.add(at), *self.sizes.add(at)) });
        let closed = |at: CUdeviceptr, bytes: usize| memory.is_closed_to_cpu(at, bytes as u64);
        if !copies().any(|(dst, src, bytes)| closed(dst, bytes) || closed(src, bytes)) {
            return None;
        }
        // SAFETY: as above.
        let attributes =
            unsafe { std::slice::from_raw_parts(self.attributes.cast::<Attributes>(), self.attribute_count) };
        let at_once = attributes.iter().any(|attributes| attributes.source_order == DURING_CALL);
        if at_once && memory.captures.any(memory.driver) {
            return None;
        }
        for (number, (dst, src, bytes)) in copies().enumerate() {
            let status = split::linear(&|at, bytes| memory.run(at, bytes), [dst, src], bytes, |at, piece| {
                // SAFETY: the program's own copy, in pieces.
                let copied =
                    unsafe { memory.driver.cuMemcpyAsync(dst + at as u64, src + at as u64, piece, self.stream) };
                copied.err().unwrap_or(SUCCESS)
            });
            if status != SUCCESS {
                return Some((status, number));
            }
        }
        // Sources that the program may change as soon as the call returns.
        // SAFETY: the program's own stream; nothing is capturing.
        let waited = if at_once { unsafe { memory.driver.cuStreamSynchronize(self.stream) } } else { Ok(()) };
        Some((waited.err().unwrap_or(SUCCESS), usize::MAX))
    }
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
    let core = core()?;
    let memory = core.memory;
    // SAFETY: the program's own arrays.
    let targets = if core.wants_to_know_writes() { unsafe { targets(dsts, sizes, count) } } else { Vec::new() };
    // SAFETY: the program's own arrays.
    let used = if memory.driver.device_count() > 1 { unsafe { used(dsts, srcs, count) } } else { Vec::new() };
    let _guard = match core.write_to(Some(stream), &targets, &used) {
        Ok(guard) => guard,
        Err(status) => return Ok(status),
    };
    // SAFETY: the program's own arrays, or ours in their place.
    unsafe {
        let asked = Asked { dsts, srcs, sizes, count, attributes, attribute_count, stream };
        if let Some((status, number)) = asked.singly(memory) {
            if let Some(failed) = failed.as_mut().filter(|_| status != SUCCESS) {
                *failed = number;
            }
            return Ok(status);
        }
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
    let core = core()?;
    let memory = core.memory;
    // SAFETY: the program's own arrays.
    let targets = if core.wants_to_know_writes() { unsafe { targets(dsts, sizes, count) } } else { Vec::new() };
    // SAFETY: the program's own arrays.
    let used = if memory.driver.device_count() > 1 { unsafe { used(dsts, srcs, count) } } else { Vec::new() };
    let _guard = match core.write_to(Some(stream), &targets, &used) {
        Ok(guard) => guard,
        Err(status) => return Ok(status),
    };
    // SAFETY: the program's own arrays, or ours in their place.
    unsafe {
        let asked = Asked { dsts, srcs, sizes, count, attributes, attribute_count, stream };
        if let Some((status, _)) = asked.singly(memory) {
            return Ok(status);
        }
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
