//! The driver's functions that fill memory.

use crate::capture;
use crate::copy::Kind;
use crate::edge::{Call, driver};
use crate::errors::Result;
use crate::memset::Fill;
use crate::work::Work;

fn start(call: &Call, stream: Option<usize>, fill: Fill) -> Result {
    let target = call.stream(stream.unwrap_or(0))?;
    if stream.is_none() {
        target.forbid_capturing()?;
        capture::forbid_unsafe()?;
    }
    if fill.width == 0 || fill.height == 0 {
        return Ok(());
    }
    let kind = fill.check()?;
    let fence = target.enqueue(Work::Fill(fill))?;
    // Filling VRAM does not hold the host up; filling host memory does.
    if let (Some(fence), true, true) = (fence, stream.is_none(), kind == Kind::Pinned) {
        fence.wait();
        target.context()?.healthy()?;
    }
    Ok(())
}

fn line(address: u64, value: u32, element: u32, width: usize) -> Fill {
    Fill { address, pitch: 0, value, element, width, height: 1 }
}

driver! {
    [ctx] "cuMemsetD8" 3020 cuMemsetD8_v2 | 7000 cuMemsetD8_v2_ptds(call, to: u64, value: u8, n: usize) {
        start(call, None, line(to, value.into(), 1, n))
    }

    [ctx] "cuMemsetD16" 3020 cuMemsetD16_v2 | 7000 cuMemsetD16_v2_ptds(call, to: u64, value: u16, n: usize) {
        start(call, None, line(to, value.into(), 2, n))
    }

    [ctx] "cuMemsetD32" 3020 cuMemsetD32_v2 | 7000 cuMemsetD32_v2_ptds(call, to: u64, value: u32, n: usize) {
        start(call, None, line(to, value, 4, n))
    }

    [ctx] "cuMemsetD8Async" 3020 cuMemsetD8Async | 7000 cuMemsetD8Async_ptsz(
        call, to: u64, value: u8, n: usize, stream: usize,
    ) {
        start(call, Some(stream), line(to, value.into(), 1, n))
    }

    [ctx] "cuMemsetD16Async" 3020 cuMemsetD16Async | 7000 cuMemsetD16Async_ptsz(
        call, to: u64, value: u16, n: usize, stream: usize,
    ) {
        start(call, Some(stream), line(to, value.into(), 2, n))
    }

    [ctx] "cuMemsetD32Async" 3020 cuMemsetD32Async | 7000 cuMemsetD32Async_ptsz(
        call, to: u64, value: u32, n: usize, stream: usize,
    ) {
        start(call, Some(stream), line(to, value, 4, n))
    }

    [ctx] "cuMemsetD2D8" 3020 cuMemsetD2D8_v2 | 7000 cuMemsetD2D8_v2_ptds(
        call, address: u64, pitch: usize, value: u8, width: usize, height: usize,
    ) {
        start(call, None, Fill { address, pitch, value: value.into(), element: 1, width, height })
    }

    [ctx] "cuMemsetD2D16" 3020 cuMemsetD2D16_v2 | 7000 cuMemsetD2D16_v2_ptds(
        call, address: u64, pitch: usize, value: u16, width: usize, height: usize,
    ) {
        start(call, None, Fill { address, pitch, value: value.into(), element: 2, width, height })
    }

    [ctx] "cuMemsetD2D32" 3020 cuMemsetD2D32_v2 | 7000 cuMemsetD2D32_v2_ptds(
        call, address: u64, pitch: usize, value: u32, width: usize, height: usize,
    ) {
        start(call, None, Fill { address, pitch, value, element: 4, width, height })
    }

    [ctx] "cuMemsetD2D8Async" 3020 cuMemsetD2D8Async | 7000 cuMemsetD2D8Async_ptsz(
        call, address: u64, pitch: usize, value: u8, width: usize, height: usize, stream: usize,
    ) {
        start(call, Some(stream), Fill { address, pitch, value: value.into(), element: 1, width, height })
    }

    [ctx] "cuMemsetD2D16Async" 3020 cuMemsetD2D16Async | 7000 cuMemsetD2D16Async_ptsz(
        call, address: u64, pitch: usize, value: u16, width: usize, height: usize, stream: usize,
    ) {
        start(call, Some(stream), Fill { address, pitch, value: value.into(), element: 2, width, height })
    }

    [ctx] "cuMemsetD2D32Async" 3020 cuMemsetD2D32Async | 7000 cuMemsetD2D32Async_ptsz(
        call, address: u64, pitch: usize, value: u32, width: usize, height: usize, stream: usize,
    ) {
        start(call, Some(stream), Fill { address, pitch, value, element: 4, width, height })
    }
}
