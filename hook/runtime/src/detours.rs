//! One detour per symbol of the table. Of the driver's: counts, guards, asks the handler, else calls the original. Of what
//! other libraries are called for: counts, and leaves the call to the handler.

use crate::ggml::{congruent, detours as tensors};
use crate::{follow, handlers};
use greenboost_cuda::abi::*;
use greenboost_intercept::slot::{COUNT, Function};
use greenboost_intercept::{functions, guard, real};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr::null;
use std::sync::atomic::Ordering::Relaxed;

macro_rules! detours {
    (
        driver { $($library:ident $module:ident :: $handler:ident [$($symbol:ident @ $since:literal),+ $(,)?] $args:tt;)+ }
        $(called $section:ident of $owner:ident {
            $($area:ident :: $called:ident [$name:ident @ $from:literal] $called_args:tt $(-> $result:ty)?;)+
        })+
        loader { $($part:ident :: $decide:ident [$loader:ident @ $glibc:literal] $loader_args:tt if $when:expr;)+ }
    ) => {
        $($( detours!(@driver $symbol $module $handler $args); )+)+
        $($( detours!(@called $name $area $called $called_args $(-> $result)?); )+)+

        /// What the layers lead calls to; the shims of the loader's functions belong to the layers.
        pub const DETOURS: [*const c_void; COUNT] = [
            $($($symbol as *const c_void),+,)+
            $($($name as *const c_void,)+)+
            $(detours!(@none $loader)),+
        ];
    };
    (@none $loader:ident) => { null() };
    (@driver $symbol:ident $module:ident $handler:ident ($($arg:ident: $type:ty),* $(,)?)) => {
        #[doc = concat!("Replaces `", stringify!($symbol), "`.")]
        ///
        /// # Safety
        /// As the driver's function of that name: the hook is called with whatever the program passes it.
        #[allow(non_snake_case, clippy::too_many_arguments)]
        pub unsafe extern "C" fn $symbol($($arg: $type),*) -> Status {
            let slot = Function::$symbol.slot();
            let original = real::original_of(slot);
            if original.is_null() {
                return slot.library.absent();
            }
            // SAFETY: the address is the driver's function of this symbol, whose ABI the table states.
            let original: unsafe extern "C" fn($($type),*) -> Status = unsafe { std::mem::transmute(original) };
            slot.calls.fetch_add(1, Relaxed);
            // SAFETY: arguments are passed on as they came; handlers treat them as the driver would.
            match guard::enter(|| unsafe { handlers::$module::$handler(original, $($arg),*) }) {
                Some(status) => status,
                None => {
                    // SAFETY: the call the program made, unchanged.
                    let status = unsafe { original($($arg),*) };
                    guard::called_original();
                    status
                }
            }
        }
    };
    (@called $symbol:ident $module:ident $handler:ident ($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)?) => {
        #[doc = concat!("Replaces `", stringify!($symbol), "`.")]
        ///
        /// # Safety
        /// As the function of that name.
        #[allow(non_snake_case)]
        unsafe extern "C" fn $symbol($($arg: $type),*) $(-> $result)? {
            let slot = Function::$symbol.slot();
            let original = slot.original();
            // SAFETY: the function that this call was meant for, whose ABI the table states. It was found before any call
            // could be led here.
            let original: unsafe extern "C" fn($($type),*) $(-> $result)? = unsafe { std::mem::transmute(original) };
            slot.calls.fetch_add(1, Relaxed);
            // SAFETY: arguments are passed on as they came.
            unsafe { $module::$handler(original, $($arg),*) }
        }
    };
}
functions!(detours);
