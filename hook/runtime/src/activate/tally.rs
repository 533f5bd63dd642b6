//! What a program called, for whoever asks (`GREENBOOST_CALLS`): a line `symbol count` for every function of the table
//! that it reached, written when it ends. Our own calls go to the originals and are not in it.

use crate::runtime::RUNTIME;
use greenboost_intercept::slot;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;

/// Has the counts written at exit.
pub fn keep(path: PathBuf) {
    if RUNTIME.calls_file.set(path).is_ok() {
        // SAFETY: the function touches atomics and a file; this library is never unloaded.
        unsafe { libc::atexit(write) };
    }
}

extern "C" fn write() {
    let Some(path) = RUNTIME.calls_file.get() else { return };
    let mut lines = String::new();
    for slot in slot::all() {
        let calls = slot.calls.load(Relaxed);
        if calls > 0 {
            let _ = writeln!(lines, "{} {calls}", slot.symbol.to_string_lossy());
        }
    }
    // In one piece: children of one target append to the same file.
    let file = OpenOptions::new().create(true).append(true).open(path);
    let _ = file.and_then(|mut file| file.write_all(lines.as_bytes()));
}
