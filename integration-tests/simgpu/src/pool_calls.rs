//! The functions on memory pools themselves.

use crate::driver;
use crate::edge::{In, Out, driver};
use crate::errors::Error;
use crate::pool::{POOLS, Pool};
use crate::vmm::{Access, Location};

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

driver! {
    [init] "cuMemPoolCreate" 11020 cuMemPoolCreate(_call, out: Out<usize>, properties: In<PoolProperties>) {
        let properties = properties.get()?;
        if properties.kind != 1 || out.is_null() {
            return Err(Error::INVALID_VALUE);
        }
        if properties.handle_types != 0 {
            return Err(Error::NOT_SUPPORTED);
        }
        out.put(Pool::create(properties.location.place()?).handle)
    }

    [init] "cuMemPoolDestroy" 11020 cuMemPoolDestroy(_call, pool: usize) {
        let is_default = |ordinal| crate::pool::current_of(ordinal).handle == pool;
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
