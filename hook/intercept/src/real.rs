//! The real libraries: where they are, what their functions are called by, and which code is theirs.
//!
//! They are found among the loaded objects and read in place. Nothing is ever opened: a program that has not
//! loaded `libcuda` must not get one from us, and a reference of ours must not keep one alive.
//!
//! Another library may stand between us and the driver: one that is preloaded behind us and exports the same
//! names. It then is the original of those names, as it would be for `RTLD_NEXT`, and its own look-ups get the
//! real functions, or the two of us would call each other for ever.

pub mod dl;
mod twins;

pub use twins::learn;

use crate::inject;
use crate::inject::image::Image;
use crate::inject::still::{Still, still};
use crate::slot::{self, DRIVER as COUNT, Library, Slot};
use std::ffi::{CStr, c_void};
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// What is known of a slot besides its original.
struct Known {
    /// The library's own function; 0 while it is not loaded.
    real: AtomicUsize,
    /// The function of an interposer behind us; 0 for none.
    behind: AtomicUsize,
    /// Whether a library before us exports the name: programs meant to reach that one first.
    before: AtomicBool,
}

static KNOWN: [Known; COUNT] =
    [const { Known { real: AtomicUsize::new(0), behind: AtomicUsize::new(0), before: AtomicBool::new(false) } }; COUNT];

/// Identity of each attached library: the address of its dynamic section; 0 for none.
static ATTACHED: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
static FIRST_LOOK: AtomicBool = AtomicBool::new(true);
/// Addresses of interposers behind us.
static INTERPOSERS: [[AtomicUsize; 2]; 8] = [const { [const { AtomicUsize::new(0) }; 2] }; 8];

/// Sorted tables for readers that take no lock. A replaced table is never freed: a reader may hold it, and
/// they are replaced only when a driver library comes or goes.
static BY_ADDRESS: AtomicPtr<Vec<(usize, &'static Slot)>> = AtomicPtr::new(null_mut());
static DRIVER: AtomicPtr<Vec<Range<usize>>> = AtomicPtr::new(null_mut());

fn known(slot: &Slot) -> &'static Known {
    &KNOWN[slot.position()]
}

/// The library's own function; 0 when it is not loaded or lacks the symbol.
pub fn real(slot: &Slot) -> usize {
    known(slot).real.load(Ordering::Acquire)
}

/// Whether another library stands before or behind us for this symbol.
pub fn is_interposed(slot: &Slot) -> bool {
    let known = known(slot);
    known.before.load(Ordering::Acquire) || known.behind.load(Ordering::Acquire) != 0
}

/// Whether a library that comes before us exports this symbol.
pub fn is_preceded(slot: &Slot) -> bool {
    known(slot).before.load(Ordering::Acquire)
}

/// The address of a library's function that has no slot; null when the library is not loaded or lacks it.
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

/// What a function of the driver is called by: the table's slot where it has one (its body may be patched), else the
/// library's own; null when the driver is not loaded or lacks it.
pub fn original(name: &CStr) -> *const c_void {
    slot::find(name.to_bytes()).map_or_else(|| symbol(Library::Cuda, name), Slot::original)
}

/// Whether an address is this library's own.
pub fn is_ours(address: usize) -> bool {
    static OURS: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
    let [start, end] = &OURS;
    if end.load(Ordering::Acquire) == 0 {
        let here = is_ours as *const () as usize;
        still(|world| {
            world.each(&mut |image| {
                let ours = image.contains(here);
                if ours {
                    start.store(image.extent().start, Ordering::Release);
                    end.store(image.extent().end, Ordering::Release);
                }
                !ours
            });
        });
    }
    (start.load(Ordering::Acquire)..end.load(Ordering::Acquire)).contains(&address)
}

/// Finds the library if the program has loaded it, and the originals of its slots. Cheap when done.
pub fn attach(library: Library) -> bool {
    if !is_loaded(library) {
        inject::renew();
    }
    is_loaded(library)
        || slot::driver().iter().any(|slot| slot.library == library && known(slot).behind.load(Ordering::Acquire) != 0)
}

/// Whether the library itself is loaded, as far as was seen.
pub fn is_loaded(library: Library) -> bool {
    ATTACHED[library as usize].load(Ordering::Acquire) != 0
}

/// Whether the library is where it was last seen.
pub fn is_still_there(library: Library, world: &Still) -> bool {
    let (mut there, identity) = (false, ATTACHED[library as usize].load(Ordering::Acquire));
    world.each(&mut |image| {
        there |= image.dynamic == identity && library_of(image) == Some(library);
        !there
    });
    there
}

/// The detour of a function, given the address the driver or the loader has for it. Takes no lock.
pub fn detour_of_real(address: *const c_void) -> Option<*const c_void> {
    // SAFETY: published tables live for ever.
    let table = unsafe { BY_ADDRESS.load(Ordering::Acquire).as_ref() }?;
    match table.binary_search_by_key(&(address as usize), |(real, _)| *real) {
        Ok(at) => Some(table[at].1.detour()),
        // A driver that is not linked with -Bsymbolic means itself and gets our export.
        Err(_) => exported(address),
    }
}

/// The detour behind one of our own exports.
fn exported(address: *const c_void) -> Option<*const c_void> {
    is_ours(address as usize).then(|| slot::of_export(address).map(Slot::detour)).flatten()
}

