//! The replacements of ggml's functions: they look, then call the original.

use super::accessors::{Buffer, Tensor};
use super::congruent;
use super::listener::is_caught;
use super::look::{allocating, look};
use crate::runtime::{RUNTIME, core, core_if_made};
use greenboost_intercept::real;
use greenboost_intercept::slot::{Function, Library};
use greenboost_stream::Writing;
use greenboost_weights::registry::{Source, Use};
use std::ffi::{c_int, c_void};

/// `GGML_BACKEND_BUFFER_USAGE_WEIGHTS`.
const USAGE_WEIGHTS: c_int = 1;
/// `GGML_BACKEND_BUFFER_USAGE_COMPUTE`.
const USAGE_COMPUTE: c_int = 2;

type Alloc = unsafe extern "C" fn(Buffer, Tensor, *mut c_void) -> c_int;
type SetUsage = unsafe extern "C" fn(Buffer, c_int);
type Set = unsafe extern "C" fn(Tensor, *const c_void, usize, usize);
type SetAsync = unsafe extern "C" fn(*mut c_void, Tensor, *const c_void, usize, usize);
type FreeBuffer = unsafe extern "C" fn(Buffer);

/// `ggml_backend_tensor_alloc(buffer, tensor, address)`. Older versions return nothing; what is in the register
/// then is passed on unseen.
///
/// # Safety
/// Called by ggml with its own arguments.
pub unsafe fn alloc(original: Alloc, buffer: Buffer, tensor: Tensor, address: *mut c_void) -> c_int {
    let mut address = address;
    look(|| address = congruent::shifted(tensor, address as u64) as *mut c_void);
    look(|| {
        let is_for = RUNTIME.tensors.use_of(buffer as usize);
        if let Some(accessors) = RUNTIME.ggml.accessors().filter(|_| is_for != Some(Use::Computing)) {
            // SAFETY: ggml passes a live tensor.
            let (name, bytes) = unsafe { (accessors.name(tensor), accessors.bytes(tensor)) };
            let are_experts = name.contains("_exps");
            RUNTIME.tensors.note(address as u64, bytes, name);
            if are_experts {
                // SAFETY: as above.
                unsafe { accessors.rows(tensor) }
                    .into_iter()
                    .for_each(|it| RUNTIME.tensors.note_rows(address as u64, it));
            }
            // Tensors that stay in the mapped file are put there after their buffer was said to hold weights.
            if is_for == Some(Use::Weights) {
                // SAFETY: ggml passes a live buffer.
                RUNTIME.tensors.mark_weights(address as u64, bytes, unsafe { accessors.buffer_name(buffer) });
                note_mapped(address as u64, bytes);
            }
        }
    });
    // SAFETY: the program's own call.
    allocating(|| unsafe { original(buffer, tensor, address) })
}

/// `ggml_backend_buffer_set_usage(buffer, usage)`.
///
/// # Safety
/// Called by llama.cpp with its own arguments.
pub unsafe fn set_usage(original: SetUsage, buffer: Buffer, usage: c_int) {
    // SAFETY: the program's own call.
    unsafe { original(buffer, usage) };
    look(|| {
        let Some(accessors) = RUNTIME.ggml.accessors() else { return };
        // SAFETY: llama.cpp passes a live buffer.
        let (base, bytes) = unsafe { accessors.range(buffer) };
        RUNTIME.tensors.take_buffer(buffer as usize);
        let is_for = match usage {
            USAGE_WEIGHTS => Some(Use::Weights),
            USAGE_COMPUTE => Some(Use::Computing),
            _ => None,
        };
        // A handle means something until the buffer goes; that must be seen.
        if let Some(is_for) = is_for
            && is_caught(Function::ggml_backend_buffer_free)
        {
            RUNTIME.tensors.note_buffer(buffer as usize, base, bytes, is_for);
        }
        let weights = (is_for == Some(Use::Weights)).then(|| {
            // SAFETY: the same buffer.
            RUNTIME.tensors.mark_weights(base, bytes, unsafe { accessors.buffer_name(buffer) })
        });
        // Asked for before there is a driver, our memory would be off for good; models for the CPU come that early.
        if !real::attach(Library::Cuda) {
            return;
        }
        let Ok(core) = core() else { return };
        match weights {
            Some(known) => {
                core.note_tensors(known);
                core.materialise_weights(base, bytes);
                // They may have been placed before, or lie where the driver put them.
                core.residency_changed();
            }
            None => core.materialise(base),
        }
    });
}

