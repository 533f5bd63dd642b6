//! What happens around `dlopen` and `dlclose`.
//!
//! After either, objects have come or gone and are looked at anew. To do that, `dlopen` would have to be called
//! from here; but it searches by its caller: RUNPATH and RPATH, `$ORIGIN`. Where that could matter, the shim jumps on to
//! the original instead, and the look happens at the next question of any kind ([`later`]).
//!
//! No lock of ours is held while the loader runs constructors or destructors.

use super::layers::{CODE, LAYERS, is_on};
use super::origin;
use super::os::errno;
use super::renew::renew;
use super::shim::Decision;
use crate::libraries::is_driver_code;
use crate::loader::{self, Dl};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

/// Catches up on a `dlopen` whose end was not seen. One load when there was none.
#[inline]
pub fn later() {
    if LAYERS.later.load(Ordering::Relaxed) {
        catch_up();
    }
}

#[cold]
fn catch_up() {
    if renew() {
        LAYERS.later.store(false, Ordering::Relaxed);
    }
}

/// Whether objects may have come or gone without a look. `false` only while every call of the loader passes
/// through here.
#[inline]
pub fn may_have_changed() -> bool {
    let unseen = !is_on(CODE) || !Dl::OPEN.is_patched() || !Dl::CLOSE.is_patched();
    unseen || LAYERS.later.load(Ordering::Acquire) || LAYERS.under_way.load(Ordering::Acquire) > 0
}

fn look() {
    let saved = errno::save();
    let _ = catch_unwind(AssertUnwindSafe(renew));
    errno::restore(saved);
}

/// Decides a `dlopen`.
///
/// # Safety
/// The arguments of a call of `dlopen`, and its return address.
pub unsafe extern "C" fn decide_dlopen(
    file: *const c_char,
    mode: c_int,
    _unused: usize,
    caller: usize,
    via: u32,
) -> Decision {
    // The executable's own handle loads nothing; the driver's loads are its own affair.
    if !is_on(via) || file.is_null() || is_driver_code(caller) {
        return Decision::pass(Dl::OPEN.onward(via));
    }
    // SAFETY: the program's own argument, not null.
    let name = unsafe { CStr::from_ptr(file) }.to_bytes();
    if via != CODE && Dl::OPEN.is_followed() || !origin::is_plain(name, caller) {
        LAYERS.later.store(true, Ordering::Relaxed);
        return Decision::pass(Dl::OPEN.onward(via));
    }
    LAYERS.under_way.fetch_add(1, Ordering::AcqRel);
    // SAFETY: the program's own call.
    let handle = unsafe { loader::open(file, mode) };
    if !handle.is_null() {
        look();
    }
    LAYERS.under_way.fetch_sub(1, Ordering::AcqRel);
    Decision::answer(handle as usize)
}

/// Decides a `dlclose`.
///
/// # Safety
/// The arguments of a call of `dlclose`, and its return address.
pub unsafe extern "C" fn decide_dlclose(
    handle: *mut c_void,
    _one: usize,
    _two: usize,
    _caller: usize,
    via: u32,
) -> Decision {
    if !is_on(via) || handle.is_null() || (via != CODE && Dl::CLOSE.is_followed()) {
        return Decision::pass(Dl::CLOSE.onward(via));
    }
    LAYERS.under_way.fetch_add(1, Ordering::AcqRel);
    // SAFETY: the program's own call.
    let status = unsafe { loader::close(handle) };
    look();
    LAYERS.under_way.fetch_sub(1, Ordering::AcqRel);
    // The register holds an int; what is above it is not looked at.
    Decision::answer(status as isize as usize)
}
