//! How much memory there is, and what an address belongs to: one consistent story.

use crate::runtime::{RUNTIME, core};
use greenboost_cuda::abi::*;
use greenboost_intercept::guard::{Bypass, Handled};
use greenboost_memory::allocation::Allocation;
use std::ffi::{c_uint, c_void};

type GetInfo = unsafe extern "C" fn(*mut usize, *mut usize) -> Status;
type TotalMem = unsafe extern "C" fn(*mut usize, CUdevice) -> Status;
type AddressRange = unsafe extern "C" fn(*mut CUdeviceptr, *mut usize, CUdeviceptr) -> Status;
type PointerAttribute = unsafe extern "C" fn(*mut c_void, c_uint, CUdeviceptr) -> Status;
type PointerAttributes = unsafe extern "C" fn(c_uint, *const c_uint, *mut *mut c_void, CUdeviceptr) -> Status;
type RangeHandle = unsafe extern "C" fn(*mut c_void, CUdeviceptr, usize, c_uint, u64) -> Status;
type IpcHandle = unsafe extern "C" fn(*mut c_void, CUdeviceptr) -> Status;

/// `cuMemGetInfo`. Either pointer may be null.
pub unsafe fn get_info(original: GetInfo, free: *mut usize, total: *mut usize) -> Handled {
    let core = core()?;
    let memory = core.memory;
    let device = memory.current_device()?;
    RUNTIME.ahead.settle();
    let (mut really_free, mut really_total) = (0, 0);
    // SAFETY: the same question with locals of ours.
    let status = unsafe { original(&mut really_free, &mut really_total) };
    if status == SUCCESS {
        let (shown_free, shown_total) = {
            let kept = core.streaming.kept_free(device);
            memory.report(Some(device), really_free as u64, really_total as u64, kept)
        };
        // SAFETY: the program's own out pointers, where they are not null.
        unsafe {
            if let Some(free) = free.as_mut() {
                *free = shown_free as usize;
            }
            if let Some(total) = total.as_mut() {
                *total = shown_total as usize;
            }
        }
        core.probe_ahead(device.ordinal);
    }
    Ok(status)
}

/// `cuDeviceTotalMem`.
pub unsafe fn total_mem(original: TotalMem, bytes: *mut usize, device: CUdevice) -> Handled {
    let core = core()?;
    let memory = core.memory;
    // SAFETY: the program's own call.
    let status = unsafe { original(bytes, device) };
    // SAFETY: the driver has just written there.
    if let Some(bytes) = unsafe { bytes.as_mut() }.filter(|_| status == SUCCESS) {
        // Without a context the budget may not be known yet; an explicit one always is.
        *bytes = memory.report(None, 0, *bytes as u64, 0).1 as usize;
    }
    Ok(status)
}

/// `cuMemGetAddressRange`: the allocation, not the chunk. Either pointer may be null.
pub unsafe fn address_range(_: AddressRange, base: *mut CUdeviceptr, bytes: *mut usize, dptr: CUdeviceptr) -> Handled {
    let core = core()?;
    let memory = core.memory;
    let table = memory.table();
    let allocation = table.find(dptr).ok_or(Bypass::NotOurAllocation)?;
    // SAFETY: the program's own out pointers, where they are not null.
    unsafe {
        if let Some(base) = base.as_mut() {
            *base = allocation.base;
        }
        if let Some(bytes) = bytes.as_mut() {
            *bytes = allocation.size as usize;
        }
    }
    Ok(SUCCESS)
}

/// The value of a `CUpointer_attribute` and its bytes, for an address in an allocation of ours.
enum Attribute {
    Word(u64),
    Int(u32),
    Byte(u8),
    /// The driver answers so for device memory that is not of this kind.
    Invalid,
}

