//! The trace file: one line per call, for tests that ask what a program (or the hook in it) really called.

use crate::env::options;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;

fn file() -> Option<&'static File> {
    static FILE: OnceLock<Option<File>> = OnceLock::new();
    FILE.get_or_init(|| {
        let path = options().trace.as_ref()?;
        OpenOptions::new().create(true).append(true).open(path).ok()
    })
    .as_ref()
}

/// Writes `name(arguments) = code`.
pub fn call(symbol: &str, arguments: impl Fn() -> String, code: u32) {
    if options().trace.is_some() {
        note(&format!("{symbol}({}) = {code}", arguments()));
    }
}

/// Writes a line of our own. One write per line, so lines of several threads do not mix.
pub fn note(line: &str) {
    if let Some(mut file) = file() {
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}
