//! The engine on frida-gum.
//!
//! It writes code in place while other threads run, and ends the process where it may not: what it would stumble over is
//! looked at before.

use super::engines::{InlineEngine, Patch};
use crate::inject::layers::LAYERS;
use crate::inject::os::page_size;
use frida_gum::interceptor::Interceptor;
use frida_gum::{Gum, NativePointer};
use std::ffi::c_void;
use std::sync::PoisonError;

/// See the module.
pub struct FridaEngine;

/// Bytes of a function that may be rewritten: a jump to anywhere.
const PATCH: usize = 16;

impl InlineEngine for FridaEngine {
    fn tag(&self) -> &'static str {
        "greenboost inline engine: frida-gum;"
    }

    fn stops_threads(&self) -> bool {
        false
    }

    unsafe fn replace(&self, patches: &[Patch<'_>], _alone: bool) -> Vec<Result<(), String>> {
        if let Err(reason) = memory_may_be_code() {
            return patches.iter().map(|_| Err(reason.clone())).collect();
        }
        let gum = Gum::obtain();
        // The trampolines are its own, and are used as long as the process lives.
        std::mem::forget(gum.clone());
        let mut interceptor = Interceptor::obtain(&gum);
        let mut before = LAYERS.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        let prepared: Vec<_> = patches
            .iter()
            .map(|patch| {
                // SAFETY: a function has that many bytes or others of the code follow.
                let first = unsafe { *(patch.target as *const [u8; PATCH]) };
                if let Some(at) = before.iter().position(|(target, _)| *target == patch.target) {
                    // A library that was unloaded has come back to the same place. Undone is what is not there any more:
                    // right only if the code is what it was then.
                    if before.swap_remove(at).1 != first {
                        return Err("another function was replaced at this address".to_owned());
                    }
                    interceptor.revert(NativePointer(patch.target as *mut c_void));
                }
                // The engine follows it, and two functions that share a body would get each other's replacement.
                if begins_with_jump(&first) {
                    return Err("it begins with a jump".to_owned());
                }
                protect(patch.target, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC)?;
                Ok(first)
            })
            .collect();
        // Within a transaction nothing is switched over before its end, when every trampoline is published.
        interceptor.begin_transaction();
        let results: Vec<_> = patches
            .iter()
            .zip(&prepared)
            .map(|(patch, prepared)| {
                let first = prepared.as_ref().map_err(Clone::clone)?;
                // Not `replace`: it rewrites the return address, and the caller of dlsym would be nobody.
                let original = interceptor
                    .replace_fast(
                        NativePointer(patch.target as *mut c_void),
                        NativePointer(patch.detour as *mut c_void),
                    )
                    .map_err(|error| error.to_string())?;
                before.push((patch.target, *first));
                (patch.publish)(original.0 as usize);
                Ok(())
            })
            .collect();
        interceptor.end_transaction();
        for (patch, _) in patches.iter().zip(&prepared).filter(|(_, prepared)| prepared.is_ok()) {
            // It was granted a moment ago; the engine leaves the pages writable.
            let _ = protect(patch.target, libc::PROT_READ | libc::PROT_EXEC);
        }
        results
    }
}

/// Protects the pages of what is patched in a function.
fn protect(target: usize, rights: i32) -> Result<(), String> {
    let (page, last) = (page_size(), target + PATCH - 1);
    let start = target & !(page - 1);
    let bytes = (last & !(page - 1)) + page - start;
    // SAFETY: code, which stays readable and executable.
    match unsafe { libc::mprotect(start as *mut c_void, bytes, rights) } {
        0 => Ok(()),
        _ => Err(format!("its pages cannot be made writable: {}", std::io::Error::last_os_error())),
    }
}

/// Whether memory can be writable and executable, which the engine takes for granted.
fn memory_may_be_code() -> Result<(), String> {
    let (page, rights) = (page_size(), libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC);
    // SAFETY: new pages, which nobody else knows.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), page, rights, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        if at == libc::MAP_FAILED {
            return Err(format!("no memory for code: {}", std::io::Error::last_os_error()));
        }
        libc::munmap(at, page);
    }
    Ok(())
}

/// Whether code begins with a jump, after the mark of where jumps may lead.
#[cfg(target_arch = "x86_64")]
fn begins_with_jump(code: &[u8; PATCH]) -> bool {
    let code = code.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(code);
    matches!(code, [0xe9 | 0xeb, ..] | [0xff, 0x25, ..])
}

/// Whether code begins with a jump, after the mark of where jumps may lead.
#[cfg(target_arch = "aarch64")]
fn begins_with_jump(code: &[u8; PATCH]) -> bool {
    let word = |at: usize| u32::from_le_bytes([code[at], code[at + 1], code[at + 2], code[at + 3]]);
    let first = if word(0) & 0xffff_ff3f == 0xd503_241f { word(4) } else { word(0) };
    first & 0xfc00_0000 == 0x1400_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn jumps_are_known_behind_their_landing_mark() {
        let code = |start: &[u8]| {
            let mut code = [0x90; PATCH];
            code[..start.len()].copy_from_slice(start);
            code
        };
        for jump in [&[0xe9, 1, 2, 3, 4][..], &[0xeb, 1], &[0xff, 0x25, 1, 2, 3, 4], &[0xf3, 0x0f, 0x1e, 0xfa, 0xe9]] {
            assert!(begins_with_jump(&code(jump)), "{jump:x?}");
        }
        for other in [&[0x55][..], &[0xf3, 0x0f, 0x1e, 0xfa, 0x55], &[0xff, 0x35]] {
            assert!(!begins_with_jump(&code(other)), "{other:x?}");
        }
    }
}
