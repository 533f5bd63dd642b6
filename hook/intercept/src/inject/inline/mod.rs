//! The inline layer: patched function bodies.
//!
//! Which bodies: the loader's functions, `cuGetProcAddress` once the driver is there, and with the `bodies` layer
//! every function of the table. How, is an engine's business: the `detour` crate by default, frida-gum behind the
//! feature `frida`. A body that cannot be patched (too short, code pages that may not be written) is left as it
//! is; the other layers do not need it.

#[cfg(not(feature = "frida"))]
mod detour;
mod engine;
#[cfg(feature = "frida")]
mod frida;

use engine::{InlineEngine, Patch};

use super::layers::LAYERS;
use super::still::{Gate, still};
use crate::libraries;
use crate::loader::Dl;
use crate::slot::{self, Function, Library, Slot};
use std::sync::PoisonError;

#[cfg(not(feature = "frida"))]
const ENGINE: &dyn InlineEngine = &detour::DetourEngine;
#[cfg(feature = "frida")]
const ENGINE: &dyn InlineEngine = &frida::FridaEngine;

/// What became of each patch. Told only once the loader runs again: a logger may need the loader's locks.
type Outcome = Vec<(String, Result<(), String>)>;

fn apply(patches: &[Patch<'_>]) -> Outcome {
    // SAFETY: callers below pair each function with the detour or shim made for it.
    let results = unsafe { ENGINE.replace(patches) };
    let told = |(patch, result): (&Patch<'_>, Result<(), String>)| {
        if result.is_err() {
            (patch.publish)(0);
        }
        (patch.name.to_owned(), result)
    };
    patches.iter().zip(results).map(told).collect()
}

fn tell(outcome: Outcome) {
    for (name, result) in outcome {
        match result {
            Ok(()) => log::debug!("{}: {name} patched", ENGINE.name()),
            Err(problem) => log::warn!("{}: {name} not patched: {problem}", ENGINE.name()),
        }
    }
}

/// Patches `dlsym` and its kin.
pub fn patch_loader() {
    let _gate = Gate::pass();
    for function in Dl::all() {
        let target = function.real();
        if target != 0 {
            let outcome = apply(&[Patch {
                name: function.name().to_str().unwrap_or_default(),
                target,
                detour: slot::shims().map_or(0, |shims| shims.code[function.position()] as usize),
                publish: &|trampoline| function.set_trampoline(trampoline),
            }]);
            tell(outcome);
        }
    }
}

/// Patches `cuGetProcAddress`, or every function of the table, in a library that is loaded. `anew`: its code is as
/// it came from disk.
pub fn patch_library(library: Library, all: bool, anew: bool) {
    // While the loader stands still the library cannot be unmapped under our hands.
    let outcome = still(|world| match libraries::is_still_there(library, world) {
        true => patch_bodies(library, all, anew),
        false => Vec::new(),
    });
    tell(outcome.unwrap_or_default());
}

fn patch_bodies(library: Library, all: bool, anew: bool) -> Outcome {
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
    apply(&patches)
}
