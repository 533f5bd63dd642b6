//! Copies between arrays and lines of memory. Offsets are bytes of an array in one dimension.

use crate::array::ARRAYS;
use crate::copy::{Declared, Place, Shape};
use crate::copy_start::{SourceOrder, start};
use crate::edge::{Call, driver};
use crate::errors::Result;
use std::ffi::c_void;

use Declared::{Device, Host};

fn part(array: usize, offset: usize, bytes: usize) -> Result<Place> {
    ARRAYS.get(array)?.place([offset, 0, 0], [bytes, 1, 1])
}

fn copy(call: &Call, stream: Option<usize>, to: Place, from: Place, bytes: usize) -> Result {
    let target = call.stream(stream.unwrap_or(0))?;
    start(&target, stream.is_none(), SourceOrder::Usual, to, from, Shape::linear(bytes))
}

driver! {
    [ctx] "cuMemcpyDtoA" 3020 cuMemcpyDtoA_v2 | 7000 cuMemcpyDtoA_v2_ptds(
        call, to: usize, offset: usize, from: u64, bytes: usize,
    ) {
        copy(call, None, part(to, offset, bytes)?, Place::linear(from, Device), bytes)
    }

    [ctx] "cuMemcpyAtoD" 3020 cuMemcpyAtoD_v2 | 7000 cuMemcpyAtoD_v2_ptds(
        call, to: u64, from: usize, offset: usize, bytes: usize,
    ) {
        copy(call, None, Place::linear(to, Device), part(from, offset, bytes)?, bytes)
    }

    [ctx] "cuMemcpyHtoA" 3020 cuMemcpyHtoA_v2 | 7000 cuMemcpyHtoA_v2_ptds(
        call, to: usize, offset: usize, from: *mut c_void, bytes: usize,
    ) {
        copy(call, None, part(to, offset, bytes)?, Place::linear(from as u64, Host), bytes)
    }

    [ctx] "cuMemcpyAtoH" 3020 cuMemcpyAtoH_v2 | 7000 cuMemcpyAtoH_v2_ptds(
        call, to: *mut c_void, from: usize, offset: usize, bytes: usize,
    ) {
        copy(call, None, Place::linear(to as u64, Host), part(from, offset, bytes)?, bytes)
    }

    [ctx] "cuMemcpyAtoA" 3020 cuMemcpyAtoA_v2 | 7000 cuMemcpyAtoA_v2_ptds(
        call, to: usize, to_offset: usize, from: usize, from_offset: usize, bytes: usize,
    ) {
        copy(call, None, part(to, to_offset, bytes)?, part(from, from_offset, bytes)?, bytes)
    }

    [ctx] "cuMemcpyHtoAAsync" 3020 cuMemcpyHtoAAsync_v2 | 7000 cuMemcpyHtoAAsync_v2_ptsz(
        call, to: usize, offset: usize, from: *mut c_void, bytes: usize, stream: usize,
    ) {
        copy(call, Some(stream), part(to, offset, bytes)?, Place::linear(from as u64, Host), bytes)
    }

    [ctx] "cuMemcpyAtoHAsync" 3020 cuMemcpyAtoHAsync_v2 | 7000 cuMemcpyAtoHAsync_v2_ptsz(
        call, to: *mut c_void, from: usize, offset: usize, bytes: usize, stream: usize,
    ) {
        copy(call, Some(stream), Place::linear(to as u64, Host), part(from, offset, bytes)?, bytes)
    }
}
