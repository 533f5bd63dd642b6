//! Copies of rectangles.

use crate::runtime::core;
use greenboost_cuda::abi::*;
use greenboost_intercept::guard::Handled;
use greenboost_memory::split::{self, Extent, Layout};

type Copy = unsafe extern "C" fn(*const Memcpy2D) -> Status;
type CopyAsync = unsafe extern "C" fn(*const Memcpy2D, CUstream) -> Status;

fn layout(side: &Side2D) -> Layout {
    let base = match side.kind {
        MEMORY_HOST => side.host as u64,
        MEMORY_DEVICE | MEMORY_UNIFIED => side.device,
        _ => return Layout { corner: 0, row: 0, slice: 0 },
    };
    let corner = base.wrapping_add((side.x + side.y.wrapping_mul(side.pitch)) as u64);
    Layout { corner, row: side.pitch, slice: 0 }
}

/// The part of a copy that an extent names.
fn part(whole: &Memcpy2D, extent: Extent) -> Memcpy2D {
    let mut part = *whole;
    for side in [&mut part.src, &mut part.dst] {
        side.x += extent.from[0];
        side.y += extent.from[1];
    }
    (part.width, part.height) = (extent.size[0], extent.size[1]);
    part
}

unsafe fn submit(
    copy: *const Memcpy2D,
    on: Option<CUstream>,
    mut issue: impl FnMut(*const Memcpy2D) -> Status,
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
        let side = layout(&whole.dst);
        (side.corner, side.reach([whole.width, whole.height, 1]) as u64)
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
            let sides = [layout(&whole.src), layout(&whole.dst)];
            Ok(split::boxed(
                &|at, bytes| memory.run(at, bytes),
                &sides,
                [whole.width, whole.height, 1],
                &mut |extent| issue(&part(whole, extent)),
            ))
        }
    }
}

/// `cuMemcpy2D`, `cuMemcpy2DUnaligned`.
pub unsafe fn copy(original: Copy, copy: *const Memcpy2D) -> Handled {
    // SAFETY: the program's own call, in parts.
    unsafe { submit(copy, None, |part| original(part)) }
}

/// `cuMemcpy2DAsync`.
pub unsafe fn copy_async(original: CopyAsync, copy: *const Memcpy2D, stream: CUstream) -> Handled {
    // SAFETY: the program's own call, in parts.
    unsafe { submit(copy, Some(stream), |part| original(part, stream)) }
}
