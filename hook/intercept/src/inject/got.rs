//! The GOT layer: in every loaded object, the pointers through which it calls functions we intercept.
//!
//! An object is patched once, when it is *relocated*: while another thread's `dlopen` still relocates it, the
//! loader would add to, overwrite or protect what we write. Relocation ends with RELRO being made read-only, which
//! the kernel tells; of an object without RELRO, only entries that already point to code are touched.
//!
//! An entry is replaced only if it is what we think it is: unresolved, or the real function, or our own export.
//! Anything else is somebody's choice.

use super::entries::{self, Entry};
use super::image::Image;
use super::layers::{Done, LAYERS};
use super::os::{errno, page_size};
use super::still::{Still, still};
use crate::libraries::{is_driver, is_driver_code, is_ours};
use crate::loader::Dl;
use crate::slot::{self, Library, Section, Slot};
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Entries replaced so far, and entries that could not be written.
pub fn counts() -> (usize, usize) {
    (LAYERS.patched.load(Ordering::Acquire), LAYERS.refused.load(Ordering::Acquire))
}

/// Whether the layer has what it needs: a page's protection can be told.
pub fn can_work() -> bool {
    let local = AtomicUsize::new(0);
    let code = can_work as *const () as usize & !(align_of::<usize>() - 1);
    is_writable(local.as_ptr() as usize) == Some(true) && is_writable(code) == Some(false)
}

/// Patches what is new. `false`: an object is still being loaded, look again.
pub fn scan() -> bool {
    still(patch_all).unwrap_or(true)
}

fn patch_all(world: &Still) -> bool {
    let wanted = LAYERS.wanted.load(Ordering::Acquire);
    let done = LAYERS.done.get(world);
    // With new names to look for, everything is looked at again: what is replaced is found so.
    let known = if done.wanted == wanted { world.known_since(done.at.added) } else { 0 };
    let mut complete = true;
    world.each_from(known, &mut |image| {
        complete &= is_left_alone(image) || patch(world, image);
        true
    });
    if complete {
        LAYERS.done.set(world, Done { at: world.changes(), wanted });
    }
    complete
}

/// Ourselves, the driver, an interposer after us, and the C library with its loader.
fn is_left_alone(image: &Image<'_>) -> bool {
    let system = |name: &[u8]| {
        let names: [&[u8]; 6] = [b"ld-linux", b"ld64", b"libc.so", b"libdl.so", b"libpthread.so", b"linux-vdso"];
        names.iter().any(|start| name.starts_with(start))
    };
    let start = image.extent().start;
    system(image.file())
        || image.soname().is_some_and(system)
        || is_driver(image)
        || is_driver_code(start)
        || is_ours(start)
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
        section => (LAYERS.wanted.load(Ordering::Acquire) & 1 << section as u32 != 0).then_some(Target::Called(slot)),
    }
}

impl Target {
    fn replacement(self) -> usize {
        match self {
            Self::Driver(slot) | Self::Called(slot) => slot.detour() as usize,
            Self::Loader(function) => slot::shims().map_or(0, |shims| shims.got[function.position()] as usize),
        }
    }

    /// Whether an entry that points to `value` leads to the function itself.
    fn is_reached_by(self, value: usize) -> bool {
        match self {
            Self::Driver(slot) => value == slot.real() || is_ours(value),
            Self::Loader(function) => value == function.real() || value == function.original() || is_ours(value),
            // Whatever the program resolved it to is the original.
            Self::Called(_) => true,
        }
    }

    /// Whether an entry that is not resolved yet would lead to the function itself.
    fn may_be_unresolved(self) -> bool {
        !matches!(self, Self::Driver(slot) if slot.is_preceded())
    }
}

/// `false`: the object is not relocated yet.
fn patch(world: &Still, image: &Image<'_>) -> bool {
    let mut relocated = false;
    for entry in entries::of(image) {
        let Some(target) = target_of(entry.name) else { continue };
        if !relocated && !is_relocated(image) {
            return false;
        }
        relocated = true;
        patch_entry(world, image, &entry, target);
    }
    true
}

fn is_relocated(image: &Image<'_>) -> bool {
    image.relro().is_none_or(|pages| is_writable(pages.start) == Some(false))
}

