//! The file of `--trace`: it must be writable, and what it holds from an earlier run must be a trace.

use super::output_file::writable;
use super::refusal::Refusal;
use greenboost_contract::{HostCopyPrefetch, Settings, Stream};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The file, absolute; nothing is left there or changed yet.
///
/// # Errors
/// When it cannot be written, is something else than a trace, or when nothing would be traced.
pub fn check(path: &Path, settings: &Settings) -> Result<PathBuf, Refusal> {
    if settings.stream == Stream::Off && settings.host_copy_prefetch == HostCopyPrefetch::Off {
        return Err(Refusal::usage("--trace shows what is streamed, and streaming is off: add --stream on"));
    }
    let absolute = writable("trace", "--trace", path, true)?;
    let mut first = [0];
    let read = File::open(&absolute).and_then(|mut file| file.read(&mut first));
    // A slip of the hand must not cost anybody a model.
    if absolute.is_file() && read.is_ok_and(|read| read > 0) && first != *b"[" {
        return Err(Refusal::usage(format!(
            "--trace would overwrite {}, which is not a trace: choose another file",
            path.display()
        )));
    }
    Ok(absolute)
}

/// Empties the file of an earlier run. The hook takes a file with something in it for another process's, and leaves it
/// alone.
///
/// # Errors
/// When that fails.
pub fn empty(path: &Path) -> Result<(), Refusal> {
    if !path.is_file() {
        return Ok(());
    }
    let emptied = File::options().write(true).truncate(true).open(path);
    emptied.map(drop).map_err(|error| Refusal::usage(format!("cannot empty the trace {}: {error}", path.display())))
}
