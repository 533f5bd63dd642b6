//! The library itself and the system: start, versions, error texts.

use crate::out::{Answer, enter, put, put_text};
use crate::{Code, UNINITIALIZED};
use std::ffi::c_char;
use std::sync::atomic::{AtomicU32, Ordering};

static USERS: AtomicU32 = AtomicU32::new(0);

/// Fails before `nvmlInit`.
pub fn ready() -> Answer {
    if USERS.load(Ordering::Acquire) == 0 { Err(UNINITIALIZED) } else { Ok(()) }
}

fn cuda_version() -> i32 {
    std::env::var("SIMGPU_DRIVER_VERSION").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(13000)
}

fn init() -> Code {
    USERS.fetch_add(1, Ordering::AcqRel);
    0
}

/// NVML's `nvmlInit`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit() -> Code {
    init()
}

/// NVML's `nvmlInit_v2`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> Code {
    init()
}

/// NVML's `nvmlInitWithFlags`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: u32) -> Code {
    init()
}

/// NVML's `nvmlShutdown`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> Code {
    let left = USERS.fetch_update(Ordering::AcqRel, Ordering::Acquire, |users| users.checked_sub(1));
    if left.is_ok() { 0 } else { UNINITIALIZED }
}

/// NVML's `nvmlErrorString`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(code: Code) -> *const c_char {
    let text = match code {
        0 => c"Success",
        1 => c"Uninitialized",
        2 => c"Invalid Argument",
        3 => c"Not Supported",
        6 => c"Not Found",
        7 => c"Insufficient Size",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}

/// NVML's `nvmlSystemGetDriverVersion`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetDriverVersion(out: *mut c_char, room: u32) -> Code {
    enter(|| {
        ready()?;
        put_text("580.95.05", out, room)
    })
}

/// NVML's `nvmlSystemGetNVMLVersion`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetNVMLVersion(out: *mut c_char, room: u32) -> Code {
    enter(|| {
        ready()?;
        put_text("13.580.95.05", out, room)
    })
}

/// NVML's `nvmlSystemGetCudaDriverVersion`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetCudaDriverVersion(out: *mut i32) -> Code {
    enter(|| put(out, cuda_version()))
}

/// NVML's `nvmlSystemGetCudaDriverVersion_v2`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetCudaDriverVersion_v2(out: *mut i32) -> Code {
    enter(|| put(out, cuda_version()))
}
