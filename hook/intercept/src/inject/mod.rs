//! The three ways by which calls reach the detours, and what keeps them up to date.
//!
//! * [`inline`]: the bodies of the loader's functions and of `cuGetProcAddress`, on request of all functions;
//! * [`got`]: the pointers through which loaded objects call;
//! * interposition: our exports, found first because this library is preloaded (made where the handlers are).
//!
//! Each works alone. Each is tried at start, and one that fails its test is left out.

pub mod entries;
pub mod got;
pub mod image;
pub mod inline;
pub mod lookup;
pub mod maps;
pub mod open;
pub mod origin;
pub mod shim;
pub mod still;

use crate::real::{self, dl, dl::Dl};
use crate::slot::{Function, Library};
use greenboost_contract::Layers;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// A call came through a patched body of the loader.
pub const CODE: u32 = 1;
/// A call came through a patched GOT entry.
pub const GOT: u32 = 2;
/// A call came to our export.
pub const EXPORT: u32 = 4;
/// All bodies are to be patched.
const BODIES: u32 = 8;

static ON: AtomicU32 = AtomicU32::new(0);
/// Ways by which the self-test's question arrived.
static PROBED: AtomicU32 = AtomicU32::new(0);

/// Whether calls that come this way are ours to answer.
#[inline]
pub fn is_on(via: u32) -> bool {
    ON.load(Ordering::Acquire) & via != 0
}

/// The layers that were installed and passed their test.
pub fn standing() -> Layers {
    Layers { inline: is_on(CODE), got: is_on(GOT), preload: is_on(EXPORT), bodies: is_on(BODIES) }
}

/// Installs layers. What cannot work here is left out and logged.
pub fn install(wanted: Layers) {
    // The first looks fill tables that later looks only read.
    real::is_ours(0);
    Dl::SYM.real();
    renew();
    // Bodies of a library that comes later are patched when it is seen to come.
    if wanted.inline || wanted.bodies {
        ON.fetch_or(CODE, Ordering::AcqRel);
        inline::patch_loader();
        keep(CODE, "inline", probe());
    }
    if wanted.got {
        ON.fetch_or(GOT, Ordering::AcqRel);
        look_again();
        renew();
        let (patched, refused) = got::counts();
        log::debug!("{patched} GOT entries replaced, {refused} refused");
        keep(GOT, "got", refused == 0 || patched > 0);
    }
    if wanted.preload {
        ON.fetch_or(EXPORT, Ordering::AcqRel);
        let ours = [Function::cuMemAlloc_v2, Function::cuMemFree_v2].iter().any(|it| dl::finds_ours(it.slot().symbol));
        keep(EXPORT, "preload", ours);
    }
    if wanted.bodies {
        ON.fetch_or(BODIES, Ordering::AcqRel);
    }
    for library in Library::DRIVER {
        attached(library, false);
    }
}

fn keep(layer: u32, name: &str, works: bool) {
    if works {
        log::debug!("layer {name} stands");
    } else {
        ON.fetch_and(!layer, Ordering::AcqRel);
        log::warn!("layer {name} does not work here and is left out");
    }
}

/// Calls the loader's `dlsym` where everybody else calls it, and sees whether the question arrives.
fn probe() -> bool {
    let real = Dl::SYM.real();
    if real == 0 {
        return false;
    }
    type Sym = unsafe extern "C" fn(*mut std::ffi::c_void, *const std::ffi::c_char) -> usize;
    // SAFETY: the address is dlsym's; the name is of no function.
    unsafe { std::mem::transmute::<usize, Sym>(real)(libc::RTLD_NEXT, lookup::PROBE.as_ptr()) };
    // The failed search must not be what the program's first dlerror tells.
    // SAFETY: takes no argument.
    unsafe { libc::dlerror() };
    PROBED.load(Ordering::Acquire) & CODE != 0
}

/// The loader's counters at the last complete look, as one word.
static SEEN: AtomicU64 = AtomicU64::new(u64::MAX);

/// Makes the next [`renew`] look even if no object came or went.
fn look_again() {
    SEEN.store(u64::MAX, Ordering::Release);
}

/// Brings everything up to date if objects came or went since the last look. `false`: nothing to do.
pub fn renew() -> bool {
    let changes = still::changes();
    let now = changes.added << 24 ^ changes.removed;
    if SEEN.load(Ordering::Acquire) == now {
        return false;
    }
    let new = real::refresh();
    if !is_on(GOT) || got::scan() {
        SEEN.store(now, Ordering::Release);
    }
    for library in Library::DRIVER {
        if new[library as usize] {
            attached(library, true);
        }
    }
    true
}

/// A driver library is there: patches what is to be patched in it.
fn attached(library: Library, anew: bool) {
    if is_on(CODE | BODIES) && real::is_loaded(library) {
        inline::patch_library(library, is_on(BODIES), anew);
    }
}

/// Bytes of a page.
pub fn page_size() -> usize {
    static SIZE: AtomicUsize = AtomicUsize::new(0);
    match SIZE.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: asks for a constant.
            let size = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
            SIZE.store(size, Ordering::Relaxed);
            size
        }
        size => size,
    }
}

/// The program's `errno`, which our own work must not change.
mod errno {
    /// Reads it.
    pub fn save() -> i32 {
        // SAFETY: the thread's own variable.
        unsafe { *libc::__errno_location() }
    }

    /// Puts it back.
    pub fn restore(value: i32) {
        // SAFETY: the thread's own variable.
        unsafe { *libc::__errno_location() = value }
    }
}
