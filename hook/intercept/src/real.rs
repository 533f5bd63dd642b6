//! The real libraries, as the floors above ask for them: looked for again where they were not there.

pub use crate::libraries::{detour_of_real, is_driver_code, is_loaded};
pub use crate::loader as dl;
pub use crate::twins::learn;

use crate::inject::renew::renew;
use crate::inject::still::still;
use crate::libraries::{is_attached, library_of};
use crate::slot::{self, Library, Slot};
use std::ffi::{CStr, c_void};

/// Finds the library if the program has loaded it, and the originals of its functions. Cheap when done.
pub fn attach(library: Library) -> bool {
    if !is_loaded(library) {
        renew();
    }
    is_attached(library)
}

/// What a function's detour is to call, resolved on first need; null when the library or the symbol is not there.
#[inline]
pub fn original_of(slot: &Slot) -> *const c_void {
    let known = slot.original();
    if known.is_null() { resolve(slot) } else { known }
}

#[cold]
fn resolve(slot: &Slot) -> *const c_void {
    if attach(slot.library) { slot.original() } else { std::ptr::null() }
}

/// The address of a library's function that is not in the table; null when the library is not loaded or lacks it.
pub fn symbol(library: Library, symbol: &CStr) -> *const c_void {
    let mut address = 0;
    if attach(library) {
        still(|world| {
            world.each(&mut |image| {
                if address == 0 && library_of(image) == Some(library) {
                    address = image.find(symbol.to_bytes()).unwrap_or(0);
                }
                address == 0
            });
        });
    }
    address as *const c_void
}

/// What a function of the driver is called by: the table's original where it has one (its body may be patched), else the
/// library's own; null when the driver is not loaded or lacks it.
pub fn original(name: &CStr) -> *const c_void {
    slot::find(name.to_bytes()).map_or_else(|| symbol(Library::Cuda, name), original_of)
}
