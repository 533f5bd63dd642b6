//! Large weights get addresses that are, modulo a page, the offsets that they have in their file: the file's pages can
//! then be mapped where the weights belong.
//!
//! ```text
//!   ggml asks                                answer                     because
//!   buft_get_alloc_size(tensor)              its bytes + a page         the file has a tensor of this name and size
//!   buffer_get_alloc_size(tensor)            the same                   so it was answered before
//!   tensor_alloc(tensor, address)            passes on address + shift  the page before said that there is room
//!     └ get_alloc_size(tensor), inside         its bytes                the shifted tensor ends where it may
//! ```
//!
//! What is answered once is answered again: a tensor that was given less than was counted for it would end the program.
//! And only what was answered right before to this thread is made use of, so that a ggml some of whose calls are not seen
//! gets nothing shifted.

use super::accessors::{Buffer, Tensor};
use super::answers::Answer;
use super::look::{is_allocating_tensor, look};
use crate::runtime::{RUNTIME, core};
use greenboost_intercept::inject::page_size;
use greenboost_weights::files::LEAST_IN_FILE;
use std::cell::Cell;
use std::ffi::c_void;

/// What ggml's kernels need, and GGUF files have.
const ALIGNMENT: u64 = 32;

thread_local! {
    /// Whether this thread is inside one of the two questions: one asks the other.
    static ASKED: Cell<bool> = const { Cell::new(false) };
    /// The tensor that this thread has just been told a page more for, and the remainder that it is to have.
    static GRANTED: Cell<Option<(usize, u64)>> = const { Cell::new(None) };
}

type Size = unsafe extern "C" fn(*mut c_void, Tensor) -> usize;

/// Bytes of a page.
fn page() -> u64 {
    page_size() as u64
}

/// Asks the original, and adds a page where `more` says so. Questions inside questions, and those of ggml's own check of
/// an address, get the original's answer.
///
/// # Safety
/// ggml's own arguments.
unsafe fn answer(original: Size, of: *mut c_void, tensor: Tensor, more: impl FnOnce() -> bool) -> usize {
    let is_inner = is_allocating_tensor() || ASKED.replace(true);
    // SAFETY: the program's own call.
    let bytes = unsafe { original(of, tensor) };
    if is_inner {
        return bytes;
    }
    ASKED.set(false);
    let mut is_more = false;
    look(|| is_more = more());
    bytes + if is_more { page_size() } else { 0 }
}

/// `ggml_backend_buft_get_alloc_size(kind of buffer, tensor)`: what to count for a tensor before there is a buffer.
///
/// # Safety
/// Called by ggml with its own arguments.
pub unsafe fn kind_alloc_size(original: Size, kind: *mut c_void, tensor: Tensor) -> usize {
    // SAFETY: ggml's own arguments; it passes a live tensor.
    unsafe { answer(original, kind, tensor, || decide(tensor)) }
}

/// `ggml_backend_buffer_get_alloc_size(buffer, tensor)`: what a tensor takes in a buffer.
///
/// # Safety
/// Called by ggml with its own arguments.
pub unsafe fn buffer_alloc_size(original: Size, buffer: Buffer, tensor: Tensor) -> usize {
    GRANTED.set(None);
    // SAFETY: ggml's own arguments; it passes a live tensor.
    unsafe { answer(original, buffer, tensor, || grant(tensor)) }
}

/// A tensor's name and size, if it is large.
///
/// # Safety
/// A live tensor.
unsafe fn large(tensor: Tensor) -> Option<(String, u64)> {
    let accessors = RUNTIME.ggml.accessors()?;
    // SAFETY: the caller's promise.
    let bytes = unsafe { accessors.bytes(tensor) };
    // SAFETY: as above.
    (bytes >= LEAST_IN_FILE).then(|| (unsafe { accessors.name(tensor) }, bytes))
}

/// Whether a tensor gets a page more; from now on it does, or does not.
///
/// # Safety
/// A live tensor.
unsafe fn decide(tensor: Tensor) -> bool {
    // SAFETY: the caller's promise.
    let Some((name, bytes)) = (unsafe { large(tensor) }) else { return false };
    // ggml asks for what it computes as well, again and again: only weights have such names.
    let place = match name.ends_with(".weight") && RUNTIME.ggml.explains() {
        true => RUNTIME.files.place(&name, bytes),
        false => None,
    };
    let remainder = place.map(|place| place.offset % page()).filter(|remainder| remainder % ALIGNMENT == 0);
    let mut answers = RUNTIME.ggml.answers().lock();
    match remainder {
        Some(remainder) => answers.insert(tensor as usize, Answer { name, bytes, remainder, is_new: true }),
        None => answers.remove(&(tensor as usize)),
    };
    remainder.is_some()
}

/// Whether a tensor was answered a page more.
///
/// # Safety
/// A live tensor.
unsafe fn grant(tensor: Tensor) -> bool {
    // SAFETY: the caller's promise.
    let Some((name, bytes)) = (unsafe { large(tensor) }) else { return false };
    let answers = RUNTIME.ggml.answers().lock();
    let answer = answers.get(&(tensor as usize));
    let answer = answer.filter(|answer| answer.name == name && answer.bytes == bytes);
    GRANTED.set(answer.map(|answer| (tensor as usize, answer.remainder)));
    answer.is_some()
}

/// The address for a tensor that ggml has chosen `address` for: less than a page further on, if there is room, and if the
/// memory is ours and not materialised yet.
pub fn shifted(tensor: Tensor, address: u64) -> u64 {
    let Some((_, remainder)) = GRANTED.take().filter(|(granted, _)| *granted == tensor as usize) else {
        return address;
    };
    let shift = remainder.wrapping_sub(address) % page();
    let is_ours = || core().is_ok_and(|core| core.memory.is_deferred(address));
    if shift.is_multiple_of(ALIGNMENT) && is_ours() { address + shift } else { address }
}
