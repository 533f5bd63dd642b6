//! Ordinary device memory, and what dies with a context.

use crate::context::{self, Context};
use crate::edge::{Out, driver};
use crate::errors::{Error, Result};
use crate::physical::{Physical, Place};
use crate::va::{self, Backing, Origin, READ_WRITE, only};
use crate::world::MAX_BOARDS;

const LARGE: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// What the board accounts for an allocation: 2 MiB pages for large ones, 512 bytes steps for small ones.
pub fn accounted(bytes: u64) -> u64 {
    bytes.next_multiple_of(if bytes >= LARGE { va::GRANULE } else { 512 })
}

/// The addresses an allocation takes up.
pub fn address_len(bytes: u64) -> u64 {
    accounted(bytes).next_multiple_of(PAGE)
}

/// Reserves addresses for an allocation.
pub fn addresses(bytes: u64) -> Result<u64> {
    va::reserve_addresses(address_len(bytes), if bytes >= LARGE { va::GRANULE } else { PAGE }, 0)
}

fn allocate(context: &Context, out: Out<u64>, bytes: u64) -> Result {
    if out.is_null() || bytes == 0 {
        return Err(Error::INVALID_VALUE);
    }
    out.put(take(context, bytes)?)
}

/// Allocates for a context.
pub fn take(context: &Context, bytes: u64) -> Result<u64> {
    let place = Place::Device(context.ordinal());
    let memory = crate::pool::or_trim(|| Physical::create(place, accounted(bytes), 0, 0))?;
    let start = addresses(bytes)?;
    let rights = only(context.ordinal());
    va::write().insert(start, bytes, Backing::Physical(memory, 0), Origin::Alloc, rights, context.handle);
    Ok(start)
}

/// Forgets a mapping that owns its addresses.
pub fn forget(start: u64, wanted: impl Fn(Origin) -> bool) -> Result<va::Mapping> {
    let mut space = va::write();
    if !space.at(start).is_some_and(|mapping| wanted(mapping.origin)) {
        return Err(Error::INVALID_VALUE);
    }
    let mapping = space.remove(start).ok_or(Error::INVALID_VALUE)?;
    match mapping.origin {
        Origin::HostAlloc(_) | Origin::Managed => {
            va::release_addresses(mapping.start, mapping.len.next_multiple_of(PAGE));
        }
        Origin::Alloc | Origin::Pool(_) | Origin::Ipc => va::release_addresses(mapping.start, address_len(mapping.len)),
        Origin::Vmm(_) | Origin::Registered(_) | Origin::Graph => {}
    }
    Ok(mapping)
}

/// Frees what belonged to a context that is gone. Memory from `cuMemCreate` belongs to no context.
pub fn release_context(handle: usize) {
    let of_context = |mapping: &&va::Mapping| mapping.context == handle;
    let starts: Vec<u64> = va::read().all().filter(of_context).map(|mapping| mapping.start).collect();
    for start in starts {
        let _ = forget(start, |origin| !matches!(origin, Origin::Vmm(_) | Origin::Graph));
    }
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
                return crate::pool::disappear(address);
            }
            _ => return Err(Error::INVALID_VALUE),
        }
    };
    // The promise the program relies on: nothing on the device uses the memory any more.
    match device {
        Some(device) => context::wait_for_device(device),
        None => (0..crate::driver::devices().len()).for_each(context::wait_for_device),
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
        let start = crate::host::pages(bytes as u64)?;
        let context = call.context()?.handle;
        let rights = [READ_WRITE; MAX_BOARDS];
        va::write().insert(start, bytes as u64, Backing::Host, Origin::Managed, rights, context);
        out.put(start)
    }

    [ctx] "cuMemAdvise" 8000 cuMemAdvise(_call, _start: u64, _len: usize, _advice: u32, _device: i32) {
        Ok(())
    }

    [ctx] "cuMemAdvise" 12020 cuMemAdvise_v2(
        _call, _start: u64, _len: usize, _advice: u32, _location: crate::vmm::Location,
    ) {
        Ok(())
    }

    [ctx] "cuMemPrefetchAsync" 8000 cuMemPrefetchAsync | 8000 cuMemPrefetchAsync_ptsz(
        call, _start: u64, _len: usize, _device: i32, stream: usize,
    ) {
        call.stream(stream).map(drop)
    }

    [ctx] "cuMemPrefetchAsync" 12020 cuMemPrefetchAsync_v2 | 12020 cuMemPrefetchAsync_v2_ptsz(
        call, _start: u64, _len: usize, _location: crate::vmm::Location, _flags: u32, stream: usize,
    ) {
        call.stream(stream).map(drop)
    }
}
