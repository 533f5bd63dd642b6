//! The GOT layer: in every loaded object, the pointers through which it calls functions we intercept.
//!
//! An object is patched once, when it is *settled*: while another thread's `dlopen` still relocates it, the
//! loader would add to, overwrite or protect what we write. Relocation ends with RELRO being made read-only, which
//! the page protections show; of an object without RELRO, only entries that already point to code are touched.
//!
//! An entry is replaced only if it is what we think it is: unresolved, or the real function, or our own export.
//! Anything else is somebody's choice.

use super::entries::{self, Entry};
use super::image::Image;
use super::maps::Maps;
use super::shim;
use super::still::{Changes, Still, still};
use crate::real::{self, dl::Dl};
use crate::slot::{self, Library, Section, Slot};
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// The sections of `called` functions that are looked for, a bit each. What is published stays.
static WANTED: AtomicU32 = AtomicU32::new(0);

/// Replaces the functions of sections, in the objects that are there and those to come.
pub fn want(sections: &[Section]) {
    let bits = sections.iter().fold(0, |bits, section| bits | 1 << *section as u32);
    WANTED.fetch_or(bits, Ordering::AcqRel);
    super::look_again();
    super::renew();
}

static PATCHED: AtomicUsize = AtomicUsize::new(0);
static REFUSED: AtomicUsize = AtomicUsize::new(0);

/// Entries replaced so far, and entries that could not be written.
pub fn counts() -> (usize, usize) {
    (PATCHED.load(Ordering::Acquire), REFUSED.load(Ordering::Acquire))
}

/// The objects that are done, by base and dynamic section. Touched only while the loader stands still.
struct Done {
    objects: Vec<(usize, usize)>,
    at: Changes,
    wanted: u32,
}

struct Guarded(std::cell::UnsafeCell<Done>);
// SAFETY: accessed only inside `still`, which admits one at a time.
unsafe impl Sync for Guarded {}
static DONE: Guarded =
    Guarded(std::cell::UnsafeCell::new(Done { objects: Vec::new(), at: Changes { added: 0, removed: 0 }, wanted: 0 }));

/// What a pass left open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Complete,
    /// The page protections need more room than they were given.
    NeedsRoom,
    /// An object was not settled.
    Again,
}

/// Patches what is new. `false`: an object is still being loaded, look again.
pub fn scan() -> bool {
    let mut objects = 0;
    still(|world| {
        world.each(&mut |_| {
            objects += 1;
            true
        });
    });
    let mut maps = Maps::with_room(ROOM);
    loop {
        let mut room = Vec::with_capacity(objects + 64);
        // SAFETY: only here, while the loader stands still.
        let pass = still(|world| unsafe { patch_all(world, &mut *DONE.0.get(), &mut room, &maps) });
        match pass {
            Some(Pass::NeedsRoom) => maps = maps.with_more_room(),
            Some(Pass::Complete) | None => return true,
            Some(Pass::Again) => return false,
        }
    }
}

/// Bytes of /proc/self/maps in an ordinary process.
const ROOM: usize = 128 << 10;

/// `room` is empty memory for the new list of what is done; it comes back with the old one in it.
fn patch_all(world: &Still, done: &mut Done, room: &mut Vec<(usize, usize)>, maps: &Maps) -> Pass {
    let wanted = WANTED.load(Ordering::Acquire);
    if done.at.removed == world.changes().removed && done.wanted == wanted {
        room.extend(done.objects.iter().take(room.capacity()));
    }
    // Else: an object vanished, and another may have its place; or there are new names to look for.
    std::mem::swap(&mut done.objects, room);
    (done.at, done.wanted) = (world.changes(), wanted);

    let mut pass = Pass::Complete;
    world.each(&mut |image| {
        let identity = (image.base, image.dynamic);
        if done.objects.contains(&identity) {
            return true;
        }
        let one = if is_left_alone(image) { Pass::Complete } else { patch(world, image, maps) };
        match one {
            Pass::Complete if done.objects.len() < done.objects.capacity() => done.objects.push(identity),
            Pass::Complete => {}
            open => pass = open,
        }
        pass != Pass::NeedsRoom
    });
    pass
}

/// Ourselves, the driver, an interposer behind us, and the C library with its loader.
fn is_left_alone(image: &Image<'_>) -> bool {
    let system = |name: &[u8]| {
        let names: [&[u8]; 6] = [b"ld-linux", b"ld64", b"libc.so", b"libdl.so", b"libpthread.so", b"linux-vdso"];
        names.iter().any(|start| name.starts_with(start))
    };
    let start = image.extent().start;
    system(image.file())
        || image.soname().is_some_and(system)
        || real::is_driver(image)
        || real::is_driver_code(start)
        || real::is_ours(start)
}

