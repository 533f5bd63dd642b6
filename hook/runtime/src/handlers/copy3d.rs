//! Copies of boxes, also between devices.

use crate::runtime::core;
use greenboost_cuda::abi::*;
use greenboost_intercept::guard::Handled;
use greenboost_memory::split::{self, Extent, Layout};

type Copy = unsafe extern "C" fn(*const Memcpy3D) -> Status;
type CopyAsync = unsafe extern "C" fn(*const Memcpy3D, CUstream) -> Status;

fn layout(side: &Side3D, height: usize) -> Layout {
    let base = match side.kind {
        MEMORY_HOST => side.host as u64,
        MEMORY_DEVICE | MEMORY_UNIFIED => side.device,
        _ => return Layout { corner: 0, row: 0, slice: 0 },
    };
    // A height of 0 in the structure means that slices follow each other without a gap.
    let slice = side.pitch * if side.height == 0 { height } else { side.height };
    let offset = side.x + side.y * side.pitch + side.z * slice;
    Layout { corner: base.wrapping_add(offset as u64), row: side.pitch, slice }
}

/// The part of a copy that an extent names.
fn part(whole: &Memcpy3D, extent: Extent) -> Memcpy3D {
    let mut part = *whole;
    for side in [&mut part.src, &mut part.dst] {
        // The part is lower than the whole, whose height a 0 stood for.
        if side.height == 0 {
            side.height = whole.height;
        }
        side.x += extent.from[0];
        side.y += extent.from[1];
        side.z += extent.from[2];
    }
    (part.width, part.height, part.depth) = (extent.size[0], extent.size[1], extent.size[2]);
    part
}

unsafe fn submit(
    copy: *const Memcpy3D,
    on: Option<CUstream>,
    mut issue: impl FnMut(*const Memcpy3D) -> Status,
) -> Handled {
    let core = core()?;
    let memory = core.memory;
    // SAFETY: the driver would read the same structure.
    if let Some(copy) = unsafe { copy.as_ref() }.filter(|_| memory.has_deferred()) {
        core.touch(&[copy.src.device, copy.dst.device, copy.src.host as u64, copy.dst.host as u64]);
    }
    let is_asked = core.wants_to_know_writes();
    // SAFETY: as above.
    let target = unsafe { copy.as_ref() }.filter(|_| is_asked).map(|whole| {
        let side = layout(&whole.dst, whole.height);
        (side.corner, side.reach([whole.width, whole.height, whole.depth]) as u64)
    });
    // SAFETY: as above.
    let used = unsafe { copy.as_ref() }.map_or([0; 2], |whole| [whole.src.device, whole.dst.device]);
    let _guard = match core.write_to(on, target.as_slice(), &used) {
        Ok(guard) => guard,
        Err(status) => return Ok(status),
    };
    // SAFETY: the driver would read the same structure.
    match unsafe { copy.as_ref() }.filter(|_| memory.has_boundaries()) {
        None => Ok(issue(copy)),
        Some(whole) => {
            let sides = [layout(&whole.src, whole.height), layout(&whole.dst, whole.height)];
            let size = [whole.width, whole.height, whole.depth];
            Ok(split::boxed(&|at, bytes| memory.run(at, bytes), &sides, size, &mut |extent| {
                if extent.size == size { issue(whole) } else { issue(&part(whole, extent)) }
            }))
        }
    }
}

/// `cuMemcpy3D`, `cuMemcpy3DPeer`.
pub unsafe fn copy(original: Copy, copy: *const Memcpy3D) -> Handled {
    // SAFETY: the program's own call, in parts.
    unsafe { submit(copy, None, |part| original(part)) }
}

/// `cuMemcpy3DAsync`, `cuMemcpy3DPeerAsync`.
pub unsafe fn copy_async(original: CopyAsync, copy: *const Memcpy3D, stream: CUstream) -> Handled {
    // SAFETY: the program's own call, in parts.
    unsafe { submit(copy, Some(stream), |part| original(part, stream)) }
}
