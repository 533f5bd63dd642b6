//! The preload layer: every intercepted name, exported.
//!
//! An export is one jump through a table. Its entry is empty until the first call has asked where to go: to the
//! detour while the layer is on, and this is remembered; else to the original as it is at the time, with nothing
//! between it and its caller. So a process that is not ours pays for a look-up and nothing else.

use crate::{activate, detours};
use greenboost_cuda::abi::Status;
use greenboost_intercept::inject::shim::Decision;
use greenboost_intercept::inject::shims::SHIMS;
use greenboost_intercept::inject::{EXPORT, is_on, lookup, open};
use greenboost_intercept::real;
use greenboost_intercept::slot::{self, DRIVER, Function, Library, Replacements};
use greenboost_intercept::{functions, shim};
use std::arch::naked_asm;
use std::ffi::c_void;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};

static TARGETS: [AtomicUsize; DRIVER] = [const { AtomicUsize::new(0) }; DRIVER];

/// What the layers lead calls to.
static REPLACEMENTS: Replacements = Replacements { detours: detours::DETOURS, shims: &SHIMS, exports: Some(&EXPORTS) };

/// Sees to it that it is decided whether this process is ours.
#[inline]
fn ready() {
    slot::set_replacements(&REPLACEMENTS);
    activate::ensure();
}

#[ctor::ctor(unsafe)]
fn constructor() {
    ready();
}

/// Where an export leads now.
extern "C" fn settle(index: usize) -> usize {
    let Some(slot) = slot::driver().get(index) else { return absent_cuda as *const () as usize };
    let target = catch_unwind(|| {
        ready();
        if is_on(EXPORT) {
            let detour = slot.detour() as usize;
            TARGETS[index].store(detour, Ordering::Release);
            return detour;
        }
        // The function itself and not the way around its patch: another layer may have patched its body.
        let original = real::original_of(slot) as usize;
        if slot.is_interposed() || slot.real() == 0 { original } else { slot.real() }
    });
    match (target, slot.library) {
        (Ok(target), _) if target != 0 => target,
        (_, Library::Nvml) => absent_nvml as *const () as usize,
        _ => absent_cuda as *const () as usize,
    }
}

/// What a call comes to when there is no driver.
extern "C" fn absent_cuda() -> Status {
    Library::Cuda.absent()
}

extern "C" fn absent_nvml() -> Status {
    Library::Nvml.absent()
}

/// Asks [`settle`] for the target of the export in `eax`, and jumps there with all arguments as they came.
/// CUDA and NVML functions take no floating-point arguments.
#[unsafe(naked)]
#[cfg(target_arch = "x86_64")]
unsafe extern "C" fn first_call() {
    naked_asm!(
        ".cfi_startproc",
        "push rdi", ".cfi_adjust_cfa_offset 8",
        "push rsi", ".cfi_adjust_cfa_offset 8",
        "push rdx", ".cfi_adjust_cfa_offset 8",
        "push rcx", ".cfi_adjust_cfa_offset 8",
        "push r8", ".cfi_adjust_cfa_offset 8",
        "push r9", ".cfi_adjust_cfa_offset 8",
        "sub rsp, 8", ".cfi_adjust_cfa_offset 8",
        "mov edi, eax",
        "call {settle}",
        "add rsp, 8", ".cfi_adjust_cfa_offset -8",
        "pop r9", ".cfi_adjust_cfa_offset -8",
        "pop r8", ".cfi_adjust_cfa_offset -8",
        "pop rcx", ".cfi_adjust_cfa_offset -8",
        "pop rdx", ".cfi_adjust_cfa_offset -8",
        "pop rsi", ".cfi_adjust_cfa_offset -8",
        "pop rdi", ".cfi_adjust_cfa_offset -8",
        "jmp rax",
        ".cfi_endproc",
        settle = sym settle,
    )
}

