//! The inline layer: patched function bodies.
//!
//! Which bodies: the loader's functions, `cuGetProcAddress` once the driver is there, and with the `bodies` layer
//! every function of the table. How, is an engine's business: the `detour` crate by default, frida-gum with the
//! feature `frida`. A body that cannot be patched (too short, code pages that may not be written) is left as it
//! is; the other layers do not need it.
//!
//! While other threads run, nothing is patched that the other layers reach as well: to write code under their feet they
//! would have to be stopped, by signals that end the program's system calls with EINTR, and a thread that waits for a
//! `vfork` cannot be stopped for as long as that takes. Only `bodies`, which is asked for by name, is worth it, and only to
//! an engine that does stop them.

#[cfg(all(feature = "detour", not(feature = "frida")))]
mod detour;
mod engines;
#[cfg(feature = "frida")]
mod frida;

use super::layers::LAYERS;
use super::still::{Gate, still};
use crate::libraries;
use crate::loader::Dl;
use crate::slot::{self, Function, Library, Slot};
use engines::{InlineEngine, Patch};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

#[cfg(feature = "frida")]
const ENGINE: &dyn InlineEngine = &frida::FridaEngine;
#[cfg(all(feature = "detour", not(feature = "frida")))]
const ENGINE: &dyn InlineEngine = &detour::DetourEngine;
#[cfg(not(any(feature = "detour", feature = "frida")))]
const ENGINE: &dyn InlineEngine = &engines::None;

/// What became of each patch. Told only once the loader runs again: a logger may need the loader's locks.
type Outcome = Vec<(String, Result<(), String>)>;

fn apply(patches: &[Patch<'_>], alone: bool) -> Outcome {
    // SAFETY: callers below pair each function with the detour or shim made for it.
    let results = unsafe { ENGINE.replace(patches, alone) };
    let told = |(patch, result): (&Patch<'_>, Result<(), String>)| {
        if result.is_err() {
            (patch.publish)(0);
        }
        (patch.name.to_owned(), result)
    };
    patches.iter().zip(results).map(told).collect()
}

/// The engine's name.
pub fn engine() -> &'static str {
    ENGINE.name()
}

/// One line for all that went well, and one for each reason why something did not.
fn tell(outcome: Outcome) {
    let mut lines: Vec<(Result<(), String>, Vec<String>)> = Vec::new();
    for (name, result) in outcome {
        match lines.iter_mut().find(|(known, _)| *known == result) {
            Some((_, names)) => names.push(name),
            None => lines.push((result, vec![name])),
        }
    }
    for (result, names) in lines {
        let names = names.join(", ");
        match result {
            Ok(()) => log::debug!("{}: {names} patched", engine()),
            Err(problem) => log::warn!("{}: {names} not patched: {problem}", engine()),
        }
    }
}

/// Whether this is the process's only thread, as it is in a constructor.
fn is_alone() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

/// Patches `dlsym` and its kin, all at once.
pub fn patch_loader() {
    if !is_alone() {
        log::info!("other threads run already: the loader's functions stay as they are");
        return;
    }
    let _gate = Gate::pass();
    let functions: Vec<_> = Dl::all().filter(|function| function.real() != 0).collect();
    let publish: Vec<_> =
        functions.iter().map(|function| |trampoline: usize| function.set_trampoline(trampoline)).collect();
    let patches = functions.iter().zip(&publish).map(|(function, publish)| Patch {
        name: function.name().to_str().unwrap_or_default(),
        target: function.real(),
        detour: slot::shims().map_or(0, |shims| shims.code[function.position()] as usize),
        publish,
    });
    tell(apply(&patches.collect::<Vec<_>>(), true));
}

/// Patches `cuGetProcAddress`, or every function of the table, in a library that is loaded. `anew`: its code is as
/// it came from disk.
pub fn patch_library(library: Library, all: bool, anew: bool) {
    let alone = is_alone();
    if !(alone || all && ENGINE.stops_threads()) {
        if !LAYERS.told.swap(true, Ordering::Relaxed) {
            let name = library.soname().to_string_lossy();
            log::info!(
                "{name} is there while other threads run: it stays as it is, and look-ups and the GOT lead here"
            );
        }
        return;
    }
    // While the loader stands still the library cannot be unmapped under our hands.
    let outcome = still(|world| match libraries::is_still_there(library, world) {
        true => patch_bodies(library, all, anew, alone),
        false => Vec::new(),
    });
    tell(outcome.unwrap_or_default());
}

fn patch_bodies(library: Library, all: bool, anew: bool, alone: bool) -> Outcome {
    let resolvers = [Function::cuGetProcAddress.slot(), Function::cuGetProcAddress_v2.slot()];
    let wanted = |slot: &&'static Slot| {
        slot.library == library
            && slot.real() != 0
            // The interposer is the original then, and would be led back to itself.
            && !slot.is_interposed()
            && (all || resolvers.iter().any(|resolver| std::ptr::eq(*resolver, *slot)))
    };
    let mut done = LAYERS.bodies[library as usize].lock().unwrap_or_else(PoisonError::into_inner);
    if anew {
        done.clear();
    }
    // Names that share a body share its patch.
    let mut bodies: Vec<(usize, Vec<&'static Slot>)> = Vec::new();
    for slot in slot::driver().iter().filter(wanted) {
        let body = slot.real();
        match bodies.iter_mut().find(|(known, _)| *known == body) {
            Some((_, slots)) => slots.push(slot),
            None if !done.contains(&body) => bodies.push((body, vec![slot])),
            None => {}
        }
    }
    done.extend(bodies.iter().map(|(body, _)| *body));
    let publish: Vec<_> = bodies
        .iter()
        .map(|(body, slots)| {
            move |trampoline: usize| {
                let original = if trampoline == 0 { *body } else { trampoline };
                slots.iter().for_each(|slot| slot.set_original(original as *const std::ffi::c_void));
            }
        })
        .collect();
    let patches: Vec<_> = bodies
        .iter()
        .zip(&publish)
        .map(|((target, slots), publish)| Patch {
            name: slots[0].symbol.to_str().unwrap_or_default(),
            target: *target,
            detour: slots[0].detour() as usize,
            publish,
        })
        .collect();
    apply(&patches, alone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use greenboost_contract::engine::{END, MARK};

    #[test]
    fn the_engine_is_named_as_it_is_found_in_the_library() {
        assert_eq!(format!("{MARK}{}{END}", engine()), ENGINE.tag());
    }
}
