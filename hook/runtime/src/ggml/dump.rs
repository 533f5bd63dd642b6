//! The weights that a process knew when it ended, for whoever asks (`GREENBOOST_TENSORS`): a line for each, in order of
//! address. Unlike the tier map it needs no driver, so that llama.cpp's libraries for the CPU can be tested with it.
//!
//! ```text
//! name <tab> address <tab> bytes <tab> device <tab> bytes that arrived <tab> offset in the file <tab> the file
//! ```
//!
//! What is not known is `-`.

use crate::runtime::RUNTIME;
use std::fmt::Write;
use std::path::PathBuf;

/// Has the list written at exit.
pub fn keep(path: PathBuf) {
    if RUNTIME.ggml.tensors_file.set(path).is_ok() {
        // SAFETY: the function reads the registry and writes a file; this library is never unloaded.
        unsafe { libc::atexit(write) };
    }
}

extern "C" fn write() {
    let Some(path) = RUNTIME.ggml.tensors_file.get() else { return };
    // A panic must not cross into the C library; the list is then missing, which its reader notices.
    let _ = std::panic::catch_unwind(|| {
        let mut lines = String::new();
        for (at, tensor) in RUNTIME.tensors.weights() {
            let device = tensor.device.as_deref().unwrap_or("-");
            let (name, bytes, uploaded) = (tensor.name, tensor.bytes, tensor.uploaded);
            let _ = write!(lines, "{name}\t{at}\t{bytes}\t{device}\t{uploaded}\t");
            let _ = match tensor.source {
                Some(source) => writeln!(lines, "{}\t{}", source.offset, source.file.display()),
                None => writeln!(lines, "-\t-"),
            };
        }
        std::fs::write(path, lines)
    });
}