/// A weight that the CPU reads in the mapped file itself is not uploaded: it is there.
fn note_mapped(at: u64, bytes: u64) {
    if let Some((file, offset, length)) = RUNTIME.files.behind(at)
        && bytes <= length
    {
        RUNTIME.tensors.note_upload(at, bytes, Some(Source { file, offset }));
    }
}

/// An upload, before it happens: the tensor's address and, if it is the first, where its bytes come from.
///
/// # Safety
/// ggml's own arguments.
unsafe fn arriving(tensor: Tensor, data: *const c_void, offset: usize, bytes: usize) -> Option<(u64, Option<Source>)> {
    // SAFETY: ggml passes a live tensor.
    let at = unsafe { RUNTIME.ggml.accessors()?.data(tensor) }?;
    let source = RUNTIME.tensors.is_awaited(at).then(|| RUNTIME.files.behind(data as u64)).flatten();
    let source = source.filter(|(_, _, length)| bytes as u64 <= *length);
    let source = source.and_then(|(file, from, _)| Some(Source { file, offset: from.checked_sub(offset as u64)? }));
    Some((at, source))
}

/// While it lives, what was copied ahead of a range is given up: a tensor in RAM is written by the CPU, which no call of
/// the driver shows.
fn rewriting(at: u64, bytes: u64) -> Option<Writing<'static>> {
    let core = core_if_made().filter(|core| core.streaming.is_on())?;
    Some(core.streaming.writing([(at, bytes)]))
}

/// `ggml_backend_tensor_set(tensor, data, offset, bytes)`.
///
/// # Safety
/// Called by llama.cpp with its own arguments.
pub unsafe fn set(original: Set, tensor: Tensor, data: *const c_void, offset: usize, bytes: usize) {
    let (mut upload, mut writing) = (None, None);
    look(|| {
        // SAFETY: the program's own arguments.
        upload = unsafe { arriving(tensor, data, offset, bytes) };
        writing = upload.as_ref().and_then(|(at, _)| rewriting(at + offset as u64, bytes as u64));
    });
    // SAFETY: the program's own call.
    unsafe { original(tensor, data, offset, bytes) };
    look(|| drop(writing.take()));
    if let Some((at, source)) = upload {
        look(|| RUNTIME.tensors.note_upload(at, bytes as u64, source));
    }
}

/// `ggml_backend_tensor_set_async(backend, tensor, data, offset, bytes)`.
///
/// # Safety
/// Called by llama.cpp with its own arguments.
pub unsafe fn set_async(
    original: SetAsync,
    backend: *mut c_void,
    tensor: Tensor,
    data: *const c_void,
    offset: usize,
    bytes: usize,
) {
    let mut upload = None;
    // SAFETY: the program's own arguments.
    look(|| upload = unsafe { arriving(tensor, data, offset, bytes) });
    // SAFETY: the program's own call.
    unsafe { original(backend, tensor, data, offset, bytes) };
    if let Some((at, source)) = upload {
        look(|| RUNTIME.tensors.note_upload(at, bytes as u64, source));
    }
}

/// `ggml_backend_buffer_free(buffer)`. The driver tells of its memory that it goes; of the CPU's nobody else does, and
/// its addresses may become the driver's.
///
/// # Safety
/// Called by llama.cpp with its own arguments.
pub unsafe fn free_buffer(original: FreeBuffer, buffer: Buffer) {
    look(|| {
        let gone =
            RUNTIME.tensors.take_buffer(buffer as usize).and_then(|(base, bytes)| RUNTIME.tensors.forget(base, bytes));
        if let Some(left) = gone
            && real::attach(Library::Cuda)
            && let Ok(core) = core()
        {
            core.note_tensors(left);
            core.residency_changed();
        }
    });
    // SAFETY: the program's own call.
    unsafe { original(buffer) };
}
