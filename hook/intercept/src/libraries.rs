//! The driver's libraries: where they are, what their functions are called by, and which code is theirs.
//!
//! They are found among the loaded objects and read in place. Nothing is ever opened: a program that has not
//! loaded `libcuda` must not get one from us, and a reference of ours must not keep one alive.
//!
//! Another library may stand between us and the driver: one that is preloaded after us and exports the same
//! names. It then is the original of those names, as it would be for `RTLD_NEXT`, and its own look-ups get the
//! real functions, or the two of us would call each other for ever.

use crate::guard;
use crate::inject::image::Image;
use crate::inject::still::{Changes, Still, still};
use crate::slot::{self, DRIVER, Library, Slot};
use greenboost_contract::record::Record;
use std::ffi::c_void;
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// What is known of the loaded objects. Written only while the loader stands still (the tables and what is learned of twins:
/// published whole); read by everybody without a lock.
pub(crate) struct Known {
    /// Identity of each attached library: the address of its dynamic section; 0 for none.
    attached: [AtomicUsize; 2],
    /// The loader's counters at the last look: objects added, and removed. No look yet: the highest number.
    added: AtomicU64,
    removed: AtomicU64,
    /// An object other than the executable has a DT_RPATH.
    rpath: AtomicBool,
    /// Addresses of interposers after us.
    interposers: [[AtomicUsize; 2]; 8],
    /// Sorted tables for readers that take no lock. A replaced table is never freed: a reader may hold it, and
    /// they are replaced only when a driver library comes or goes.
    pub(crate) by_address: AtomicPtr<Vec<(usize, &'static Slot)>>,
    driver: AtomicPtr<Vec<Range<usize>>>,
    /// The path of a second library of the same name as one that is attached.
    other: AtomicPtr<String>,
    /// The status record that is told of it.
    record: AtomicPtr<Record>,
    /// Addresses of this library.
    ours: [AtomicUsize; 2],
    /// The driver's twins are in `by_address`.
    pub(crate) learned: AtomicBool,
    /// The loader's functions were found.
    pub(crate) located: AtomicBool,
}

pub(crate) static KNOWN: Known = Known {
    attached: [const { AtomicUsize::new(0) }; 2],
    added: AtomicU64::new(u64::MAX),
    removed: AtomicU64::new(u64::MAX),
    rpath: AtomicBool::new(false),
    interposers: [const { [const { AtomicUsize::new(0) }; 2] }; 8],
    by_address: AtomicPtr::new(null_mut()),
    driver: AtomicPtr::new(null_mut()),
    other: AtomicPtr::new(null_mut()),
    record: AtomicPtr::new(null_mut()),
    ours: [const { AtomicUsize::new(0) }; 2],
    learned: AtomicBool::new(false),
    located: AtomicBool::new(false),
};

/// Whether an address is this library's own.
pub fn is_ours(address: usize) -> bool {
    let [start, end] = &KNOWN.ours;
    if end.load(Ordering::Acquire) == 0 {
        still(|world| {
            world.at(is_ours as *const () as usize, &mut |image| {
                start.store(image.extent().start, Ordering::Release);
                end.store(image.extent().end, Ordering::Release);
            });
        });
    }
    (start.load(Ordering::Acquire)..end.load(Ordering::Acquire)).contains(&address)
}

/// Whether the library itself is loaded, as far as was seen.
pub fn is_loaded(library: Library) -> bool {
    KNOWN.attached[library as usize].load(Ordering::Acquire) != 0
}

/// Whether there is anything to call: the library, or one that stands for it.
pub fn is_attached(library: Library) -> bool {
    let stands_in = |slot: &Slot| slot.library == library && slot.behind.load(Ordering::Acquire) != 0;
    is_loaded(library) || slot::driver().iter().any(stands_in)
}

/// Whether the library is where it was last seen.
pub fn is_still_there(library: Library, world: &Still) -> bool {
    let (mut there, identity) = (false, KNOWN.attached[library as usize].load(Ordering::Acquire));
    world.at(identity, &mut |image| there = image.dynamic == identity && library_of(image) == Some(library));
    there
}

/// The detour of a function, given the address the driver or the loader has for it. Takes no lock.
pub fn detour_of_real(address: *const c_void) -> Option<*const c_void> {
    // SAFETY: published tables live for ever.
    let table = unsafe { KNOWN.by_address.load(Ordering::Acquire).as_ref() }?;
    match table.binary_search_by_key(&(address as usize), |(real, _)| *real) {
        Ok(at) => Some(table[at].1.detour()),
        // A driver that is not linked with -Bsymbolic means itself and gets our export.
        Err(_) => exported(address),
    }
}

/// The detour of one of our own exports.
fn exported(address: *const c_void) -> Option<*const c_void> {
    is_ours(address as usize).then(|| slot::of_export(address).map(Slot::detour)).flatten()
}

/// Whether code belongs to the driver, or to an interposer after us: it looks symbols up for itself and must
/// get the originals.
pub fn is_driver_code(address: usize) -> bool {
    let interposer = KNOWN
        .interposers
        .iter()
        .any(|[start, end]| (start.load(Ordering::Acquire)..end.load(Ordering::Acquire)).contains(&address));
    interposer || driver_code().iter().any(|range| range.contains(&address))
}

fn driver_code() -> &'static [Range<usize>] {
    // SAFETY: published tables live for ever.
    unsafe { KNOWN.driver.load(Ordering::Acquire).as_ref() }.map_or(&[], Vec::as_slice)
}