#[derive(Clone, Copy)]
enum Target {
    Driver(&'static Slot),
    Loader(Dl),
    Called(&'static Slot),
}

fn target_of(name: &[u8]) -> Option<Target> {
    // Some linkers leave the version in the name.
    let name = name.split(|byte| *byte == b'@').next()?;
    let slot = slot::find(name)?;
    match slot.section {
        Section::Driver => Some(Target::Driver(slot)),
        Section::Loader => Dl::of(name).map(Target::Loader),
        section => (WANTED.load(Ordering::Acquire) & 1 << section as u32 != 0).then_some(Target::Called(slot)),
    }
}

impl Target {
    fn replacement(self) -> usize {
        match self {
            Self::Driver(slot) | Self::Called(slot) => slot.detour() as usize,
            Self::Loader(function) => shim::got::of(function.function()) as usize,
        }
    }

    /// Whether an entry that points to `value` leads to the function itself.
    fn is_reached_by(self, value: usize) -> bool {
        match self {
            Self::Driver(slot) => value == real::real(slot) || real::is_ours(value),
            Self::Loader(function) => value == function.real() || value == function.original() || real::is_ours(value),
            // Whatever the program resolved it to is the original.
            Self::Called(_) => true,
        }
    }

    /// Whether an entry that is not resolved yet would lead to the function itself.
    fn may_be_unresolved(self) -> bool {
        !matches!(self, Self::Driver(slot) if real::is_preceded(slot))
    }
}

fn patch(world: &Still, image: &Image<'_>, maps: &Maps) -> Pass {
    for entry in entries::of(image) {
        let Some(target) = target_of(entry.name) else { continue };
        if !maps.take() {
            return Pass::NeedsRoom;
        }
        if !is_settled(image, maps) {
            return Pass::Again;
        }
        patch_entry(world, image, &entry, target, maps);
    }
    Pass::Complete
}

fn is_settled(image: &Image<'_>, maps: &Maps) -> bool {
    image.relro().is_none_or(|pages| maps.protection(pages.start).is_some_and(|_| !maps.writable(pages.start)))
}

fn patch_entry(world: &Still, image: &Image<'_>, place: &Entry<'_>, target: Target, maps: &Maps) {
    let address = place.address;
    let Some(protection) = maps.protection(address).filter(|protection| protection & libc::PROT_READ != 0) else {
        return;
    };
    // SAFETY: aligned, inside a segment of an object that stays mapped, readable; the loader and other threads
    // write such an entry as one word.
    let entry = unsafe { &*(address as *const AtomicUsize) };
    let (value, replacement) = (entry.load(Ordering::Acquire), target.replacement());
    // Zero: a weak symbol nobody has. Not code: not relocated yet, or not a function.
    if value == replacement || value == 0 || !maps.executable(value) {
        return;
    }
    // An entry still on its way through the PLT points back into the object, unless the object defines the
    // function itself.
    let unresolved = place.jump && image.executes(value) && image.find(place.name) != Some(value);
    if !(if unresolved { target.may_be_unresolved() } else { target.is_reached_by(value) }) {
        return;
    }
    if let Target::Called(slot) = target {
        let reached = match (unresolved, is_one_librarys(slot)) {
            (false, _) => Some(value),
            (true, false) => Some(resolve(world, slot.symbol.to_bytes()).unwrap_or(value)),
            (true, true) => resolve_alone(world, slot.symbol.to_bytes(), image),
        };
        if !reached.is_some_and(|reached| leads_to(slot, reached, maps)) {
            return;
        }
    }
    let written = with_write(address, protection, || entry.store(replacement, Ordering::Release));
    let count = if written && entry.load(Ordering::Acquire) == replacement { &PATCHED } else { &REFUSED };
    count.fetch_add(1, Ordering::AcqRel);
}

/// Whether several libraries may have functions of this name: then only calls of the first one found are led to us.
fn is_one_librarys(slot: &Slot) -> bool {
    slot.library == Library::Ggml
}

/// Whether a function is the original, which the first one becomes.
fn leads_to(slot: &Slot, reached: usize, maps: &Maps) -> bool {
    let known = slot.known_original();
    // One whose library has gone is nobody's original any more.
    if known.is_null() || is_one_librarys(slot) && known as usize != reached && !maps.executable(known as usize) {
        return slot.replace_original(known, reached as *const c_void);
    }
    !is_one_librarys(slot) || known as usize == reached
}

/// The function an unresolved entry of `image` would be bound to, if there is only one or it is the object's own.
fn resolve_alone(world: &Still, name: &[u8], image: &Image<'_>) -> Option<usize> {
    let (mut found, mut count) = (None, 0);
    world.each(&mut |other| {
        if let Some(address) = other.find(name) {
            (found, count) = (Some(address), count + 1);
        }
        count < 2
    });
    if count == 1 { found } else { image.find(name) }
}

/// The function an unresolved entry would be bound to.
fn resolve(world: &Still, name: &[u8]) -> Option<usize> {
    let mut found = None;
    world.each(&mut |image| {
        found = image.find(name);
        found.is_none()
    });
    found
}

/// Makes a page writable for the time of `write` where it is not.
fn with_write(address: usize, protection: i32, write: impl FnOnce()) -> bool {
    let page = super::page_size();
    let start = (address & !(page - 1)) as *mut c_void;
    let change = protection & libc::PROT_WRITE == 0;
    // SAFETY: adds a right to a page of a settled object; nothing loses access.
    if change && unsafe { libc::mprotect(start, page, protection | libc::PROT_WRITE) } != 0 {
        return false;
    }
    write();
    if change {
        // SAFETY: the protection the page had.
        unsafe { libc::mprotect(start, page, protection) };
    }
    true
}
