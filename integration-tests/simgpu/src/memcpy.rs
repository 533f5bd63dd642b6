//! The linear copies of the driver.

use crate::copy::{Declared, Place, Shape};
use crate::copy_start::{SourceOrder, start};
use crate::edge::{Call, In, Out, driver};
use crate::errors::{Error, Result};
use crate::stream::Kind;
use crate::va;
use std::ffi::c_void;

use Declared::{Any, Device, Host};

fn sync(call: &Call, to: (u64, Declared), from: (u64, Declared), bytes: usize) -> Result {
    let stream = call.default_stream()?;
    let (to, from) = (Place::linear(to.0, to.1), Place::linear(from.0, from.1));
    start(&stream, true, SourceOrder::Usual, to, from, Shape::linear(bytes))
}

fn later(call: &Call, stream: usize, to: (u64, Declared), from: (u64, Declared), bytes: usize) -> Result {
    let stream = call.stream(stream)?;
    let (to, from) = (Place::linear(to.0, to.1), Place::linear(from.0, from.1));
    start(&stream, false, SourceOrder::Usual, to, from, Shape::linear(bytes))
}

/// `CUmemcpyAttributes`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CopyAttributes {
    source_order: u32,
    hints: [i32; 4],
    flags: u32,
}

impl CopyAttributes {
    /// Attributes with a `CUmemcpySrcAccessOrder` and nothing else.
    pub fn new(source_order: u32) -> CopyAttributes {
        CopyAttributes { source_order, hints: [0; 4], flags: 0 }
    }
}

const _: () = assert!(size_of::<CopyAttributes>() == size_of::<cudarc::driver::sys::CUmemcpyAttributes>());

struct Batch {
    to: In<u64>,
    from: In<u64>,
    sizes: In<usize>,
    count: usize,
    attributes: In<CopyAttributes>,
    starts: In<usize>,
    attribute_count: usize,
}

/// Runs a batch; an error tells which copy it was, if it was one copy.
fn batch(call: &Call, batch: Batch, stream: usize) -> core::result::Result<(), (Error, usize)> {
    let whole = |error| (error, usize::MAX);
    let stream = call.stream(stream).map_err(whole)?;
    if stream.kind == Kind::Legacy || batch.attribute_count == 0 || batch.attribute_count > batch.count {
        return Err(whole(Error::INVALID_VALUE));
    }
    let to = batch.to.list(batch.count).map_err(whole)?;
    let from = batch.from.list(batch.count).map_err(whole)?;
    let sizes = batch.sizes.list(batch.count).map_err(whole)?;
    let attributes = batch.attributes.list(batch.attribute_count).map_err(whole)?;
    let starts = batch.starts.list(batch.attribute_count).map_err(whole)?;
    if starts[0] != 0 || !starts.is_sorted_by(|a, b| a < b) {
        return Err(whole(Error::INVALID_VALUE));
    }
    for index in 0..batch.count {
        let one = |error| (error, index);
        let attribute = attributes[starts.partition_point(|start| *start <= index) - 1];
        let order = match attribute.source_order {
            1 | 3 => SourceOrder::Stream,
            2 => SourceOrder::AtCall,
            _ => return Err(one(Error::INVALID_VALUE)),
        };
        let bytes = sizes[index] as u64;
        crash_as_the_driver_does(&[(to[index], bytes), (from[index], bytes)]);
        let (to, from) = (Place::linear(to[index], Any), Place::linear(from[index], Any));
        start(&stream, false, order, to, from, Shape::linear(sizes[index])).map_err(one)?;
    }
    Ok(())
}

/// Driver 580 takes mapped host memory for the processor's in a batch, also where only the device may touch it, and copies
/// it in a thread of its own, which gets SIGSEGV. Of batches of boxes, which were not tried, the same is assumed.
pub fn crash_as_the_driver_does(ranges: &[(u64, u64)]) {
    let space = va::read();
    let closed = |map: &va::Mapping| map.on_host() && matches!(map.origin, va::Origin::Vmm(_)) && map.host_rights == 0;
    if ranges.iter().any(|(start, bytes)| space.within(*start, *bytes).any(closed)) {
        eprintln!("simulated GPU: a batch copies host memory that the host may not touch: the driver crashes");
        std::process::abort();
    }
}