fn attribute(allocation: &Allocation, number: c_uint, dptr: CUdeviceptr) -> Option<Attribute> {
    Some(match number {
        1 => Attribute::Word(allocation.context as u64),
        2 => Attribute::Int(MEMORY_DEVICE),
        3 => Attribute::Word(dptr),
        // A host pointer and peer-to-peer tokens: not for device memory of the modern kind.
        4 | 5 => Attribute::Invalid,
        // Synchronous memory operations, managed memory, legacy IPC, GPUDirect RDMA: none.
        6 | 8 | 10 | 15 => Attribute::Byte(0),
        7 => Attribute::Word(allocation.serial),
        9 => Attribute::Int(allocation.device as u32),
        11 | 19 => Attribute::Word(allocation.base),
        12 | 18 => Attribute::Word(allocation.size),
        13 => Attribute::Byte(1),
        // No handle types to export; no memory pool.
        14 => Attribute::Word(0),
        17 => Attribute::Word(0),
        // Read and write.
        16 => Attribute::Int(3),
        20 => Attribute::Word(allocation.serial),
        _ => return None,
    })
}

unsafe fn write(data: *mut c_void, value: &Attribute) -> Status {
    if data.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the program passes room for the attribute's type, as for the driver.
    unsafe {
        match value {
            Attribute::Word(word) => data.cast::<u64>().write_unaligned(*word),
            Attribute::Int(int) => data.cast::<u32>().write_unaligned(*int),
            Attribute::Byte(byte) => data.cast::<u8>().write(*byte),
            Attribute::Invalid => return INVALID_VALUE,
        }
    }
    SUCCESS
}

/// `cuPointerGetAttribute`.
pub unsafe fn pointer_attribute(_: PointerAttribute, data: *mut c_void, number: c_uint, dptr: CUdeviceptr) -> Handled {
    let core = core()?;
    let memory = core.memory;
    let table = memory.table();
    let value =
        table.find(dptr).and_then(|allocation| attribute(allocation, number, dptr)).ok_or(Bypass::NotOurAllocation)?;
    // SAFETY: the program's own out pointer.
    Ok(unsafe { write(data, &value) })
}

/// `cuPointerGetAttributes`: what does not apply is zero, not an error.
pub unsafe fn pointer_attributes(
    _: PointerAttributes,
    count: c_uint,
    numbers: *const c_uint,
    data: *mut *mut c_void,
    dptr: CUdeviceptr,
) -> Handled {
    let core = core()?;
    let memory = core.memory;
    let table = memory.table();
    let allocation = table.find(dptr).ok_or(Bypass::NotOurAllocation)?;
    if count == 0 || numbers.is_null() || data.is_null() {
        return Err(Bypass::BadArguments);
    }
    for at in 0..count as usize {
        // SAFETY: the program passes `count` numbers and as many out pointers.
        let (number, out) = unsafe { (*numbers.add(at), *data.add(at)) };
        let value = match attribute(allocation, number, dptr) {
            Some(Attribute::Invalid) => Attribute::Word(0),
            Some(value) => value,
            None => return Err(Bypass::NotOurs),
        };
        // SAFETY: the program's own out pointer.
        let status = unsafe { write(out, &value) };
        if status != SUCCESS {
            return Ok(status);
        }
    }
    Ok(SUCCESS)
}

/// What would be given to another process, or another device's driver: memory made of chunks has no handle, and a handle to
/// nothing would be a lie.
fn refuse_to_share(dptr: CUdeviceptr, status: Status) -> Handled {
    if core()?.memory.table().find(dptr).is_none() {
        return Err(Bypass::NotOurAllocation);
    }
    log::warn!("a spanning allocation was to be shared with another process: refused");
    Ok(status)
}

/// `cuIpcGetMemHandle`.
pub unsafe fn ipc_handle(_: IpcHandle, _: *mut c_void, dptr: CUdeviceptr) -> Handled {
    refuse_to_share(dptr, INVALID_VALUE)
}

/// `cuMemPoolExportPointer`. Memory of a pool that can be exported is the driver's.
pub unsafe fn pool_pointer(_: IpcHandle, _: *mut c_void, dptr: CUdeviceptr) -> Handled {
    refuse_to_share(dptr, INVALID_VALUE)
}

/// `cuMemGetHandleForAddressRange`. Programs have a way without it, for devices that do not support it.
pub unsafe fn range_handle(_: RangeHandle, _: *mut c_void, dptr: CUdeviceptr, _: usize, _: c_uint, _: u64) -> Handled {
    refuse_to_share(dptr, NOT_SUPPORTED)
}
