//! One detour per symbol of the table: counts, guards, asks the handler, else calls the original.

use crate::handlers;
use greenboost_cuda::abi::*;
use greenboost_intercept::slot::{COUNT, Function, Replacements};
use greenboost_intercept::{functions, guard};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::atomic::Ordering::Relaxed;

/// Our own exports, where this library has any.
#[cfg(all(feature = "preload", not(test)))]
const EXPORTS: Option<&[unsafe extern "C" fn(); COUNT]> = Some(&crate::exports::EXPORTS);
#[cfg(not(all(feature = "preload", not(test))))]
const EXPORTS: Option<&[unsafe extern "C" fn(); COUNT]> = None;

macro_rules! detours {
    ($($library:ident $module:ident :: $handler:ident [$($symbol:ident @ $since:literal),+ $(,)?] $args:tt;)+) => {
        $($( detours!(@one $symbol $module $handler $args); )+)+

        /// What the layers lead calls to.
        pub static REPLACEMENTS: Replacements =
            Replacements { detours: [$($($symbol as *const c_void),+),+], exports: EXPORTS };
    };
    (@one $symbol:ident $module:ident $handler:ident ($($arg:ident: $type:ty),* $(,)?)) => {
        #[doc = concat!("Replaces `", stringify!($symbol), "`.")]
        ///
        /// # Safety
        /// As the driver's function of that name: the hook is called with whatever the program passes it.
        #[allow(non_snake_case, clippy::too_many_arguments)]
        pub unsafe extern "C" fn $symbol($($arg: $type),*) -> Status {
            let slot = Function::$symbol.slot();
            let original = slot.original();
            if original.is_null() {
                return slot.library.absent();
            }
            // SAFETY: the address is the driver's function of this symbol, whose ABI the table states.
            let original: unsafe extern "C" fn($($type),*) -> Status = unsafe { std::mem::transmute(original) };
            slot.calls.fetch_add(1, Relaxed);
            // SAFETY: arguments are passed on as they came; handlers treat them as the driver would.
            match guard::enter(|| unsafe { handlers::$module::$handler(original, $($arg),*) }) {
                Some(status) => status,
                // SAFETY: the call the program made, unchanged.
                None => unsafe { original($($arg),*) },
            }
        }
    };
}
functions!(detours);
