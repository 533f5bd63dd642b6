//! What `dlsym` and `dlvsym` answer.
//!
//! Nearly all names are not ours and leave after a few comparisons. For the rest: the real look-up decides, and
//! a pointer that turns out to be the driver's function becomes the detour. Who asks matters twice:
//!
//! * the driver, and an interposer after us, get what they ask for;
//! * `RTLD_NEXT` is left to the original, which finds what comes after the *caller*. Answering it would hand an
//!   interposer to itself.
//!
//! This library exports the names it looks for, so a search of the global scope finds it even on a machine
//! without a driver. Such a find counts as none.

use super::layers::{LAYERS, is_on};
use super::open;
use super::os::errno;
use super::renew::{PROBE, renew};
use super::shim::Decision;
use crate::guard::THREAD;
use crate::libraries::{detour_of_real, is_driver_code, is_ours};
use crate::loader::{self, Dl};
use crate::slot::{self, Slot};
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null;
use std::sync::atomic::Ordering;

/// Whether a name can be one of ours: `cu` or `nvml` and a capital letter (not `cublas`, `cudbg`).
///
/// # Safety
/// `name` is null or a C string.
#[inline]
pub unsafe fn may_be_ours(name: *const c_char) -> bool {
    let byte = |at: usize| {
        // SAFETY: read in order, so that no byte behind the terminator is read.
        unsafe { *name.cast::<u8>().add(at) }
    };
    if name.is_null() {
        return false;
    }
    match byte(0) {
        b'c' => byte(1) == b'u' && byte(2).is_ascii_uppercase(),
        b'n' => byte(1) == b'v' && byte(2) == b'm' && byte(3) == b'l' && byte(4).is_ascii_uppercase(),
        _ => false,
    }
}

/// Decides a `dlsym`.
///
/// # Safety
/// The arguments of a call of `dlsym`, and its return address.
pub unsafe extern "C" fn decide_dlsym(
    handle: *mut c_void,
    name: *const c_char,
    _unused: usize,
    caller: usize,
    via: u32,
) -> Decision {
    // SAFETY: the caller's promise.
    unsafe { decide(Dl::SYM, handle, name, null(), caller, via) }
}

/// Decides a `dlvsym`.
///
/// # Safety
/// The arguments of a call of `dlvsym`, and its return address.
pub unsafe extern "C" fn decide_dlvsym(
    handle: *mut c_void,
    name: *const c_char,
    version: *const c_char,
    caller: usize,
    via: u32,
) -> Decision {
    // SAFETY: the caller's promise.
    unsafe { decide(Dl::VSYM, handle, name, version, caller, via) }
}

#[inline]
unsafe fn decide(
    function: Dl,
    handle: *mut c_void,
    name: *const c_char,
    version: *const c_char,
    caller: usize,
    via: u32,
) -> Decision {
    // SAFETY: the program's own argument.
    if !unsafe { may_be_ours(name) } {
        open::later();
        return Decision::pass(function.onward(via));
    }
    if !is_on(via) || THREAD.with(|thread| thread.answers.replace(true)) {
        return Decision::pass(function.onward(via));
    }
    // SAFETY: the program's arguments; a name that may be ours is not null.
    let question = Question { handle, name: unsafe { CStr::from_ptr(name) }, version, caller };
    let saved = errno::save();
    let answer = catch_unwind(AssertUnwindSafe(|| question.answer(via))).unwrap_or(None);
    errno::restore(saved);
    THREAD.with(|thread| thread.answers.set(false));
    answer.map_or_else(|| Decision::pass(function.onward(via)), Decision::answer)
}

struct Question<'a> {
    handle: *mut c_void,
    name: &'a CStr,
    version: *const c_char,
    caller: usize,
}

impl Question<'_> {
    /// The answer; `None` leaves it to the original.
    fn answer(&self, via: u32) -> Option<usize> {
        if self.name == PROBE && is_ours(self.caller) {
            LAYERS.probed.fetch_or(via, Ordering::AcqRel);
            return None;
        }
        let slot = slot::find(self.name.to_bytes())?;
        if slot.real() == 0 || open::may_have_changed() {
            renew();
        }
        if is_driver_code(self.caller) {
            return None;
        }
        let implicit = self.handle == libc::RTLD_DEFAULT || self.handle == libc::RTLD_NEXT;
        if !implicit {
            let found = self.ask(self.handle);
            return Some(self.replace(slot, found));
        }
        let next = self.handle == libc::RTLD_NEXT;
        if slot.is_preceded() {
            // Whose turn it is depends on the caller's place among those that export it.
            return None;
        }
        if slot.real() == 0 && !slot.is_interposed() {
            // Nobody there has it but our export. The search behind us finds what would be found without us, or
            // leaves the message that belongs to nothing in dlerror.
            let found = self.ask(libc::RTLD_NEXT);
            return (!next || found == 0).then_some(found);
        }
        (!next).then_some(slot.detour() as usize)
    }

    fn ask(&self, handle: *mut c_void) -> usize {
        // SAFETY: the program's own arguments, or RTLD_NEXT for its handle.
        unsafe {
            if self.version.is_null() {
                loader::sym(handle, self.name.as_ptr())
            } else {
                loader::vsym(handle, self.name.as_ptr(), self.version)
            }
        }
    }

    fn replace(&self, slot: &Slot, found: usize) -> usize {
        if found == 0 {
            return 0;
        }
        if found == slot.real() {
            return slot.detour() as usize;
        }
        if is_ours(found) {
            // A handle whose scope holds this library, such as the executable's.
            let there = slot.real() != 0 || slot.is_interposed();
            return if there { slot.detour() as usize } else { self.ask(libc::RTLD_NEXT) };
        }
        detour_of_real(found as *const c_void).map_or(found, |detour| detour as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_driver_names_are_looked_at() {
        for (name, ours) in [
            (c"cuInit", true),
            (c"nvmlInit", true),
            (c"cublasCreate", false),
            (c"cudbgMain", false),
            (c"c", false),
            (c"cu", false),
            (c"", false),
            (c"nvml", false),
            (c"nvmlinit", false),
            (c"malloc", false),
        ] {
            // SAFETY: C strings.
            assert_eq!(unsafe { may_be_ours(name.as_ptr()) }, ours, "{name:?}");
        }
        // SAFETY: null is allowed.
        assert!(!unsafe { may_be_ours(null()) });
    }
}
