//! The program's own changes to its address space, seen through the GOT layer.
//!
//! What the C library maps and unmaps for itself is not seen, and need not be: it never unmaps what the program mapped.
//! Calls past the C library (`syscall`, or a runtime of its own) are not seen either; on kernels that can be asked
//! quickly every use is checked with the kernel, on others those are trusted not to happen.

use crate::runtime::RUNTIME;
use greenboost_intercept::slot::Section;
use greenboost_intercept::{guard, inject};
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

type Address = *mut c_void;
type Map = unsafe extern "C" fn(Address, usize, c_int, c_int, c_int, libc::off_t) -> Address;
type Unmap = unsafe extern "C" fn(Address, usize) -> c_int;
type Remap = unsafe extern "C" fn(Address, usize, usize, c_int, Address) -> Address;
type Protect = unsafe extern "C" fn(Address, usize, c_int) -> c_int;
type ProtectKey = unsafe extern "C" fn(Address, usize, c_int, c_int) -> c_int;
type RemapPages = unsafe extern "C" fn(Address, usize, c_int, usize, c_int) -> c_int;

/// Asks the GOT layer to lead these calls to us. Does nothing where that layer does not stand.
pub fn install() {
    if inject::is_on(inject::GOT) {
        inject::want(&[Section::Mappings]);
        RUNTIME.files.follow();
    }
}

/// Makes a call that changes what lies in a range. Told before, so that nobody relies on what is about to go, and
/// after, since somebody may have looked in between.
fn around<T>(range: (Address, usize), call: impl FnOnce() -> T) -> T {
    let tell = || {
        if guard::is_active() {
            // Logged where panics are; the program goes on.
            let _ = catch_unwind(AssertUnwindSafe(|| RUNTIME.files.changing(range.0 as u64, range.1 as u64)));
        }
    };
    tell();
    let result = call();
    tell();
    result
}

/// A handler: the original called around [`greenboost_weights::files::Files::changing`].
macro_rules! handler {
    ($name:ident: $type:ty, ($($arg:ident: $of:ty),*) -> $result:ty, $range:expr) => {
        #[doc = concat!("`", stringify!($name), "`.")]
        ///
        /// # Safety
        /// The function, and the program's own arguments.
        pub unsafe fn $name(original: $type, $($arg: $of),*) -> $result {
            // SAFETY: the program's own call.
            around($range, || unsafe { original($($arg),*) })
        }
    };
}

/// What a mapping replaces: nothing, unless it is told where to be.
fn replaced(at: Address, bytes: usize, flags: c_int) -> (Address, usize) {
    if flags & libc::MAP_FIXED != 0 { (at, bytes) } else { (null_mut(), 0) }
}

handler!(mmap: Map, (at: Address, bytes: usize, rights: c_int, flags: c_int, fd: c_int, offset: libc::off_t)
    -> Address, replaced(at, bytes, flags));
handler!(munmap: Unmap, (at: Address, bytes: usize) -> c_int, (at, bytes));
handler!(mprotect: Protect, (at: Address, bytes: usize, rights: c_int) -> c_int, (at, bytes));
handler!(pkey_mprotect: ProtectKey, (at: Address, bytes: usize, rights: c_int, key: c_int) -> c_int,
    (at, bytes));
handler!(remap_file_pages: RemapPages, (at: Address, bytes: usize, rights: c_int, page: usize,
    flags: c_int) -> c_int, (at, bytes));

/// The last argument is there only with `MREMAP_FIXED`; else it is what the register holds, passed on unseen.
///
/// # Safety
/// The function, and the program's own arguments.
pub unsafe fn mremap(
    original: Remap,
    at: Address,
    bytes: usize,
    new_bytes: usize,
    flags: c_int,
    to: Address,
) -> Address {
    let target = if flags & libc::MREMAP_FIXED != 0 { (to, new_bytes) } else { (null_mut(), 0) };
    // SAFETY: the program's own call.
    around(target, || around((at, bytes), || unsafe { original(at, bytes, new_bytes, flags, to) }))
}
