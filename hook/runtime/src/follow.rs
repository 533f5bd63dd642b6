//! The program's own changes to its address space, seen through the GOT layer.
//!
//! What the C library maps and unmaps for itself is not seen, and need not be: it never unmaps what the program mapped.
//! Calls past the C library (`syscall`, or a runtime of its own) are not seen either; on kernels that can be asked
//! quickly every use is checked with the kernel, on others those are trusted not to happen.

use crate::runtime::RUNTIME;
use greenboost_intercept::inject::got::{self, Wanted};
use greenboost_intercept::{guard, inject};
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

type Address = *mut c_void;
type Map = unsafe extern "C" fn(Address, usize, c_int, c_int, c_int, libc::off_t) -> Address;
type Unmap = unsafe extern "C" fn(Address, usize) -> c_int;
type Remap = unsafe extern "C" fn(Address, usize, usize, c_int, Address) -> Address;
type Protect = unsafe extern "C" fn(Address, usize, c_int) -> c_int;
type ProtectKey = unsafe extern "C" fn(Address, usize, c_int, c_int) -> c_int;
type RemapPages = unsafe extern "C" fn(Address, usize, c_int, usize, c_int) -> c_int;

/// Position in the list of what is replaced.
#[derive(Debug, Clone, Copy)]
enum Hook {
    Map,
    Map64,
    Unmap,
    Remap,
    Protect,
    ProtectKey,
    RemapPages,
}

static WANTED: OnceLock<Vec<Wanted>> = OnceLock::new();

/// Asks the GOT layer to lead these calls to us. Does nothing where that layer does not stand.
pub fn install() {
    if !inject::is_on(inject::GOT) {
        return;
    }
    let row = |name: &'static [u8], replacement: usize| Wanted {
        name,
        replacement,
        original: AtomicPtr::new(null_mut()),
        is_one_librarys: false,
    };
    let wanted = WANTED.get_or_init(|| {
        vec![
            row(b"mmap", mmap as *const () as usize),
            row(b"mmap64", mmap64 as *const () as usize),
            row(b"munmap", munmap as *const () as usize),
            row(b"mremap", mremap as *const () as usize),
            row(b"mprotect", mprotect as *const () as usize),
            row(b"pkey_mprotect", pkey_mprotect as *const () as usize),
            row(b"remap_file_pages", remap_file_pages as *const () as usize),
        ]
    });
    got::want(wanted);
    RUNTIME.files.follow();
}

/// The function behind a replacement: set before any call can reach the replacement.
fn original(hook: Hook) -> *mut c_void {
    WANTED.get().map_or(null_mut(), |wanted| wanted[hook as usize].original.load(Ordering::Acquire))
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

/// A replacement: its original called around [`greenboost_weights::files::Files::changing`].
macro_rules! replacement {
    ($(#[$doc:meta])* $name:ident, $hook:ident: $type:ty, ($($arg:ident: $of:ty),*) -> $result:ty, $range:expr) => {
        $(#[$doc])*
        unsafe extern "C" fn $name($($arg: $of),*) -> $result {
            // SAFETY: the function that this call was meant for, with the signature that its manual page states.
            let original = unsafe { std::mem::transmute::<*mut c_void, $type>(original(Hook::$hook)) };
            // SAFETY: the program's own call.
            around($range, || unsafe { original($($arg),*) })
        }
    };
}

/// What a mapping replaces: nothing, unless it is told where to be.
fn replaced(at: Address, bytes: usize, flags: c_int) -> (Address, usize) {
    if flags & libc::MAP_FIXED != 0 { (at, bytes) } else { (null_mut(), 0) }
}

replacement!(mmap, Map: Map, (at: Address, bytes: usize, rights: c_int, flags: c_int, fd: c_int, offset: libc::off_t)
    -> Address, replaced(at, bytes, flags));
replacement!(mmap64, Map64: Map, (at: Address, bytes: usize, rights: c_int, flags: c_int, fd: c_int,
    offset: libc::off_t) -> Address, replaced(at, bytes, flags));
replacement!(munmap, Unmap: Unmap, (at: Address, bytes: usize) -> c_int, (at, bytes));
replacement!(mprotect, Protect: Protect, (at: Address, bytes: usize, rights: c_int) -> c_int, (at, bytes));
replacement!(pkey_mprotect, ProtectKey: ProtectKey, (at: Address, bytes: usize, rights: c_int, key: c_int) -> c_int,
    (at, bytes));
replacement!(remap_file_pages, RemapPages: RemapPages, (at: Address, bytes: usize, rights: c_int, page: usize,
    flags: c_int) -> c_int, (at, bytes));

/// The last argument is there only with `MREMAP_FIXED`; else it is what the register holds, passed on unseen.
unsafe extern "C" fn mremap(at: Address, bytes: usize, new_bytes: usize, flags: c_int, to: Address) -> Address {
    // SAFETY: as above.
    let original = unsafe { std::mem::transmute::<*mut c_void, Remap>(original(Hook::Remap)) };
    let target = if flags & libc::MREMAP_FIXED != 0 { (to, new_bytes) } else { (null_mut(), 0) };
    // SAFETY: the program's own call.
    around(target, || around((at, bytes), || unsafe { original(at, bytes, new_bytes, flags, to) }))
}
