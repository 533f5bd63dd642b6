//! The driver's functions on ordinary device memory.

use crate::accounting::forget;
use crate::alloc::take;
use crate::context::Context;
use crate::driver;
use crate::edge::{Out, driver};
use crate::errors::{Error, Result};
use crate::host::pages;
use crate::pool::disappear;
use crate::va::{self, Backing, Origin, READ_WRITE};
use crate::vmm::Location;
use crate::waiting::wait_for_device;
use crate::world::MAX_BOARDS;

fn allocate(context: &Context, out: Out<u64>, bytes: u64) -> Result {
    if out.is_null() || bytes == 0 {
        return Err(Error::INVALID_VALUE);
    }
    out.put(take(context, bytes)?)
}

fn free(address: u64) -> Result {
    let device = {
        let space = va::read();
        let mapping = space.at(address).ok_or(Error::INVALID_VALUE)?;
        match mapping.origin {
            Origin::Alloc | Origin::Pool(_) => mapping.device(),
            Origin::Managed => None,
            Origin::Graph => {
                drop(space);
                return disappear(address);
            }
            _ => return Err(Error::INVALID_VALUE),
        }
    };
    // The promise the program relies on: nothing on the device uses the memory any more.
    match device {
        Some(device) => wait_for_device(device),
        None => (0..driver::devices().len()).for_each(wait_for_device),
    }
    let freeable = |origin| matches!(origin, Origin::Alloc | Origin::Pool(_) | Origin::Managed);
    forget(address, freeable).map(drop)
}

driver! {
    [quiet] "cuMemAlloc" 3020 cuMemAlloc_v2(call, out: Out<u64>, bytes: usize) {
        allocate(&*call.context()?, out, bytes as u64)
    }

    [quiet] "cuMemAllocPitch" 3020 cuMemAllocPitch_v2(
        call, out: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: u32,
    ) {
        if width == 0 || height == 0 || !matches!(element, 4 | 8 | 16) {
            return Err(Error::INVALID_VALUE);
        }
        let row = width.next_multiple_of(512);
        allocate(&*call.context()?, out, (row * height) as u64)?;
        pitch.put(row)
    }

    [quiet] "cuMemFree" 3020 cuMemFree_v2(call, address: u64) {
        free(address)?;
        call.context()?.healthy()
    }

    [quiet] "cuMemAllocManaged" 6000 cuMemAllocManaged(call, out: Out<u64>, bytes: usize, flags: u32) {
        if out.is_null() || bytes == 0 || !matches!(flags, 1 | 2) {
            return Err(Error::INVALID_VALUE);
        }
        let start = pages(bytes as u64)?;
        let context = call.context()?.handle;
        let rights = [READ_WRITE; MAX_BOARDS];
        va::write().insert(start, bytes as u64, Backing::Host, Origin::Managed, rights, context);
        out.put(start)
    }

    [ctx] "cuMemAdvise" 8000 cuMemAdvise(_call, _start: u64, _len: usize, _advice: u32, _device: i32) {
        Ok(())
    }

    [ctx] "cuMemAdvise" 12020 cuMemAdvise_v2(
        _call, _start: u64, _len: usize, _advice: u32, _location: Location,
    ) {
        Ok(())
    }

    [ctx] "cuMemPrefetchAsync" 8000 cuMemPrefetchAsync | 8000 cuMemPrefetchAsync_ptsz(
        call, _start: u64, _len: usize, _device: i32, stream: usize,
    ) {
        call.stream(stream).map(drop)
    }

    [ctx] "cuMemPrefetchAsync" 12020 cuMemPrefetchAsync_v2 | 12020 cuMemPrefetchAsync_v2_ptsz(
        call, _start: u64, _len: usize, _location: Location, _flags: u32, stream: usize,
    ) {
        call.stream(stream).map(drop)
    }
}
