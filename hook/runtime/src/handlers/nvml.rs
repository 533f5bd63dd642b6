//! NVML's memory figures, consistent with `cuMemGetInfo`.

use crate::runtime::{Core, core};
use greenboost_cuda::abi::*;
use greenboost_intercept::guard::Handled;
use greenboost_intercept::real;
use greenboost_intercept::slot::Library;
use greenboost_memory::Memory;
use greenboost_memory::device::Device;
use std::ffi::{CStr, c_char, c_uint, c_void};

type MemoryInfo = unsafe extern "C" fn(*mut c_void, *mut NvmlMemory) -> Status;
type MemoryInfoV2 = unsafe extern "C" fn(*mut c_void, *mut NvmlMemoryV2) -> Status;

/// The device of an NVML handle, if CUDA has been used on it: NVML counts devices in an order of its own.
fn device_of(memory: &'static Memory, handle: *mut c_void) -> Option<&'static Device> {
    let get_uuid = real::symbol(Library::Nvml, c"nvmlDeviceGetUUID");
    if get_uuid.is_null() {
        return None;
    }
    // SAFETY: NVML exports this symbol with this ABI.
    let get_uuid: unsafe extern "C" fn(*mut c_void, *mut c_char, c_uint) -> Status =
        unsafe { std::mem::transmute(get_uuid) };
    let mut text = [0u8; 96];
    // SAFETY: the handle is the program's; the buffer is as long as said.
    if unsafe { get_uuid(handle, text.as_mut_ptr().cast(), text.len() as c_uint) } != SUCCESS {
        return None;
    }
    let uuid = CStr::from_bytes_until_nul(&text).ok()?.to_str().ok()?;
    memory.devices().find(|device| device.uuid == uuid)
}

/// Bytes free and total as the program is to see them.
fn report(core: &'static Core, handle: *mut c_void, free: u64, total: u64) -> (u64, u64) {
    let device = device_of(core.memory, handle);
    core.memory.report(device, free, total, device.map_or(0, |device| core.streaming.kept_free(device)))
}

/// `nvmlDeviceGetMemoryInfo`.
pub unsafe fn memory_info(original: MemoryInfo, handle: *mut c_void, info: *mut NvmlMemory) -> Handled {
    let core = core()?;
    // SAFETY: the program's own call.
    let status = unsafe { original(handle, info) };
    // SAFETY: NVML has just filled the structure.
    if let Some(info) = unsafe { info.as_mut() }.filter(|_| status == SUCCESS) {
        (info.free, info.total) = report(core, handle, info.free, info.total);
    }
    Ok(status)
}

/// `nvmlDeviceGetMemoryInfo_v2`.
pub unsafe fn memory_info_v2(original: MemoryInfoV2, handle: *mut c_void, info: *mut NvmlMemoryV2) -> Handled {
    let core = core()?;
    // SAFETY: the program's own call.
    let status = unsafe { original(handle, info) };
    // SAFETY: NVML has just filled the structure.
    if let Some(info) = unsafe { info.as_mut() }.filter(|_| status == SUCCESS) {
        (info.free, info.total) = report(core, handle, info.free, info.total);
    }
    Ok(status)
}
