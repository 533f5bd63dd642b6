//! Pinned memory of the program's: it goes, and nothing of ours may read it any more.

use crate::runtime::core;
use greenboost_cuda::abi::Status;
use greenboost_intercept::guard::Handled;
use std::ffi::c_void;

type Free = unsafe extern "C" fn(*mut c_void) -> Status;

/// `cuMemFreeHost`, `cuMemHostUnregister`.
pub unsafe fn free(original: Free, at: *mut c_void) -> Handled {
    core()?.streaming.host_memory_goes(at as u64);
    // SAFETY: the program's own call.
    Ok(unsafe { original(at) })
}