fn patch_entry(world: &Still, image: &Image<'_>, place: &Entry<'_>, target: Target) {
    let address = place.address;
    // SAFETY: aligned, inside a segment of an object that stays mapped, readable as the object says; the loader and other
    // threads write such an entry as one word.
    let entry = unsafe { &*(address as *const AtomicUsize) };
    let (value, replacement) = (entry.load(Ordering::Acquire), target.replacement());
    // Zero: a weak symbol nobody has, or nothing to put there.
    if value == replacement || value == 0 || replacement == 0 {
        return;
    }
    // An entry still on its way through the PLT points back into the object, unless the object defines the
    // function itself.
    let unresolved = place.jump && image.executes(value) && image.find(place.name) != Some(value);
    if !(if unresolved { target.may_be_unresolved() } else { target.is_reached_by(value) }) {
        return;
    }
    // Not code: not relocated yet, or not a function.
    if !image.executes(value) && !is_code(world, value) {
        return;
    }
    if let Target::Called(slot) = target {
        let reached = match (unresolved, is_one_librarys(slot)) {
            (false, _) => Some(value),
            (true, false) => Some(resolve(world, slot.symbol.to_bytes()).unwrap_or(value)),
            (true, true) => resolve_alone(world, slot.symbol.to_bytes(), image),
        };
        if !reached.is_some_and(|reached| leads_to(world, slot, reached)) {
            return;
        }
    }
    let written = with_write(image, address, || entry.store(replacement, Ordering::Release));
    let replaced = written && entry.load(Ordering::Acquire) == replacement;
    let count = if replaced { &LAYERS.patched } else { &LAYERS.refused };
    count.fetch_add(1, Ordering::AcqRel);
}

/// Whether an address is code of an object.
fn is_code(world: &Still, address: usize) -> bool {
    let mut code = false;
    world.at(address, &mut |image| code = image.executes(address));
    code
}

/// Whether several libraries may have functions of this name: then only calls of the first one found are led to us.
fn is_one_librarys(slot: &Slot) -> bool {
    slot.library == Library::Ggml
}

/// Whether a function is the original, which the first one becomes.
fn leads_to(world: &Still, slot: &Slot, reached: usize) -> bool {
    let known = slot.original();
    // One whose library has gone is nobody's original any more.
    if known.is_null() || is_one_librarys(slot) && known as usize != reached && !is_code(world, known as usize) {
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
fn with_write(image: &Image<'_>, address: usize, write: impl FnOnce()) -> bool {
    let page = page_size();
    let start = (address & !(page - 1)) as *mut c_void;
    let Some(writable) = is_writable(address & !3) else { return false };
    let protection = image.protection(address);
    // SAFETY: adds a right to a page of a settled object; nothing loses access.
    if !writable && unsafe { libc::mprotect(start, page, protection | libc::PROT_WRITE) } != 0 {
        return false;
    }
    write();
    if !writable {
        // SAFETY: the protection that the object asked for, less the right to write, which the page did not give.
        unsafe { libc::mprotect(start, page, protection & !libc::PROT_WRITE) };
    }
    true
}

/// Whether a page may be written, without writing to it: zero is added to a word, as one operation of the kernel's, which
/// fails where it may not. `None` where the kernel does not do that. The word must be aligned.
///
/// `/proc/self/maps` would tell as well, and takes milliseconds in a process with hundreds of libraries.
fn is_writable(address: usize) -> Option<bool> {
    const ADD_NOTHING: usize = 1 << 28;
    let saved = errno::save();
    let (nobody_waits, none) = (0u32, 0usize);
    // SAFETY: the operation adds 0 to a word, if it can be written, and wakes nobody: no thread waits for our own word.
    let status = unsafe {
        libc::syscall(
            libc::SYS_futex,
            &raw const nobody_waits,
            libc::FUTEX_WAKE_OP | libc::FUTEX_PRIVATE_FLAG,
            none,
            none,
            address,
            ADD_NOTHING,
        )
    };
    let error = errno::save();
    errno::restore(saved);
    match (status, error) {
        (0.., _) => Some(true),
        (_, libc::EFAULT) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_written_is_told_without_writing() {
        let page = page_size();
        let map = |rights| {
            // SAFETY: a new mapping.
            unsafe { libc::mmap(std::ptr::null_mut(), page, rights, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) }
        };
        let both = map(libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: the page just mapped.
        let word = unsafe { &*both.cast::<AtomicUsize>() };
        for value in [0, usize::MAX, 0x1234_5678_9abc_def0] {
            word.store(value, Ordering::Relaxed);
            assert_eq!((is_writable(both as usize), word.load(Ordering::Relaxed)), (Some(true), value));
        }
        // SAFETY: as above.
        unsafe { libc::mprotect(both, page, libc::PROT_READ) };
        assert_eq!(is_writable(both as usize), Some(false));
        for rights in [libc::PROT_NONE, libc::PROT_READ, libc::PROT_READ | libc::PROT_EXEC] {
            assert_eq!(is_writable(map(rights) as usize), Some(false), "{rights}");
        }
        assert_eq!(is_writable(page), Some(false), "nothing is mapped");
        assert!(can_work());
    }
}
