//! Entry shims of the intercepted loader functions.
//!
//! `dlsym` and `dlopen` look at their return address to find out who asks. A replacement that called them would
//! make every question look like ours. These shims therefore only *ask* what to do, with all argument registers
//! put aside, and then either return the answer or jump on to the original with the stack as they found it.

/// What a shim does: `target` 0 returns `value`, else jumps to `target`. In two registers on both ABIs.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Decision {
    /// The result, when there is no target.
    pub value: usize,
    /// Where to go on.
    pub target: usize,
}

impl Decision {
    /// Goes on to the original.
    #[inline]
    pub fn pass(target: usize) -> Self {
        // Without an original, which no glibc lacks, the answer is "nothing found".
        Self { value: 0, target }
    }

    /// Returns a result.
    #[inline]
    pub fn answer(value: usize) -> Self {
        Self { value, target: 0 }
    }
}

/// Makes a shim: the function's first three arguments, the return address and a number that says through
/// which layer the call came go to `$decide(arg0, arg1, arg2, caller, via) -> Decision`.
#[macro_export]
macro_rules! shim {
    ($(#[$attribute:meta])* $name:ident, $decide:path, $via:expr) => {
        $(#[$attribute])*
        ///
        /// # Safety
        /// Reached only by calls and jumps meant for the loader's function, with its arguments.
        #[unsafe(naked)]
        #[cfg(target_arch = "x86_64")]
        pub unsafe extern "C" fn $name() {
            std::arch::naked_asm!(
                ".cfi_startproc",
                "endbr64",
                "push rdi", ".cfi_adjust_cfa_offset 8",
                "push rsi", ".cfi_adjust_cfa_offset 8",
                "push rdx", ".cfi_adjust_cfa_offset 8",
                "mov rcx, [rsp + 24]",
                "mov r8d, {via}",
                "call {decide}",
                "mov r11, rdx",
                "pop rdx", ".cfi_adjust_cfa_offset -8",
                "pop rsi", ".cfi_adjust_cfa_offset -8",
                "pop rdi", ".cfi_adjust_cfa_offset -8",
                "test r11, r11",
                "jz 2f",
                "jmp r11",
                "2: ret",
                ".cfi_endproc",
                via = const $via,
                decide = sym $decide,
            )
        }

        $(#[$attribute])*
        ///
        /// # Safety
        /// Reached only by calls and jumps meant for the loader's function, with its arguments.
        #[unsafe(naked)]
        #[cfg(target_arch = "aarch64")]
        pub unsafe extern "C" fn $name() {
            std::arch::naked_asm!(
                ".cfi_startproc",
                "hint #34", // bti c
                "stp x29, x30, [sp, #-48]!",
                ".cfi_def_cfa_offset 48", ".cfi_offset x29, -48", ".cfi_offset x30, -40",
                "mov x29, sp",
                "stp x0, x1, [sp, #16]",
                "str x2, [sp, #32]",
                "mov x3, x30",
                "mov w4, {via}",
                "bl {decide}",
                "mov x17, x0",
                "mov x16, x1",
                "ldp x0, x1, [sp, #16]",
                "ldr x2, [sp, #32]",
                "ldp x29, x30, [sp], #48",
                ".cfi_def_cfa_offset 0", ".cfi_restore x29", ".cfi_restore x30",
                "cbz x16, 2f",
                "br x16",
                "2: mov x0, x17",
                "ret",
                ".cfi_endproc",
                via = const $via,
                decide = sym $decide,
            )
        }
    };
}