/// Asks [`settle`] for the target of the export in `w16`, and jumps there with all arguments as they came.
#[unsafe(naked)]
#[cfg(target_arch = "aarch64")]
unsafe extern "C" fn first_call() {
    naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-80]!",
        ".cfi_def_cfa_offset 80", ".cfi_offset x29, -80", ".cfi_offset x30, -72",
        "mov x29, sp",
        "stp x0, x1, [sp, #16]",
        "stp x2, x3, [sp, #32]",
        "stp x4, x5, [sp, #48]",
        "stp x6, x7, [sp, #64]",
        "mov w0, w16",
        "bl {settle}",
        "mov x16, x0",
        "ldp x0, x1, [sp, #16]",
        "ldp x2, x3, [sp, #32]",
        "ldp x4, x5, [sp, #48]",
        "ldp x6, x7, [sp, #64]",
        "ldp x29, x30, [sp], #80",
        ".cfi_def_cfa_offset 0", ".cfi_restore x29", ".cfi_restore x30",
        "br x16",
        ".cfi_endproc",
        settle = sym settle,
    )
}

macro_rules! exports {
    (
        driver { $($library:ident $module:ident :: $handler:ident [$($symbol:ident @ $since:literal),+ $(,)?] $args:tt;)+ }
        $($others:tt)*
    ) => {
        $($( exports!(@one $symbol); )+)+

        /// The exports, in the order of the table.
        pub static EXPORTS: [unsafe extern "C" fn(); DRIVER] = [$($($symbol),+),+];
    };
    (@one $symbol:ident) => {
        #[doc = concat!("Interposes `", stringify!($symbol), "`.")]
        ///
        /// # Safety
        /// As the driver's function.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        #[cfg(target_arch = "x86_64")]
        pub unsafe extern "C" fn $symbol() {
            naked_asm!(
                "endbr64",
                "mov rax, [rip + {targets} + {offset}]",
                "test rax, rax",
                "jz 2f",
                "jmp rax",
                "2: mov eax, {index}",
                "jmp {first_call}",
                targets = sym TARGETS,
                offset = const Function::$symbol as usize * 8,
                index = const Function::$symbol as usize,
                first_call = sym first_call,
            )
        }

        #[doc = concat!("Interposes `", stringify!($symbol), "`.")]
        ///
        /// # Safety
        /// As the driver's function.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        #[cfg(target_arch = "aarch64")]
        pub unsafe extern "C" fn $symbol() {
            naked_asm!(
                "hint #34", // bti c
                "adrp x16, {targets}",
                "add x16, x16, :lo12:{targets}",
                "ldr x16, [x16, #{offset}]",
                "cbz x16, 2f",
                "br x16",
                "2: mov w16, {index}",
                "b {first_call}",
                targets = sym TARGETS,
                offset = const Function::$symbol as usize * 8,
                index = const Function::$symbol as usize,
                first_call = sym first_call,
            )
        }
    };
}
functions!(exports);

/// The loader's functions. A module of its own: `shim!` gives each its plain name.
mod loader {
    use super::*;
    use std::ffi::{c_char, c_int};

    macro_rules! loader {
        (
            driver $driver:tt
            $(called $section:ident of $owner:ident $called:tt)+
            loader { $($part:ident :: $decide:ident [$symbol:ident @ $since:literal] $args:tt if $when:expr;)+ }
        ) => {
            $(
                shim!(
                    #[doc = concat!("Interposes `", stringify!($symbol), "`.")]
                    #[unsafe(no_mangle)]
                    $symbol,
                    $decide,
                    EXPORT
                );
                loader!(@one $part $decide $args $when);
            )+
        };
        (@one $part:ident $decide:ident ($($arg:ident: $type:ty),*) $when:expr) => {
            /// Another library's constructor may ask before ours has decided whether this process is ours.
            unsafe extern "C" fn $decide($($arg: $type),*, caller: usize, via: u32) -> Decision {
                // SAFETY: the program's own arguments.
                #[allow(unused_unsafe)]
                unsafe {
                    if $when {
                        ready();
                    }
                    $part::$decide($($arg),*, caller, via)
                }
            }
        };
    }
    functions!(loader);
}
