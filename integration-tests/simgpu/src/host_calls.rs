//! The driver's functions on host memory.

use crate::accounting::forget;
use crate::driver;
use crate::edge::{Out, driver};
use crate::errors::{Error, Result};
use crate::host::{pages, register};
use crate::va::{self, Backing, Origin, READ_WRITE};
use crate::waiting::wait_for_device;
use crate::world::MAX_BOARDS;
use std::ffi::c_void;

fn allocate(context: usize, out: Out<u64>, bytes: u64, flags: u32) -> Result {
    if out.is_null() || bytes == 0 || flags & !7 != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let start = pages(bytes)?;
    va::write().insert(start, bytes, Backing::Host, Origin::HostAlloc(flags), [READ_WRITE; MAX_BOARDS], context);
    out.put(start)
}

fn wait_for_all_devices() {
    (0..driver::devices().len()).for_each(wait_for_device);
}

driver! {
    [quiet] "cuMemAllocHost" 3020 cuMemAllocHost_v2(call, out: Out<u64>, bytes: usize) {
        allocate(call.context()?.handle, out, bytes as u64, 0)
    }

    [quiet] "cuMemHostAlloc" 2020 cuMemHostAlloc(call, out: Out<u64>, bytes: usize, flags: u32) {
        allocate(call.context()?.handle, out, bytes as u64, flags)
    }

    [quiet] "cuMemFreeHost" 2000 cuMemFreeHost(_call, address: *mut c_void) {
        let ours = |origin| matches!(origin, Origin::HostAlloc(_));
        if !va::read().at(address as u64).is_some_and(|mapping| ours(mapping.origin)) {
            return Err(Error::INVALID_VALUE);
        }
        wait_for_all_devices();
        forget(address as u64, ours).map(drop)
    }

    [quiet] "cuMemHostRegister" 4000 cuMemHostRegister(call, start: *mut c_void, bytes: usize, flags: u32) {
        register(call.context()?.handle, start as u64, bytes as u64, flags)
    }

    [quiet] "cuMemHostRegister" 6050 cuMemHostRegister_v2(call, start: *mut c_void, bytes: usize, flags: u32) {
        register(call.context()?.handle, start as u64, bytes as u64, flags)
    }

    [quiet] "cuMemHostUnregister" 4000 cuMemHostUnregister(_call, start: *mut c_void) {
        let ours = |origin| matches!(origin, Origin::Registered(_));
        if !va::read().at(start as u64).is_some_and(|mapping| ours(mapping.origin)) {
            return Err(Error::HOST_MEMORY_NOT_REGISTERED);
        }
        wait_for_all_devices();
        forget(start as u64, ours).map(drop).map_err(|_| Error::HOST_MEMORY_NOT_REGISTERED)
    }

    [ctx] "cuMemHostGetDevicePointer" 3020 cuMemHostGetDevicePointer_v2(
        _call, out: Out<u64>, address: *mut c_void, flags: u32,
    ) {
        let space = va::read();
        let known = space.find(address as u64).is_some_and(|mapping| matches!(mapping.backing, Backing::Host));
        if !known || flags != 0 {
            return Err(Error::INVALID_VALUE);
        }
        out.put(address as u64)
    }

    [ctx] "cuMemHostGetFlags" 2030 cuMemHostGetFlags(_call, out: Out<u32>, address: *mut c_void) {
        match va::read().find(address as u64).map(|mapping| mapping.origin) {
            Some(Origin::HostAlloc(flags) | Origin::Registered(flags)) => out.put(flags),
            _ => Err(Error::INVALID_VALUE),
        }
    }
}
