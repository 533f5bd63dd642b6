//! Functions the driver hands out under two addresses.
//!
//! `cuGetProcAddress` may answer with an internal twin of an exported function. A twin is recognised by asking
//! for exactly the version and stream form of each symbol we know, once, when the program first resolves
//! something itself: the driver is initialised enough then, and in a constructor it would not be.

use crate::inject::still::still;
use crate::libraries::{KNOWN, detour_of_real, is_driver_code, library_of};
use crate::slot::{self, Library, Slot};
use std::ffi::{CString, c_void};
use std::sync::atomic::Ordering;

const LEGACY_STREAM: u64 = 1;
const PER_THREAD_STREAM: u64 = 2;

/// Learns the twins through `ask(base name, version, flags)`, once for each loaded driver.
pub fn learn(ask: impl Fn(&CString, i32, u64) -> Option<*const c_void>) {
    if KNOWN.learned.swap(true, Ordering::AcqRel) {
        return;
    }
    let mut twins: Vec<(usize, &'static Slot)> = Vec::new();
    for slot in slot::driver().iter().filter(|slot| slot.library == Library::Cuda && slot.real() != 0) {
        let Ok(base) = CString::new(slot.base()) else { continue };
        let flags = if slot.per_thread() { PER_THREAD_STREAM } else { LEGACY_STREAM };
        let Some(address) = ask(&base, slot.since, flags) else { continue };
        if detour_of_real(address).is_none() && is_driver_code(address as usize) {
            twins.push((address as usize, slot));
        }
    }
    // What is exported under any name of its own is that function and no twin: an older form, another ABI.
    still(|world| {
        world.each(&mut |image| {
            if library_of(image) == Some(Library::Cuda) {
                image.each_defined(&mut |_, address| twins.retain(|(twin, _)| *twin != address));
            }
            true
        });
    });
    if twins.is_empty() {
        return;
    }
    log::debug!("{} functions have a second address in this driver", twins.len());
    let old = KNOWN.by_address.load(Ordering::Acquire);
    // SAFETY: published tables live for ever.
    let mut table = unsafe { old.as_ref() }.cloned().unwrap_or_default();
    table.extend(twins);
    table.sort_by_key(|(address, _)| *address);
    table.dedup_by_key(|(address, _)| *address);
    // The library may have been reloaded meanwhile; then its own table stands.
    let new = Box::into_raw(Box::new(table));
    if KNOWN.by_address.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        // SAFETY: made above and published to nobody.
        drop(unsafe { Box::from_raw(new) });
    }
}
