//! Batches of copies.

use crate::runtime::{Core, core};
use greenboost_cuda::abi::*;
use greenboost_intercept::guard::{Bypass, Handled};
use greenboost_memory::Memory;
use greenboost_memory::split;
use std::ffi::c_void;

type BatchV1 = unsafe extern "C" fn(
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
pub const DURING_CALL: u32 = 2;

/// A batch can name any address.
pub fn settle_before_batch(core: &Core) {
    if core.memory.has_deferred() {
        core.materialise_all();
    }
}

/// Which copy of a batch was at fault: none, so far.
pub const NO_COPY: usize = usize::MAX;

/// A batch as the driver takes it.
struct Batch {
    dsts: *mut CUdeviceptr,
    srcs: *mut CUdeviceptr,
    sizes: *mut usize,
    count: usize,
    attributes: *mut c_void,
    /// The first copy of each range with common attributes.
    starts: *mut usize,
    attribute_count: usize,
    stream: CUstream,
}

/// A batch with copies across boundaries replaced by their pieces.
#[derive(Default)]
struct Pieces {
    dsts: Vec<CUdeviceptr>,
    srcs: Vec<CUdeviceptr>,
    sizes: Vec<usize>,
    /// For each range of copies with common attributes, its first piece.
    attribute_starts: Vec<usize>,
    /// For each piece, the program's copy it belongs to.
    of: Vec<usize>,
}

impl Batch {
    /// What the copies write.
    ///
    /// # Safety
    /// The arrays have as many entries as they say.
    unsafe fn targets(&self) -> Vec<(CUdeviceptr, u64)> {
        if self.dsts.is_null() || self.sizes.is_null() {
            return Vec::new();
        }
        // SAFETY: the caller's promise.
        (0..self.count).map(|at| unsafe { (*self.dsts.add(at), *self.sizes.add(at) as u64) }).collect()
    }

    /// What it reads and writes.
    ///
    /// # Safety
    /// The arrays have as many entries as they say.
    unsafe fn used(&self) -> Vec<CUdeviceptr> {
        let known = [self.dsts, self.srcs].into_iter().filter(|of| !of.is_null());
        // SAFETY: the caller's promise.
        known.flat_map(|of| (0..self.count).map(move |at| unsafe { *of.add(at) })).collect()
    }

    fn is_whole(&self) -> bool {
        !self.dsts.is_null() && !self.srcs.is_null() && !self.sizes.is_null()
    }

    /// The copies: target, source, bytes.
    ///
    /// # Safety
    /// The arrays are there, and have as many entries as they say.
    unsafe fn copies(&self) -> impl Iterator<Item = (CUdeviceptr, CUdeviceptr, usize)> {
        // SAFETY: the caller's promise.
        (0..self.count).map(|at| unsafe { (*self.dsts.add(at), *self.srcs.add(at), *self.sizes.add(at)) })
    }

    /// The pieces of a batch, or nothing when it may go to the driver as it is.
    ///
    /// # Safety
    /// The arrays have as many entries as they say.
    unsafe fn pieces(&self, memory: &Memory) -> Option<Pieces> {
        if !memory.has_boundaries() || !self.is_whole() {
            return None;
        }
        let mut all = Pieces::default();
        let mut first_piece = Vec::with_capacity(self.count);
        // SAFETY: the caller's promise.
        for (copy, (dst, src, bytes)) in unsafe { self.copies() }.enumerate() {
            first_piece.push(all.of.len());
            split::linear(&|at, bytes| memory.run(at, bytes), [dst, src], bytes, |at, piece| {
                all.dsts.push(dst + at as u64);
                all.srcs.push(src + at as u64);
                all.sizes.push(piece);
                all.of.push(copy);
                SUCCESS
            });
        }
        if all.of.len() == self.count {
            return None;
        }
        for at in 0..if self.starts.is_null() { 0 } else { self.attribute_count } {
            // SAFETY: the caller's promise.
            let start = unsafe { *self.starts.add(at) };
            all.attribute_starts.push(first_piece.get(start).copied().unwrap_or(start));
        }
        Some(all)
    }

    /// Makes the copies one by one where the driver cannot make them as a batch: it takes RAM that only
    /// the device may touch for the processor's, and copies it there, in a thread of its own, which crashes (seen with
    /// driver 580). `Some` with the status, and the copy that failed; `None` when the batch is the driver's.
    ///
    /// # Safety
    /// The arrays have as many entries as they say.
    unsafe fn singly(&self, memory: &Memory) -> Option<(Status, usize)> {
        if !self.is_whole() || self.attributes.is_null() || self.attribute_count == 0 {
            return None;
        }
        let closed = |at: CUdeviceptr, bytes: usize| memory.is_closed_to_cpu(at, bytes as u64);
        // SAFETY: the caller's promise.
        if !unsafe { self.copies() }.any(|(dst, src, bytes)| closed(dst, bytes) || closed(src, bytes)) {
            return None;
        }
        // SAFETY: as above.
        let attributes =
            unsafe { std::slice::from_raw_parts(self.attributes.cast::<Attributes>(), self.attribute_count) };
        let at_once = attributes.iter().any(|attributes| attributes.source_order == DURING_CALL);
        // SAFETY: as above.
        let copies = unsafe { self.copies() }.map(|(dst, src, bytes)| {
            split::linear(&|at, bytes| memory.run(at, bytes), [dst, src], bytes, |at, piece| {
                // SAFETY: the program's own copy, in pieces.
                let copied =
                    unsafe { memory.driver.cuMemcpyAsync(dst + at as u64, src + at as u64, piece, self.stream) };
                copied.err().unwrap_or(SUCCESS)
            })
        });
        one_by_one(memory, self.stream, at_once, copies)
    }

    /// Submits it: whole, in pieces, or one by one. `issue` makes the driver's call, and says which copy was at fault.
    ///
    /// # Safety
    /// The arrays have as many entries as they say.
    unsafe fn submit(mut self, issue: impl FnOnce(&Self, &mut usize) -> Status) -> Result<(Status, usize), Bypass> {
        let core = core()?;
        settle_before_batch(core);
        // SAFETY: the caller's promise.
        let targets = if core.wants_to_know_writes() { unsafe { self.targets() } } else { Vec::new() };
        // SAFETY: as above.
        let used = if core.memory.driver.device_count() > 1 { unsafe { self.used() } } else { Vec::new() };
        let _guard = match core.write_to(Some(self.stream), &targets, &used) {
            Ok(guard) => guard,
            Err(status) => return Ok((status, NO_COPY)),
        };
        // SAFETY: as above.
        if let Some(done) = unsafe { self.singly(core.memory) } {
            return Ok(done);
        }
        let mut failed = NO_COPY;
        // SAFETY: as above.
        let Some(mut all) = (unsafe { self.pieces(core.memory) }) else {
            return Ok((issue(&self, &mut failed), failed));
        };
        (self.dsts, self.srcs, self.sizes) = (all.dsts.as_mut_ptr(), all.srcs.as_mut_ptr(), all.sizes.as_mut_ptr());
        (self.count, self.starts) = (all.of.len(), all.attribute_starts.as_mut_ptr());
        let status = issue(&self, &mut failed);
        // That no single copy was at fault has no piece.
        Ok((status, all.of.get(failed).copied().unwrap_or(failed)))
    }
}

/// The copies of a batch one by one, until one fails. `None`: not on this stream, or not now.
pub fn one_by_one(
    memory: &Memory,
    stream: CUstream,
    at_once: bool,
    copies: impl Iterator<Item = Status>,
) -> Option<(Status, usize)> {
    // A batch refuses some of those that have none.
    if !has_name(stream) || at_once && memory.captures.takes(memory.driver, stream) {
        return None;
    }
    for (number, status) in copies.enumerate() {
        if status != SUCCESS {
            return Some((status, number));
        }
    }
    // Sources that the program may change as soon as the call returns.
    // SAFETY: the program's own stream, which is not captured.
    let waited = if at_once { unsafe { memory.driver.cuStreamSynchronize(stream) } } else { Ok(()) };
    Some((waited.err().unwrap_or(SUCCESS), NO_COPY))
}

/// Tells the program which copy was at fault.
///
/// # Safety
/// The program's own out pointer, which may be null.
pub unsafe fn answer(failed: *mut usize, (status, number): (Status, usize)) -> Handled {
    // SAFETY: the caller's promise.
    if let Some(failed) = unsafe { failed.as_mut() }.filter(|_| status != SUCCESS) {
        *failed = number;
    }
    Ok(status)
}

/// `cuMemcpyBatchAsync` of CUDA 12.8.
pub unsafe fn batch(
    original: BatchV1,
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
    let asked = Batch { dsts, srcs, sizes, count, attributes, starts, attribute_count, stream };
    // SAFETY: the program's own arrays, or ours in their place.
    unsafe {
        let done = asked.submit(|it, failed| {
            let Batch { dsts, srcs, sizes, count, attributes, starts, attribute_count, stream } = *it;
            original(dsts, srcs, sizes, count, attributes, starts, attribute_count, failed, stream)
        });
        answer(failed, done?)
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
    let asked = Batch { dsts, srcs, sizes, count, attributes, starts, attribute_count, stream };
    // SAFETY: the program's own arrays, or ours in their place.
    let done = unsafe {
        asked.submit(|it, _| {
            let Batch { dsts, srcs, sizes, count, attributes, starts, attribute_count, stream } = *it;
            original(dsts, srcs, sizes, count, attributes, starts, attribute_count, stream)
        })
    };
    done.map(|(status, _)| status)
}
