//! A tensor's type. ggml exports no function that tells it, and a tensor is not looked into; but the size of an element
//! is asked of `ggml_type_size`, through the PLT, with the type as its argument. So that call is listened to while we ask.
//!
//! ggml calls the function for its own ends as well, a few times for every node of a graph: unless somebody asks, the
//! replacement is one look at a flag.

use super::accessors::{Accessors, Tensor};
use super::{Hook, original};
use std::cell::Cell;
use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Types that can be told; ggml has 43 today.
const TYPES: usize = 128;

/// Their names, as they are met: tensors of a type share its name.
static NAMES: [OnceLock<Option<String>>; TYPES] = [const { OnceLock::new() }; TYPES];

/// Threads that ask.
static ASKING: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// What this thread has heard last.
    static HEARD: Cell<Option<c_int>> = const { Cell::new(None) };
}

/// ggml's name of a tensor's type: `q4_K`. `None` where this ggml cannot be listened to.
///
/// # Safety
/// A live tensor.
pub unsafe fn of(accessors: &Accessors, tensor: Tensor) -> Option<&'static str> {
    if original(Hook::TypeSize) == 0 {
        return None;
    }
    HEARD.set(None);
    // Relaxed, here and below: what this thread has written it also reads.
    ASKING.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the caller's promise.
    unsafe { accessors.ask_type_size(tensor) };
    ASKING.fetch_sub(1, Ordering::Relaxed);
    let number = HEARD.take()?;
    let name = NAMES.get(usize::try_from(number).ok()?)?;
    // SAFETY: ggml has just used it.
    name.get_or_init(|| unsafe { accessors.type_name(number) }).as_deref()
}

/// `ggml_type_size(type)`.
///
/// # Safety
/// Called by ggml with its own arguments.
pub unsafe extern "C" fn type_size(number: c_int) -> usize {
    type Size = unsafe extern "C" fn(c_int) -> usize;
    if ASKING.load(Ordering::Relaxed) != 0 {
        HEARD.set(Some(number));
    }
    // SAFETY: the function that this call was meant for, with the program's own arguments.
    unsafe { std::mem::transmute::<usize, Size>(original(Hook::TypeSize))(number) }
}
