//! The driver's functions on memory pools, and on memory from them.

use crate::accounting::{accounted, addresses};
use crate::capture::Member;
use crate::driver;
use crate::edge::{Call, In, Out, driver};
use crate::errors::{Error, Result};
use crate::physical::Place;
use crate::pool::{GraphMemory, POOLS, Pool, current_of, of_device};
use crate::va::{self, Backing, Origin};
use crate::vmm::{Access, Location};
use crate::waiting::wait_for_device;
use crate::work::Work;
use std::sync::Arc;

/// `CUmemPoolProps`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PoolProperties {
    kind: u32,
    handle_types: u32,
    location: Location,
    win32: u64,
    max_size: usize,
    usage: u16,
    reserved: [u8; 54],
}

const _: () = assert!(size_of::<PoolProperties>() == size_of::<cudarc::driver::sys::CUmemPoolProps>());

fn allocate(call: &Call, out: Out<u64>, bytes: u64, pool: Option<Arc<Pool>>, stream: usize) -> Result {
    if out.is_null() || bytes == 0 {
        return Err(Error::INVALID_VALUE);
    }
    let stream = call.stream(stream)?;
    let context = stream.context()?;
    if stream.capture().is_some() {
        let memory = GraphMemory::reserve(context.ordinal(), bytes)?;
        out.put(memory.address)?;
        return stream.enqueue(Work::GraphAlloc(memory)).map(drop);
    }
    let pool = pool.unwrap_or_else(|| current_of(context.ordinal()));
    let size = accounted(bytes);
    let (memory, rights) = match pool.take(size, stream.id) {
        Err(Error::OUT_OF_MEMORY) => {
            // Frees that wait for their turn may be all it needs.
            wait_for_device(context.ordinal());
            pool.take(size, stream.id)?
        }
        taken => taken?,
    };
    let start = addresses(bytes)?;
    let origin = Origin::Pool(pool.handle);
    va::write().insert(start, bytes, Backing::Physical(memory, 0), origin, rights, context.handle);
    out.put(start)?;
    stream.enqueue(Work::Nothing).map(drop)
}

