//! Installing the layers, and bringing them up to date when objects came or went.

use super::layers::{BODIES, CODE, EXPORT, GOT, LAYERS, is_on};
use super::{got, inline, still};
use crate::loader::{self, Dl};
use crate::slot::{Function, Library, Section};
use crate::{guard, libraries};
use greenboost_contract::Layers;
use greenboost_contract::record::Record;
use std::ffi::CStr;
use std::sync::atomic::Ordering;

/// The name of no function. Asked for by the self-test of a layer.
pub const PROBE: &CStr = c"cuGreenBoostProbe";

/// Installs layers. What cannot work here is left out and logged.
pub fn install(wanted: Layers) {
    // The first looks fill tables that later looks only read.
    libraries::is_ours(0);
    Dl::SYM.real();
    renew();
    // Bodies of a library that comes later are patched when it is seen to come.
    if wanted.inline || wanted.bodies {
        LAYERS.on.fetch_or(CODE, Ordering::AcqRel);
        inline::patch_loader();
        keep(CODE, "inline", probe());
    }
    if wanted.got {
        LAYERS.on.fetch_or(GOT, Ordering::AcqRel);
        let works = got::can_work();
        if works {
            look_again();
            renew();
        }
        let (patched, refused) = got::counts();
        log::debug!("{patched} GOT entries replaced, {refused} refused");
        keep(GOT, "got", works && (refused == 0 || patched > 0));
    }
    if wanted.preload {
        LAYERS.on.fetch_or(EXPORT, Ordering::AcqRel);
        let ours =
            [Function::cuMemAlloc_v2, Function::cuMemFree_v2].iter().any(|it| loader::finds_ours(it.slot().symbol));
        keep(EXPORT, "preload", ours);
    }
    if wanted.bodies {
        LAYERS.on.fetch_or(BODIES, Ordering::AcqRel);
    }
    for library in Library::DRIVER {
        attached(library, false);
    }
}

fn keep(layer: u32, name: &str, works: bool) {
    if works {
        log::debug!("layer {name} stands");
    } else {
        LAYERS.on.fetch_and(!layer, Ordering::AcqRel);
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
    unsafe { std::mem::transmute::<usize, Sym>(real)(libc::RTLD_NEXT, PROBE.as_ptr()) };
    // The failed search must not be what the program's first dlerror tells.
    // SAFETY: takes no argument.
    unsafe { libc::dlerror() };
    LAYERS.probed.load(Ordering::Acquire) & CODE != 0
}

/// Has the GOT layer replace the functions of sections, in the objects that are there and those to come.
pub fn want(sections: &[Section]) {
    let bits = sections.iter().fold(0, |bits, section| bits | 1 << *section as u32);
    LAYERS.wanted.fetch_or(bits, Ordering::AcqRel);
    look_again();
    renew();
}

/// Makes the next [`renew`] look even if no object came or went.
fn look_again() {
    LAYERS.seen.store(u64::MAX, Ordering::Release);
}

/// Has the status record tell what patches functions, what is left alone, and which calls go to the driver as they are.
pub fn tell_in(record: &'static Record) {
    record.engine.set(inline::engine());
    libraries::tell_in(record);
    guard::count_in(&record.bypasses);
}

/// Brings everything up to date if objects came or went since the last look. `false`: nothing to do.
pub fn renew() -> bool {
    let changes = still::changes();
    let now = changes.added << 24 ^ changes.removed;
    if LAYERS.seen.load(Ordering::Acquire) == now {
        return false;
    }
    let new = libraries::refresh();
    if !is_on(GOT) || got::scan() {
        LAYERS.seen.store(now, Ordering::Release);
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
    if is_on(CODE | BODIES) && libraries::is_loaded(library) {
        inline::patch_library(library, is_on(BODIES), anew);
    }
}