driver! {
    [ctx] "cuMemcpy" 4000 cuMemcpy | 7000 cuMemcpy_ptds(call, to: u64, from: u64, bytes: usize) {
        sync(call, (to, Any), (from, Any), bytes)
    }

    [ctx] "cuMemcpyPeer" 4000 cuMemcpyPeer | 7000 cuMemcpyPeer_ptds(
        call, to: u64, to_context: usize, from: u64, from_context: usize, bytes: usize,
    ) {
        crate::context::CONTEXTS.get(to_context)?;
        crate::context::CONTEXTS.get(from_context)?;
        sync(call, (to, Device), (from, Device), bytes)
    }

    [ctx] "cuMemcpyHtoD" 3020 cuMemcpyHtoD_v2 | 7000 cuMemcpyHtoD_v2_ptds(
        call, to: u64, from: *mut c_void, bytes: usize,
    ) {
        sync(call, (to, Device), (from as u64, Host), bytes)
    }

    [ctx] "cuMemcpyDtoH" 3020 cuMemcpyDtoH_v2 | 7000 cuMemcpyDtoH_v2_ptds(
        call, to: *mut c_void, from: u64, bytes: usize,
    ) {
        sync(call, (to as u64, Host), (from, Device), bytes)
    }

    [ctx] "cuMemcpyDtoD" 3020 cuMemcpyDtoD_v2 | 7000 cuMemcpyDtoD_v2_ptds(call, to: u64, from: u64, bytes: usize) {
        sync(call, (to, Device), (from, Device), bytes)
    }

    [ctx] "cuMemcpyAsync" 4000 cuMemcpyAsync | 7000 cuMemcpyAsync_ptsz(
        call, to: u64, from: u64, bytes: usize, stream: usize,
    ) {
        later(call, stream, (to, Any), (from, Any), bytes)
    }

    [ctx] "cuMemcpyPeerAsync" 4000 cuMemcpyPeerAsync | 7000 cuMemcpyPeerAsync_ptsz(
        call, to: u64, to_context: usize, from: u64, from_context: usize, bytes: usize, stream: usize,
    ) {
        crate::context::CONTEXTS.get(to_context)?;
        crate::context::CONTEXTS.get(from_context)?;
        later(call, stream, (to, Device), (from, Device), bytes)
    }

    [ctx] "cuMemcpyHtoDAsync" 3020 cuMemcpyHtoDAsync_v2 | 7000 cuMemcpyHtoDAsync_v2_ptsz(
        call, to: u64, from: *mut c_void, bytes: usize, stream: usize,
    ) {
        later(call, stream, (to, Device), (from as u64, Host), bytes)
    }

    [ctx] "cuMemcpyDtoHAsync" 3020 cuMemcpyDtoHAsync_v2 | 7000 cuMemcpyDtoHAsync_v2_ptsz(
        call, to: *mut c_void, from: u64, bytes: usize, stream: usize,
    ) {
        later(call, stream, (to as u64, Host), (from, Device), bytes)
    }

    [ctx] "cuMemcpyDtoDAsync" 3020 cuMemcpyDtoDAsync_v2 | 7000 cuMemcpyDtoDAsync_v2_ptsz(
        call, to: u64, from: u64, bytes: usize, stream: usize,
    ) {
        later(call, stream, (to, Device), (from, Device), bytes)
    }

    [ctx] "cuMemcpyBatchAsync" 12080 cuMemcpyBatchAsync | 12080 cuMemcpyBatchAsync_ptsz(
        call, to: In<u64>, from: In<u64>, sizes: In<usize>, count: usize, attributes: In<CopyAttributes>,
        starts: In<usize>, attribute_count: usize, failed: Out<usize>, stream: usize,
    ) {
        batch(call, Batch { to, from, sizes, count, attributes, starts, attribute_count }, stream)
            .map_err(|(error, index)| {
                failed.opt(index);
                error
            })
    }

    [ctx] "cuMemcpyBatchAsync" 13000 cuMemcpyBatchAsync_v2 | 13000 cuMemcpyBatchAsync_v2_ptsz(
        call, to: In<u64>, from: In<u64>, sizes: In<usize>, count: usize, attributes: In<CopyAttributes>,
        starts: In<usize>, attribute_count: usize, stream: usize,
    ) {
        batch(call, Batch { to, from, sizes, count, attributes, starts, attribute_count }, stream)
            .map_err(|(error, _)| error)
    }
}