driver! {
    [ctx] "cuMemAllocAsync" 11020 cuMemAllocAsync | 11020 cuMemAllocAsync_ptsz(
        call, out: Out<u64>, bytes: usize, stream: usize,
    ) {
        allocate(call, out, bytes as u64, None, stream)
    }

    [ctx] "cuMemAllocFromPoolAsync" 11020 cuMemAllocFromPoolAsync | 11020 cuMemAllocFromPoolAsync_ptsz(
        call, out: Out<u64>, bytes: usize, pool: usize, stream: usize,
    ) {
        allocate(call, out, bytes as u64, Some(POOLS.get(pool)?), stream)
    }

    [ctx] "cuMemFreeAsync" 11020 cuMemFreeAsync | 11020 cuMemFreeAsync_ptsz(call, address: u64, stream: usize) {
        let stream = call.stream(stream)?;
        let origin = va::read().at(address).map(|mapping| mapping.origin);
        match origin {
            Some(Origin::Graph) => stream.enqueue(Work::GraphFree(address)).map(drop),
            // A graph frees what a graph allocates.
            Some(Origin::Pool(_) | Origin::Alloc) if stream.capture().is_some() => Err(Error::INVALID_VALUE),
            Some(Origin::Pool(pool)) => {
                // A pool that is destroyed has its memory until the last of it is freed.
                let pool = POOLS.get(pool).ok();
                pool.iter().try_for_each(|pool| pool.freed(address, stream.id))?;
                let queued = stream.enqueue(Work::Free(address)).map(drop);
                queued.inspect_err(|_| pool.iter().for_each(|pool| pool.not_freed(address)))
            }
            // Memory of cuMemAlloc may be freed in stream order too; it belongs to no pool.
            Some(Origin::Alloc) => stream.enqueue(Work::Free(address)).map(drop),
            _ => Err(Error::INVALID_VALUE),
        }
    }

    [init] "cuDeviceGetDefaultMemPool" 11020 cuDeviceGetDefaultMemPool(_call, out: Out<usize>, device: i32) {
        let ordinal = driver::device(device)?.ordinal;
        out.put(of_device(ordinal, |_, default| default.handle))
    }

    [init] "cuDeviceGetMemPool" 11020 cuDeviceGetMemPool(_call, out: Out<usize>, device: i32) {
        out.put(current_of(driver::device(device)?.ordinal).handle)
    }

    [init] "cuDeviceSetMemPool" 11020 cuDeviceSetMemPool(_call, device: i32, pool: usize) {
        let ordinal = driver::device(device)?.ordinal;
        let pool = POOLS.get(pool)?;
        if pool.place != Place::Device(ordinal) {
            return Err(Error::INVALID_VALUE);
        }
        of_device(ordinal, |pools, _| pools.current = Some(pool));
        Ok(())
    }

    [init] "cuMemPoolCreate" 11020 cuMemPoolCreate(_call, out: Out<usize>, properties: In<PoolProperties>) {
        let properties = properties.get()?;
        if properties.kind != 1 || out.is_null() {
            return Err(Error::INVALID_VALUE);
        }
        // Descriptors are the only handles that can be shared.
        if properties.handle_types & !1 != 0 {
            return Err(Error::NOT_SUPPORTED);
        }
        out.put(Pool::create(properties.location.place()?, properties.handle_types).handle)
    }

    [init] "cuMemPoolDestroy" 11020 cuMemPoolDestroy(_call, pool: usize) {
        let is_default = |ordinal| current_of(ordinal).handle == pool;
        if (0..driver::devices().len()).any(is_default) {
            return Err(Error::INVALID_VALUE);
        }
        POOLS.remove(pool)?.trim(0);
        Ok(())
    }

    [init] "cuMemPoolTrimTo" 11020 cuMemPoolTrimTo(_call, pool: usize, keep: usize) {
        POOLS.get(pool)?.trim(keep as u64);
        Ok(())
    }

    [init] "cuMemPoolGetAttribute" 11020 cuMemPoolGetAttribute(
        _call, pool: usize, attribute: u32, out: Out<u64>,
    ) {
        match POOLS.get(pool)?.attribute(attribute)? {
            (value, true) => out.put(value),
            (_, false) if out.is_null() => Err(Error::INVALID_VALUE),
            (value, false) => {
                // SAFETY: this attribute is an int, and the caller gave room for one.
                unsafe { out.raw().cast::<u32>().write_unaligned(value as u32) };
                Ok(())
            }
        }
    }

    [init] "cuMemPoolSetAttribute" 11020 cuMemPoolSetAttribute(
        _call, pool: usize, attribute: u32, value: In<u32>,
    ) {
        let pool = POOLS.get(pool)?;
        let (_, wide) = pool.attribute(attribute)?;
        let value = if wide { In::<u64>::from(value.raw().cast()).get()? } else { value.get()?.into() };
        pool.set_attribute(attribute, value)
    }

    [init] "cuMemPoolSetAccess" 11020 cuMemPoolSetAccess(_call, pool: usize, list: In<Access>, count: usize) {
        let pool = POOLS.get(pool)?;
        for access in list.list(count)? {
            if access.location.kind != 1 || !matches!(access.flags, 0 | 1 | 3) {
                return Err(Error::INVALID_VALUE);
            }
            pool.allow(driver::device(access.location.id)?.ordinal, access.flags as u8);
        }
        Ok(())
    }

    [init] "cuMemPoolGetAccess" 11020 cuMemPoolGetAccess(
        _call, out: Out<u32>, pool: usize, location: In<Location>,
    ) {
        let location = location.get()?;
        if location.kind != 1 {
            return Err(Error::INVALID_VALUE);
        }
        out.put(POOLS.get(pool)?.rights(driver::device(location.id)?.ordinal).into())
    }
}
