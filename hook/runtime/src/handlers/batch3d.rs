//! Batches of copies of boxes.

use super::batch::{DURING_CALL, NO_COPY, answer, one_by_one, settle_before_batch};
use crate::runtime::core;
use greenboost_cuda::abi::*;
use greenboost_intercept::guard::{Bypass, Handled};
use greenboost_memory::Memory;
use greenboost_memory::split::{self, Extent, Layout};
use std::ffi::c_void;
use std::ptr::null_mut;

type BatchV1 = unsafe extern "C" fn(usize, *mut BoxCopy, *mut usize, u64, CUstream) -> Status;
type BatchV2 = unsafe extern "C" fn(usize, *mut BoxCopy, u64, CUstream) -> Status;

/// A copy with all of it in bytes.
struct InBytes {
    copy: BoxCopy,
    /// Bytes of an element.
    element: usize,
    /// Bytes of a row, rows, slices.
    size: [usize; 3],
    src: Layout,
    dst: Layout,
}

/// Bytes of an array's element. `None`: nobody can say.
fn element_of(memory: &Memory, side: &Operand3D) -> Option<usize> {
    let mut descriptor = ArrayDescriptor::default();
    // SAFETY: the program's array; writes to a live local.
    unsafe { memory.driver.cuArray3DGetDescriptor_v2(&mut descriptor, side.what as *mut c_void) }.ok()?;
    descriptor.element_bytes()
}

fn layout(side: &Operand3D, element: usize, [width, height, _]: [usize; 3]) -> Layout {
    if side.kind != OPERAND_POINTER {
        return Layout { corner: 0, row: 0, slice: 0 };
    }
    let or = |given, least| if given == 0 { least } else { given };
    let row = or(side.numbers[0] * element, width);
    Layout { corner: side.what, row, slice: row * or(side.numbers[1], height) }
}

/// The operand of a part of the copy.
fn part_of(side: &Operand3D, layout: &Layout, element: usize, [x, y, z]: [usize; 3]) -> Operand3D {
    let mut part = *side;
    if side.kind == OPERAND_POINTER {
        part.what += (x + y * layout.row + z * layout.slice) as u64;
        // The part is smaller than the whole, whose size a 0 stood for.
        (part.numbers[0], part.numbers[1]) = (layout.row / element, layout.slice / layout.row.max(1));
    } else {
        let [first, second, third] = side.numbers;
        part.numbers = [first + x / element, second + y, third + z];
    }
    part
}

impl InBytes {
    /// `None`: of an array whose elements are unknown, and left to the driver as it is.
    fn of(memory: &Memory, copy: &BoxCopy) -> Option<Self> {
        let mut element = 1;
        for side in [&copy.src, &copy.dst].into_iter().filter(|side| side.kind == OPERAND_ARRAY) {
            element = element_of(memory, side)?;
        }
        let size = [copy.size[0] * element, copy.size[1], copy.size[2]];
        let (src, dst) = (layout(&copy.src, element, size), layout(&copy.dst, element, size));
        Some(Self { copy: *copy, element, size, src, dst })
    }

    fn targets(&self) -> (CUdeviceptr, u64) {
        (self.dst.corner, self.dst.reach(self.size) as u64)
    }

    fn is_closed_to_cpu(&self, memory: &Memory) -> bool {
        [&self.src, &self.dst]
            .into_iter()
            .any(|side| memory.is_closed_to_cpu(side.corner, side.reach(self.size) as u64))
    }

    /// The copy in parts that cross no boundary.
    fn parts(&self, memory: &Memory, issue: &mut dyn FnMut(BoxCopy) -> Status) -> Status {
        split::boxed(&|at, bytes| memory.run(at, bytes), &[self.src, self.dst], self.size, &mut |extent: Extent| {
            if extent.size == self.size {
                return issue(self.copy);
            }
            let side = |side, layout| part_of(side, layout, self.element, extent.from);
            let (src, dst) = (side(&self.copy.src, &self.src), side(&self.copy.dst, &self.dst));
            let size = [extent.size[0] / self.element, extent.size[1], extent.size[2]];
            issue(BoxCopy { src, dst, size, ..self.copy })
        })
    }

