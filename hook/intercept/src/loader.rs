//! The loader's own functions, found without asking by name.
//!
//! This library exports `dlsym` and its kin itself, so that naming them here would reach our own. Their
//! addresses are read from the symbol tables of the loaded objects.

use crate::inject::image::Image;
use crate::inject::layers::{CODE, is_on};
use crate::inject::still::still;
use crate::libraries::{KNOWN, is_ours};
use crate::slot::{Function, Slot};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::Ordering;

/// One of the loader's functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dl(Function);

impl Dl {
    /// `dlsym`.
    pub const SYM: Self = Self(Function::dlsym);
    /// `dlvsym`.
    pub const VSYM: Self = Self(Function::dlvsym);
    /// `dlopen`.
    pub const OPEN: Self = Self(Function::dlopen);
    /// `dlclose`.
    pub const CLOSE: Self = Self(Function::dlclose);

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        Function::LOADER.iter().map(|function| Self(*function))
    }

    /// The symbol.
    pub fn name(self) -> &'static CStr {
        self.0.slot().symbol
    }

    /// Its position among [`Function::LOADER`].
    pub fn position(self) -> usize {
        self.0 as usize - Function::LOADER[0] as usize
    }

    /// The function of a name.
    pub fn of(name: &[u8]) -> Option<Self> {
        Self::all().find(|function| function.name().to_bytes() == name)
    }

    fn slot(self) -> &'static Slot {
        self.0.slot()
    }

    /// The C library's function, as everybody else sees it; 0 when there is none.
    pub fn real(self) -> usize {
        self.locate();
        self.slot().real()
    }

    /// What a call has to go to that must not come back to us: the trampoline when the function's body is
    /// patched, else the function.
    #[inline]
    pub fn original(self) -> usize {
        let trampoline = self.slot().original();
        if trampoline.is_null() { self.real() } else { trampoline as usize }
    }

    /// Where a call that came to a shim through a layer goes on to. A layer that is off leads to the next
    /// library's function as everybody sees it, which need not be the C library's (another tool preloaded
    /// after us) and whose body another layer may have patched. A layer that is on has had its say, and goes
    /// around our own patch.
    #[inline]
    pub fn onward(self, via: u32) -> usize {
        if via == CODE {
            return self.original();
        }
        match (self.is_followed(), is_on(via)) {
            (true, _) => self.slot().behind.load(Ordering::Acquire),
            (false, true) => self.original(),
            (false, false) => self.real(),
        }
    }

    /// Whether another library's function of this name comes between ours and the C library's.
    #[inline]
    pub fn is_followed(self) -> bool {
        let real = self.real();
        let next = self.slot().behind.load(Ordering::Acquire);
        next != 0 && next != real
    }

    /// Sets the way around a patched body, or takes it back (0).
    pub fn set_trampoline(self, trampoline: usize) {
        self.slot().set_original(trampoline as *const c_void);
    }

    /// Whether its body leads to us.
    #[inline]
    pub fn is_patched(self) -> bool {
        !self.slot().original().is_null()
    }

    #[inline]
    fn locate(self) {
        if !KNOWN.located.load(Ordering::Acquire) {
            locate();
        }
    }
}

/// glibc 2.34 moved the functions from libdl to libc; until then libc has only private ones.
fn is_c_library(image: &Image<'_>) -> bool {
    matches!(image.soname(), Some(b"libc.so.6" | b"libdl.so.2"))
}

#[cold]
fn locate() {
    let here = locate as *const () as usize;
    let done = still(|world| {
        let mut behind = false;
        world.each(&mut |image| {
            if image.contains(here) {
                behind = true;
                return true;
            }
            for function in Dl::all() {
                let slot = function.slot();
                let wanted = [(behind, &slot.behind), (is_c_library(image), &slot.real)];
                for (_, place) in wanted.iter().filter(|(wanted, place)| *wanted && place.load(Ordering::Relaxed) == 0)
                {
                    place.store(image.find(function.name().to_bytes()).unwrap_or(0), Ordering::Release);
                }
            }
            true
        });
    });
    // Refused only to a look from inside another one, whose outer look has located everything.
    if done.is_some() {
        KNOWN.located.store(true, Ordering::Release);
    }
}

/// `dlsym` as called from here: of explicit handles, and for `RTLD_NEXT` of what comes after this library.
///
/// # Safety
/// As `dlsym`.
pub unsafe fn sym(handle: *mut c_void, name: *const c_char) -> usize {
    type Function = unsafe extern "C" fn(*mut c_void, *const c_char) -> usize;
    match Dl::SYM.original() {
        0 => 0,
        // SAFETY: the address is dlsym's, or the trampoline to it; arguments are the caller's.
        address => unsafe { std::mem::transmute::<usize, Function>(address)(handle, name) },
    }
}

/// `dlvsym` as called from here.
///
/// # Safety
/// As `dlvsym`.
pub unsafe fn vsym(handle: *mut c_void, name: *const c_char, version: *const c_char) -> usize {
    type Function = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> usize;
    match Dl::VSYM.original() {
        0 => 0,
        // SAFETY: the address is dlvsym's, or the trampoline to it; arguments are the caller's.
        address => unsafe { std::mem::transmute::<usize, Function>(address)(handle, name, version) },
    }
}

/// Keeps a library that is loaded where it is, for ever. False when there is none of that name.
pub fn keep(name: &CStr) -> bool {
    // SAFETY: loads nothing; the handle is kept on purpose.
    !unsafe { open(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE) }.is_null()
}

/// `dlopen` as called from here.
///
/// # Safety
/// As `dlopen`: constructors of what is loaded run.
pub unsafe fn open(file: *const c_char, mode: c_int) -> *mut c_void {
    type Function = unsafe extern "C" fn(*const c_char, c_int) -> *mut c_void;
    match Dl::OPEN.original() {
        0 => std::ptr::null_mut(),
        // SAFETY: the address is dlopen's, or the trampoline to it; arguments are the caller's.
        address => unsafe { std::mem::transmute::<usize, Function>(address)(file, mode) },
    }
}

/// `dlclose` as called from here.
///
/// # Safety
/// As `dlclose`.
pub unsafe fn close(handle: *mut c_void) -> c_int {
    type Function = unsafe extern "C" fn(*mut c_void) -> c_int;
    match Dl::CLOSE.original() {
        0 => -1,
        // SAFETY: the address is dlclose's, or the trampoline to it; the argument is the caller's.
        address => unsafe { std::mem::transmute::<usize, Function>(address)(handle) },
    }
}

/// Whether the program at large, not only we, finds `name` in this very library.
pub fn finds_ours(name: &CStr) -> bool {
    // SAFETY: opening nothing: the handle of the executable and what was loaded with it.
    let program = unsafe { open(std::ptr::null(), libc::RTLD_LAZY) };
    if program.is_null() {
        return false;
    }
    // SAFETY: an open handle and a C string.
    let found = unsafe { sym(program, name.as_ptr()) };
    // SAFETY: the handle opened above.
    unsafe { close(program) };
    is_ours(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_functions_are_found_and_work() {
        for function in Dl::all() {
            assert_ne!(function.real(), 0, "{function:?}");
            assert_eq!(Dl::of(function.name().to_bytes()), Some(function));
        }
        // SAFETY: plain look-ups.
        let (found, missing) =
            unsafe { (sym(libc::RTLD_DEFAULT, c"malloc".as_ptr()), sym(libc::RTLD_DEFAULT, c"cuNone".as_ptr())) };
        assert!(found != 0 && missing == 0);
    }
}
