//! Fills.

use crate::ggml::look::is_allocating_tensor;
use crate::runtime::core;
use greenboost_cuda::abi::*;
use greenboost_intercept::guard::Handled;
use greenboost_memory::allocation::Fill;
use greenboost_memory::split::{self, Layout};

/// A fill of `count` elements of `T` in a line, in pieces of whole elements: boundaries lie at multiples of 2 MiB,
/// elements at multiples of their size.
fn line<T: Into<u32>>(
    dst: CUdeviceptr,
    value: T,
    count: usize,
    on: Option<CUstream>,
    mut issue: impl FnMut(CUdeviceptr, usize) -> Status,
) -> Handled {
    let core = core()?;
    let memory = core.memory;
    if memory.has_deferred() {
        // ggml clears a tensor's padding before it says what the buffer is for.
        let fill = Fill { at: dst, value: value.into(), width: size_of::<T>(), count };
        if is_allocating_tensor() && memory.defer(fill) {
            return Ok(SUCCESS);
        }
        core.touch(&[dst]);
    }
    let element = size_of::<T>();
    let _guard = match core.write_to(on, &[(dst, count.saturating_mul(element) as u64)], &[dst]) {
        Ok(guard) => guard,
        Err(status) => return Ok(status),
    };
    match count.checked_mul(element) {
        Some(bytes) if memory.has_boundaries() => {
            Ok(split::linear(&|at, bytes| memory.run(at, bytes), [dst], bytes, |at, piece| {
                issue(dst + at as u64, piece / element)
            }))
        }
        _ => Ok(issue(dst, count)),
    }
}

/// A fill of `height` rows of `width` elements of `T`.
fn rectangle<T>(
    dst: CUdeviceptr,
    pitch: usize,
    width: usize,
    height: usize,
    on: Option<CUstream>,
    mut issue: impl FnMut(CUdeviceptr, usize, usize) -> Status,
) -> Handled {
    let core = core()?;
    let memory = core.memory;
    if memory.has_deferred() {
        core.touch(&[dst]);
    }
    let element = size_of::<T>();
    let side = Layout { corner: dst, row: pitch, slice: 0 };
    let is_asked = core.wants_to_know_writes();
    let row = width.checked_mul(element).filter(|_| is_asked);
    let reach = row.map(|row| side.reach([row, height, 1]) as u64);
    let target = reach.map(|bytes| (dst, bytes));
    let _guard = match core.write_to(on, target.as_slice(), &[dst]) {
        Ok(guard) => guard,
        Err(status) => return Ok(status),
    };
    match width.checked_mul(element) {
        Some(row) if memory.has_boundaries() => {
            Ok(split::boxed(&|at, bytes| memory.run(at, bytes), &[side], [row, height, 1], &mut |part| {
                let at = dst + (part.from[0] + part.from[1] * pitch) as u64;
                issue(at, part.size[0] / element, part.size[1])
            }))
        }
        _ => Ok(issue(dst, width, height)),
    }
}

macro_rules! fills {
    ($($line:ident $line_async:ident $rectangle:ident $rectangle_async:ident $type:ty;)+) => { $(
        #[doc = concat!("A line of `", stringify!($type), "`.")]
        pub unsafe fn $line(
            original: unsafe extern "C" fn(CUdeviceptr, $type, usize) -> Status,
            dst: CUdeviceptr,
            value: $type,
            count: usize,
        ) -> Handled {
            // SAFETY: the program's own call, in pieces.
            line::<$type>(dst, value, count, None, |at, count| unsafe { original(at, value, count) })
        }

        #[doc = concat!("A line of `", stringify!($type), "`, on a stream.")]
        pub unsafe fn $line_async(
            original: unsafe extern "C" fn(CUdeviceptr, $type, usize, CUstream) -> Status,
            dst: CUdeviceptr,
            value: $type,
            count: usize,
            stream: CUstream,
        ) -> Handled {
            // SAFETY: the program's own call, in pieces.
            line::<$type>(dst, value, count, Some(stream), |at, count| unsafe {
                original(at, value, count, stream)
            })
        }

        #[doc = concat!("A rectangle of `", stringify!($type), "`.")]
        pub unsafe fn $rectangle(
            original: unsafe extern "C" fn(CUdeviceptr, usize, $type, usize, usize) -> Status,
            dst: CUdeviceptr,
            pitch: usize,
            value: $type,
            width: usize,
            height: usize,
        ) -> Handled {
            rectangle::<$type>(dst, pitch, width, height, None, |at, width, height| {
                // SAFETY: the program's own call, in parts.
                unsafe { original(at, pitch, value, width, height) }
            })
        }

        #[doc = concat!("A rectangle of `", stringify!($type), "`, on a stream.")]
        pub unsafe fn $rectangle_async(
            original: unsafe extern "C" fn(CUdeviceptr, usize, $type, usize, usize, CUstream) -> Status,
            dst: CUdeviceptr,
            pitch: usize,
            value: $type,
            width: usize,
            height: usize,
            stream: CUstream,
        ) -> Handled {
            rectangle::<$type>(dst, pitch, width, height, Some(stream), |at, width, height| {
                // SAFETY: the program's own call, in parts.
                unsafe { original(at, pitch, value, width, height, stream) }
            })
        }
    )+ };
}
fills! {
    d8 d8_async d2d8 d2d8_async u8;
    d16 d16_async d2d16 d2d16_async u16;
    d32 d32_async d2d32 d2d32_async u32;
}
