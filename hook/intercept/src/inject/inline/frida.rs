//! The engine on frida-gum.

use super::engine::{InlineEngine, Patch};
use frida_gum::interceptor::Interceptor;
use frida_gum::{Gum, NativePointer};
use std::ffi::c_void;
use std::sync::OnceLock;

/// See the module.
pub struct FridaEngine;

impl InlineEngine for FridaEngine {
    fn name(&self) -> &'static str {
        "frida-gum"
    }

    unsafe fn replace(&self, patches: &[Patch<'_>]) -> Vec<Result<(), String>> {
        static GUM: OnceLock<Gum> = OnceLock::new();
        let mut interceptor = Interceptor::obtain(GUM.get_or_init(Gum::obtain));
        // Within a transaction nothing is switched over before its end, when every trampoline is published.
        interceptor.begin_transaction();
        let results = patches
            .iter()
            .map(|patch| {
                // Not `replace`: it rewrites the return address, and the caller of dlsym would be nobody.
                let original = interceptor
                    .replace_fast(
                        NativePointer(patch.target as *mut c_void),
                        NativePointer(patch.detour as *mut c_void),
                    )
                    .map_err(|error| error.to_string())?;
                (patch.publish)(original.0 as usize);
                Ok(())
            })
            .collect();
        interceptor.end_transaction();
        results
    }
}