/// Whether code belongs to the driver, or to an interposer behind us: it looks symbols up for itself and must
/// get the originals.
pub fn is_driver_code(address: usize) -> bool {
    let interposer = INTERPOSERS
        .iter()
        .any(|[start, end]| (start.load(Ordering::Acquire)..end.load(Ordering::Acquire)).contains(&address));
    // SAFETY: published tables live for ever.
    let driver = unsafe { DRIVER.load(Ordering::Acquire).as_ref() };
    interposer || driver.is_some_and(|ranges| ranges.iter().any(|range| range.contains(&address)))
}

/// Whether an object is part of NVIDIA's driver.
pub fn is_driver(image: &Image<'_>) -> bool {
    let driver = |name: &[u8]| {
        [&b"libcuda.so"[..], b"libcudadebugger.so", b"libnvidia-"].iter().any(|start| name.starts_with(start))
    };
    driver(image.file()) || image.soname().is_some_and(driver)
}

fn library_of(image: &Image<'_>) -> Option<Library> {
    let soname = image.soname()?;
    Library::DRIVER.into_iter().find(|library| library.soname().to_bytes() == soname)
}

/// What one look at all objects found.
struct Look {
    identity: [usize; 2],
    reals: [usize; COUNT],
    driver: Vec<Range<usize>>,
}

/// Looks at the loaded objects and brings originals and tables up to date. Answers which libraries are new.
pub fn refresh() -> [bool; 2] {
    // All memory is had before the loader is stopped.
    let mut look = Box::new(Look { identity: [0; 2], reals: [0; COUNT], driver: Vec::with_capacity(64) });
    let mut by_address = Box::new(Vec::with_capacity(COUNT));
    let result = still(|world| {
        look_around(world, &mut look);
        let changed = [0, 1].map(|at| ATTACHED[at].load(Ordering::Relaxed) != look.identity[at]);
        for library in Library::DRIVER.into_iter().filter(|library| changed[*library as usize]) {
            set_originals(library, &look);
        }
        if changed.contains(&true) {
            by_address.extend(slot::driver().iter().filter(|slot| real(slot) != 0).map(|slot| (real(slot), slot)));
            by_address.sort_unstable_by_key(|(address, _)| *address);
            by_address.dedup_by_key(|(address, _)| *address);
            twins::forget();
        }
        changed
    });
    let Some(changed) = result else { return [false; 2] };
    publish(&DRIVER, look.driver);
    if changed.contains(&true) {
        BY_ADDRESS.store(Box::into_raw(by_address), Ordering::Release);
    }
    [0, 1].map(|at| changed[at] && look.identity[at] != 0)
}

/// Replaces a table if it is another one.
fn publish(place: &AtomicPtr<Vec<Range<usize>>>, new: Vec<Range<usize>>) {
    // SAFETY: published tables live for ever.
    let old = unsafe { place.load(Ordering::Acquire).as_ref() };
    if old != Some(&new) {
        place.store(Box::into_raw(Box::new(new)), Ordering::Release);
    }
}

fn look_around(world: &Still, look: &mut Look) {
    let first = FIRST_LOOK.swap(false, Ordering::Relaxed);
    let mut behind = false;
    let here = look_around as *const () as usize;
    world.each(&mut |image| {
        if image.contains(here) {
            behind = true;
        } else if let Some(library) = library_of(image).filter(|library| look.identity[*library as usize] == 0) {
            look.identity[library as usize] = image.dynamic;
            for slot in slot::driver().iter().filter(|slot| slot.library == library) {
                look.reals[slot.position()] = image.find(slot.symbol.to_bytes()).unwrap_or(0);
            }
        } else if first && !is_driver(image) {
            note_interposer(image, behind, look);
        }
        if is_driver(image) && look.driver.len() < look.driver.capacity() {
            look.driver.push(image.extent());
        }
        true
    });
}

/// Only objects that are there at the start can stand between a program and the driver; a later one that
/// exports these names has its own callers.
fn note_interposer(image: &Image<'_>, behind: bool, look: &Look) {
    let mut noted = false;
    for slot in slot::driver() {
        let Some(address) = image.find(slot.symbol.to_bytes()) else { continue };
        let known = known(slot);
        if !behind {
            known.before.store(true, Ordering::Release);
        } else if look.identity[slot.library as usize] == 0 && known.behind.load(Ordering::Relaxed) == 0 {
            // Not behind the driver itself: nobody would find it there.
            known.behind.store(address, Ordering::Release);
            slot.set_original(address as *const c_void);
            noted = true;
        }
    }
    if noted && let Some([start, end]) = INTERPOSERS.iter().find(|[_, end]| end.load(Ordering::Relaxed) == 0) {
        start.store(image.extent().start, Ordering::Release);
        end.store(image.extent().end, Ordering::Release);
    }
}

/// The library came, went, or came back elsewhere.
fn set_originals(library: Library, look: &Look) {
    for slot in slot::driver().iter().filter(|slot| slot.library == library) {
        let (known, real) = (known(slot), look.reals[slot.position()]);
        known.real.store(real, Ordering::Release);
        let behind = known.behind.load(Ordering::Relaxed);
        slot.set_original(if behind == 0 { real } else { behind } as *const c_void);
    }
    ATTACHED[library as usize].store(look.identity[library as usize], Ordering::Release);
}
