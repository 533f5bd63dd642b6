//! The replacements of ggml's functions: they look, then call the original.

use super::accessors::{self, Buffer, Tensor};
use super::{Hook, original, registry};
use crate::slot::Library;
use crate::{guard, memory, real};
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// `GGML_BACKEND_BUFFER_USAGE_WEIGHTS`.
const USAGE_WEIGHTS: c_int = 1;

thread_local! {
    static ALLOCATING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside `ggml_backend_tensor_alloc`.
pub fn is_allocating_tensor() -> bool {
    ALLOCATING.get()
}

/// Looks without ever disturbing the program.
fn look(work: impl FnOnce()) {
    if guard::is_active() {
        // A panic has been logged by the hook of `activate`; the program goes on either way.
        let _ = catch_unwind(AssertUnwindSafe(work));
    }
}

/// `ggml_backend_tensor_alloc(buffer, tensor, address)`. Older versions return nothing; what is in the register
/// then is passed on unseen.
///
/// # Safety
/// Called by ggml with its own arguments.
pub unsafe extern "C" fn tensor_alloc(buffer: Buffer, tensor: Tensor, address: *mut c_void) -> c_int {
    type Alloc = unsafe extern "C" fn(Buffer, Tensor, *mut c_void) -> c_int;
    // SAFETY: the function that this call was meant for.
    let original: Alloc = unsafe { std::mem::transmute::<usize, Alloc>(original(Hook::TensorAlloc)) };
    look(|| {
        if let Some(accessors) = accessors::get() {
            // SAFETY: ggml passes a live tensor.
            let (name, bytes) = unsafe { (accessors.name(tensor), accessors.bytes(tensor)) };
            registry::note(address as u64, bytes, name);
        }
    });
    let before = ALLOCATING.replace(true);
    // SAFETY: the program's own call.
    let status = unsafe { original(buffer, tensor, address) };
    ALLOCATING.set(before);
    status
}

/// `ggml_backend_buffer_set_usage(buffer, usage)`.
///
/// # Safety
/// Called by llama.cpp with its own arguments.
pub unsafe extern "C" fn buffer_set_usage(buffer: Buffer, usage: c_int) {
    type SetUsage = unsafe extern "C" fn(Buffer, c_int);
    // SAFETY: the function that this call was meant for.
    let original: SetUsage = unsafe { std::mem::transmute::<usize, SetUsage>(original(Hook::SetUsage)) };
    // SAFETY: the program's own call.
    unsafe { original(buffer, usage) };
    look(|| {
        let Some(accessors) = accessors::get() else { return };
        // SAFETY: llama.cpp passes a live buffer.
        let (base, bytes) = unsafe { accessors.range(buffer) };
        let weights = (usage == USAGE_WEIGHTS).then(|| registry::mark_weights(base, bytes));
        // Asked for before there is a driver, our memory would be off for good; models for the CPU come that early.
        if !real::attach(Library::Cuda) {
            return;
        }
        let Ok(memory) = memory::get() else { return };
        match weights {
            Some(known) => {
                memory.note_tensors(known);
                memory.settle_weights(base, bytes);
                // They may have been settled before, or lie where the driver put them.
                memory.homes_changed();
            }
            None => memory.settle(base),
        }
    });
}
