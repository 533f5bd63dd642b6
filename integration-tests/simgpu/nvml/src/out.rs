//! The extern "C" edge: output arguments, and panics that must not cross it.

use crate::{Code, INSUFFICIENT_SIZE, INVALID_ARGUMENT, SUCCESS, UNKNOWN};
use std::ffi::{CStr, c_char};
use std::panic::catch_unwind;

/// What functions return inside.
pub type Answer = Result<(), Code>;

/// Runs the body of a function.
pub fn enter(body: impl FnOnce() -> Answer + std::panic::UnwindSafe) -> Code {
    match catch_unwind(body) {
        Ok(Ok(())) => SUCCESS,
        Ok(Err(code)) => code,
        Err(_) => UNKNOWN,
    }
}

/// Writes an answer where the caller asked for it.
pub fn put<T>(out: *mut T, value: T) -> Answer {
    if out.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: a C caller passes null or a place for one T.
    unsafe { out.write_unaligned(value) };
    Ok(())
}

/// Reads an argument that goes both ways.
pub fn get<T: Copy>(from: *const T) -> Result<T, Code> {
    if from.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: a C caller passes null or one valid T.
    Ok(unsafe { from.read_unaligned() })
}

/// Writes a string into the caller's buffer.
pub fn put_text(text: &str, out: *mut c_char, room: u32) -> Answer {
    if out.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if text.len() >= room as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: the caller's buffer has `room` bytes, more than the text and its end.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), out.cast(), text.len());
        out.add(text.len()).write(0);
    }
    Ok(())
}

/// Reads a string argument.
pub fn text(from: *const c_char) -> Result<String, Code> {
    if from.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: a C caller passes null or a null-terminated string.
    Ok(unsafe { CStr::from_ptr(from) }.to_string_lossy().into_owned())
}
