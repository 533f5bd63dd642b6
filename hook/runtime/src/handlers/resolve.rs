//! `cuGetProcAddress`: the driver's answer, with our detour in place of a function we have one for.
//!
//! The real function decides first, with the program's own arguments: which version it may have, whether the
//! name exists. Only *the pointer it returned* is looked up. Replacing by name would hand a caller of one version
//! the ABI of another.

use greenboost_cuda::abi::{SUCCESS, Status};
use greenboost_intercept::guard::Handled;
use greenboost_intercept::real;
use std::ffi::{c_char, c_int, c_void};
use std::ptr::{null, null_mut};

type Resolve = unsafe extern "C" fn(*const c_char, *mut *const c_void, c_int, u64) -> Status;
type ResolveV2 = unsafe extern "C" fn(*const c_char, *mut *const c_void, c_int, u64, *mut c_int) -> Status;

/// `cuGetProcAddress` as of CUDA 11.3.
///
/// # Safety
/// As the driver's function.
pub unsafe fn get_proc_address(
    original: Resolve,
    symbol: *const c_char,
    pfn: *mut *const c_void,
    version: c_int,
    flags: u64,
) -> Handled {
    // SAFETY: the program's own call.
    let status = unsafe { original(symbol, pfn, version, flags) };
    // SAFETY: a call with arguments of our own, valid during the call.
    let ask = |symbol, pfn, version, flags| unsafe { original(symbol, pfn, version, flags) };
    // SAFETY: the driver wrote its answer there if it succeeded.
    unsafe { replace(status, pfn, ask) };
    Ok(status)
}

/// `cuGetProcAddress` as of CUDA 12, with a fifth argument that may be null.
///
/// # Safety
/// As the driver's function.
pub unsafe fn get_proc_address_v2(
    original: ResolveV2,
    symbol: *const c_char,
    pfn: *mut *const c_void,
    version: c_int,
    flags: u64,
    found: *mut c_int,
) -> Handled {
    // SAFETY: the program's own call.
    let status = unsafe { original(symbol, pfn, version, flags, found) };
    // SAFETY: a call with arguments of our own, valid during the call.
    let ask = |symbol, pfn, version, flags| unsafe { original(symbol, pfn, version, flags, null_mut()) };
    // SAFETY: the driver wrote its answer there if it succeeded.
    unsafe { replace(status, pfn, ask) };
    Ok(status)
}

/// Puts our function in place of the driver's.
///
/// # Safety
/// After success `pfn` is what the driver accepted: null or writable.
unsafe fn replace(
    status: Status,
    pfn: *mut *const c_void,
    ask: impl Fn(*const c_char, *mut *const c_void, c_int, u64) -> Status,
) {
    if status != SUCCESS || pfn.is_null() {
        return;
    }
    real::learn(|symbol, version, flags| {
        let mut answer = null();
        (ask(symbol.as_ptr(), &raw mut answer, version, flags) == SUCCESS && !answer.is_null()).then_some(answer)
    });
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(detour) = real::detour_of_real(*pfn) {
            *pfn = detour;
        }
    }
}