/// Whether an object is part of NVIDIA's driver.
pub fn is_driver(image: &Image<'_>) -> bool {
    let driver = |name: &[u8]| {
        [&b"libcuda.so"[..], b"libcudadebugger.so", b"libnvidia-"].iter().any(|start| name.starts_with(start))
    };
    driver(image.file()) || image.soname().is_some_and(driver)
}

/// The library of the driver that an object is.
pub fn library_of(image: &Image<'_>) -> Option<Library> {
    let soname = image.soname()?;
    Library::DRIVER.into_iter().find(|library| library.soname().to_bytes() == soname)
}

/// What one look found.
struct Look {
    identity: [usize; 2],
    reals: [usize; DRIVER],
    driver: Vec<Range<usize>>,
    other: Vec<u8>,
}

/// The longest path that is told of.
const LONGEST: usize = 160;

/// Looks at the loaded objects and brings originals and tables up to date. Answers which libraries are new.
pub fn refresh() -> [bool; 2] {
    // All memory is had before the loader is stopped.
    let (driver, other) = (Vec::with_capacity(64), Vec::with_capacity(LONGEST));
    let mut look = Box::new(Look { identity: [0; 2], reals: [0; DRIVER], driver, other });
    let mut by_address = Box::new(Vec::with_capacity(DRIVER));
    let result = still(|world| {
        look_around(world, &mut look);
        let changed = [0, 1].map(|at| KNOWN.attached[at].load(Ordering::Relaxed) != look.identity[at]);
        for library in Library::DRIVER.into_iter().filter(|library| changed[*library as usize]) {
            set_originals(library, &look);
        }
        if changed.contains(&true) {
            let there = slot::driver().iter().filter(|slot| slot.real() != 0);
            by_address.extend(there.map(|slot| (slot.real(), slot)));
            by_address.sort_unstable_by_key(|(address, _)| *address);
            by_address.dedup_by_key(|(address, _)| *address);
            // What was learned of the driver's twins is void.
            KNOWN.learned.store(false, Ordering::Release);
        }
        changed
    });
    let Some(changed) = result else { return [false; 2] };
    if driver_code() != look.driver {
        KNOWN.driver.store(Box::into_raw(Box::new(look.driver)), Ordering::Release);
    }
    if !look.other.is_empty() {
        note_other(String::from_utf8_lossy(&look.other).escape_debug().to_string());
    }
    if changed.contains(&true) {
        KNOWN.by_address.store(Box::into_raw(by_address), Ordering::Release);
    }
    [0, 1].map(|at| changed[at] && look.identity[at] != 0)
}