    /// A part as a copy of its own.
    fn alone(&self, part: &BoxCopy) -> Memcpy3D {
        let size = [part.size[0] * self.element, part.size[1], part.size[2]];
        let side = |side: &Operand3D| {
            let is_pointer = side.kind == OPERAND_POINTER;
            let own = layout(side, self.element, size);
            let [x, y, z] = if is_pointer { [0; 3] } else { side.numbers };
            Side3D {
                x: x * self.element,
                y,
                z,
                lod: 0,
                kind: if is_pointer { MEMORY_UNIFIED } else { MEMORY_ARRAY },
                host: null_mut(),
                device: if is_pointer { side.what } else { 0 },
                array: if is_pointer { null_mut() } else { side.what as *mut c_void },
                context: null_mut(),
                pitch: own.row,
                height: own.slice.checked_div(own.row).unwrap_or(0),
            }
        };
        Memcpy3D { src: side(&part.src), dst: side(&part.dst), width: size[0], height: size[1], depth: size[2] }
    }
}

/// Submits a batch: whole, in parts, or one by one (as [`super::batch`] does). `issue` makes the driver's call, and says which
/// copy was at fault.
///
/// # Safety
/// The list has `count` copies.
unsafe fn submit(
    count: usize,
    list: *mut BoxCopy,
    stream: CUstream,
    issue: impl FnOnce(usize, *mut BoxCopy, &mut usize) -> Status,
) -> Result<(Status, usize), Bypass> {
    let core = core()?;
    let memory = core.memory;
    settle_before_batch(core);
    if list.is_null() || count == 0 {
        return Err(Bypass::BadArguments);
    }
    // SAFETY: the caller's promise.
    let copies = unsafe { std::slice::from_raw_parts(list, count) };
    let in_bytes: Vec<_> = copies.iter().map(|copy| InBytes::of(memory, copy)).collect();
    let known = || in_bytes.iter().flatten();
    let targets: Vec<_> =
        if core.wants_to_know_writes() { known().map(InBytes::targets).collect() } else { Vec::new() };
    // What has no corner is an array.
    let corners = known().flat_map(|copy| [copy.src.corner, copy.dst.corner]).filter(|corner| *corner != 0);
    let used: Vec<_> = if memory.driver.device_count() > 1 { corners.collect() } else { Vec::new() };
    let _guard = match core.write_to(Some(stream), &targets, &used) {
        Ok(guard) => guard,
        Err(status) => return Ok((status, NO_COPY)),
    };
    if known().count() == count && known().any(|copy| copy.is_closed_to_cpu(memory)) {
        let at_once = copies.iter().any(|copy| copy.source_order == DURING_CALL);
        let alone = known().map(|copy| {
            copy.parts(memory, &mut |part| {
                // SAFETY: the program's own copy, in parts.
                unsafe { memory.driver.cuMemcpy3DAsync_v2(&copy.alone(&part), stream) }.err().unwrap_or(SUCCESS)
            })
        });
        if let Some(done) = one_by_one(memory, stream, at_once, alone) {
            return Ok(done);
        }
    }
    let mut failed = NO_COPY;
    if !memory.has_boundaries() {
        return Ok((issue(count, list, &mut failed), failed));
    }
    let (mut parts, mut of) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for (number, (copy, whole)) in in_bytes.iter().zip(copies).enumerate() {
        let mut add = |part| {
            parts.push(part);
            of.push(number);
            SUCCESS
        };
        match copy {
            Some(copy) => copy.parts(memory, &mut add),
            None => add(*whole),
        };
    }
    let status = issue(parts.len(), parts.as_mut_ptr(), &mut failed);
    Ok((status, of.get(failed).copied().unwrap_or(failed)))
}

/// `cuMemcpy3DBatchAsync` of CUDA 12.8.
pub unsafe fn batch(
    original: BatchV1,
    count: usize,
    list: *mut BoxCopy,
    failed: *mut usize,
    flags: u64,
    stream: CUstream,
) -> Handled {
    // SAFETY: the program's own list, or ours in its place.
    unsafe {
        let done = submit(count, list, stream, |count, list, failed| original(count, list, failed, flags, stream));
        answer(failed, done?)
    }
}

/// `cuMemcpy3DBatchAsync` of CUDA 13.
pub unsafe fn batch_v2(original: BatchV2, count: usize, list: *mut BoxCopy, flags: u64, stream: CUstream) -> Handled {
    // SAFETY: the program's own list, or ours in its place.
    let done = unsafe { submit(count, list, stream, |count, list, _| original(count, list, flags, stream)) };
    done.map(|(status, _)| status)
}
