//! The engine on the `detour` crate: pure Rust, from crates.io.

use super::engines::{InlineEngine, Patch};
use detour::{Error, RawDetour, Threads, Transaction};

/// See the module.
pub struct DetourEngine;

impl InlineEngine for DetourEngine {
    fn tag(&self) -> &'static str {
        "greenboost inline engine: detour;"
    }

    fn stops_threads(&self) -> bool {
        true
    }

    unsafe fn replace(&self, patches: &[Patch<'_>], alone: bool) -> Vec<Result<(), String>> {
        let prepared: Vec<_> = patches
            .iter()
            .map(|patch| {
                // SAFETY: the caller's promise.
                let detour = unsafe { RawDetour::new(patch.target as *const (), patch.detour as *const ()) };
                detour
                    .inspect(|detour| (patch.publish)(detour.trampoline() as usize))
                    .map_err(|error| error.to_string())
            })
            .collect();
        if prepared.is_empty() {
            return Vec::new();
        }
        let together: Vec<_> = prepared.iter().flatten().collect();
        // One stop of all threads for all bodies; if one cannot be patched, none is, and each is tried alone.
        // SAFETY: threads that could execute the bodies are suspended.
        let all = unsafe { commit(&together, alone) };
        let results = prepared
            .iter()
            .map(|detour| {
                let detour = detour.as_ref().map_err(Clone::clone)?;
                match &all {
                    Ok(()) => Ok(()),
                    // SAFETY: threads that could execute the body are suspended.
                    Err(_) => unsafe { commit(&[detour], alone) }.map_err(|error| error.to_string()),
                }
            })
            .collect();
        // Never undone: the trampoline of a patched body may be in use at any time, and the code of an unloaded
        // library is no longer there to be restored.
        std::mem::forget(prepared);
        results
    }
}

/// Switches bodies over, with all other threads stopped outside of the bytes that are written.
///
/// # Safety
/// As [`RawDetour::enable`] for threads that block all signals.
unsafe fn commit(detours: &[&RawDetour], alone: bool) -> Result<(), Error> {
    // A thread can be caught in the one instruction that cannot be moved: a moment later it is elsewhere.
    const ATTEMPTS: u32 = 20;
    let mut attempt = 0;
    loop {
        let mut transaction = Transaction::new();
        detours.iter().for_each(|detour| {
            transaction.enable(*detour);
        });
        // Alone, it would be no more than a signal handler installed for nothing.
        let threads = if alone { Threads::None } else { Threads::All };
        // SAFETY: the caller's promise.
        match unsafe { transaction.commit(threads) } {
            Err(Error::ThreadNotRelocatable) if attempt < ATTEMPTS => attempt += 1,
            result => return result,
        }
        std::thread::yield_now();
    }
}