fn look_around(world: &Still, look: &mut Look) {
    let Changes { added, removed } = world.changes();
    let before = KNOWN.added.swap(added, Ordering::Relaxed);
    let (first, mut behind) = (before == u64::MAX, false);
    let (mut known, mut rpath) = (0, false);
    if !first && KNOWN.removed.load(Ordering::Relaxed) == removed {
        // Nothing has gone: what was found is there, and only what has come is looked at.
        known = world.known_since(before);
        look.identity = [0, 1].map(|at| KNOWN.attached[at].load(Ordering::Relaxed));
        look.driver.extend_from_slice(driver_code());
        rpath = KNOWN.rpath.load(Ordering::Relaxed);
    }
    KNOWN.removed.store(removed, Ordering::Relaxed);
    let here = look_around as *const () as usize;
    let mut executable = known == 0;
    world.each_from(known, &mut |image| {
        rpath |= image.rpath && !executable;
        executable = false;
        if image.contains(here) {
            behind = true;
        } else if let Some(library) = library_of(image).filter(|library| look.identity[*library as usize] == 0) {
            look.identity[library as usize] = image.dynamic;
            for slot in slot::driver().iter().filter(|slot| slot.library == library) {
                look.reals[slot.position()] = image.find(slot.symbol.to_bytes()).unwrap_or(0);
            }
        } else if first && !is_driver(image) {
            note_interposer(image, behind, look);
        } else if library_of(image).is_some_and(|library| look.identity[library as usize] != image.dynamic) {
            look.other.clear();
            look.other.extend_from_slice(&image.path[..image.path.len().min(look.other.capacity())]);
        }
        if is_driver(image) && look.driver.len() < look.driver.capacity() {
            look.driver.push(image.extent());
        }
        true
    });
    KNOWN.rpath.store(rpath, Ordering::Relaxed);
}

/// Whether an object other than the executable has a DT_RPATH, which dependencies of what it loads inherit.
pub fn has_rpath(world: &Still) -> bool {
    if KNOWN.added.load(Ordering::Relaxed) == world.changes().added {
        return KNOWN.rpath.load(Ordering::Relaxed);
    }
    let (mut executable, mut found) = (true, false);
    world.each(&mut |image| {
        // The executable's own serves everybody, us too.
        found |= image.rpath && !executable;
        executable = false;
        !found
    });
    found
}

/// A process can have two drivers, from files of their own (WSL 2 has `libcuda.so` beside `libcuda.so.1`). What one of them
/// has allocated the other does not know, and neither do we: the second one is left alone.
fn note_other(path: String) {
    // SAFETY: published paths live for ever.
    if unsafe { KNOWN.other.load(Ordering::Acquire).as_ref() } == Some(&path) {
        return;
    }
    log::warn!("a second driver is loaded, from {path}: what goes through it is not ours");
    KNOWN.other.store(Box::into_raw(Box::new(path)), Ordering::Release);
    tell();
}

/// Has the status record say from now on which second driver there is.
pub fn tell_in(record: &'static Record) {
    KNOWN.record.store(std::ptr::from_ref(record).cast_mut(), Ordering::Release);
    tell();
}

fn tell() {
    // SAFETY: both live for ever once they are published.
    let (record, other) =
        unsafe { (KNOWN.record.load(Ordering::Acquire).as_ref(), KNOWN.other.load(Ordering::Acquire).as_ref()) };
    // A forked child has its parent's record before it.
    if let (Some(record), Some(other), true) = (record, other, guard::is_active()) {
        record.other_driver.set(other);
    }
}

/// Only objects that are there at the start can stand between a program and the driver; a later one that
/// exports these names has its own callers.
fn note_interposer(image: &Image<'_>, behind: bool, look: &Look) {
    let mut noted = false;
    for slot in slot::driver() {
        let Some(address) = image.find(slot.symbol.to_bytes()) else { continue };
        if !behind {
            slot.before.store(true, Ordering::Release);
        } else if look.identity[slot.library as usize] == 0 && slot.behind.load(Ordering::Relaxed) == 0 {
            // Not behind the driver itself: nobody would find it there.
            slot.behind.store(address, Ordering::Release);
            slot.set_original(address as *const c_void);
            noted = true;
        }
    }
    if noted && let Some([start, end]) = KNOWN.interposers.iter().find(|[_, end]| end.load(Ordering::Relaxed) == 0) {
        start.store(image.extent().start, Ordering::Release);
        end.store(image.extent().end, Ordering::Release);
    }
}

/// The library came, went, or came back elsewhere.
fn set_originals(library: Library, look: &Look) {
    for slot in slot::driver().iter().filter(|slot| slot.library == library) {
        let real = look.reals[slot.position()];
        slot.real.store(real, Ordering::Release);
        let behind = slot.behind.load(Ordering::Relaxed);
        slot.set_original(if behind == 0 { real } else { behind } as *const c_void);
    }
    KNOWN.attached[library as usize].store(look.identity[library as usize], Ordering::Release);
}
