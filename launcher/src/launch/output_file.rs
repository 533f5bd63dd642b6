//! Files that the command's processes will write: the log, the tier map, the trace. Only what is absent or a regular file is
//! taken: a device or a pipe would be replaced or waited for, as root even one that the system needs.

use super::refusal::Refusal;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Opens a file once, so that a bad path is an error here and not silence in the target. Its absolute path, links followed.
///
/// # Errors
/// When it cannot be written; the message names `what` it was to be and the `option` that says it.
pub fn writable(what: &str, option: &str, path: &Path, leave_nothing: bool) -> Result<PathBuf, Refusal> {
    let explain = |reason: &dyn std::fmt::Display| {
        let shown = path.display();
        Refusal::usage(format!("cannot write the {what} {shown}: {reason}: choose another file with {option}"))
    };
    let absolute = resolved(path).map_err(|error| explain(&error))?;
    if absolute.to_str().is_none() {
        return Err(explain(&"its name is not UTF-8"));
    }
    let existed = match fs::symlink_metadata(&absolute) {
        Ok(meta) if meta.is_dir() => return Err(explain(&"Is a directory")),
        Ok(meta) if !meta.is_file() => return Err(explain(&kind(&meta))),
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(explain(&error)),
    };
    // Neither waits nor follows, should it be something else by now.
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY;
    let opened = OpenOptions::new().append(true).create(true).custom_flags(flags).open(&absolute);
    opened.map_err(|error| explain(&error))?;
    if leave_nothing && !existed {
        fs::remove_file(&absolute).map_err(|error| explain(&error))?;
    }
    Ok(absolute)
}

/// The same of a file that is replaced whole, by one beside it: its folder must be writable. Nothing is left there.
///
/// # Errors
/// As [`writable`].
pub fn writable_beside(what: &str, option: &str, path: &Path) -> Result<PathBuf, Refusal> {
    let absolute = writable(what, option, path, true)?;
    let mut beside = absolute.clone().into_os_string();
    beside.push(format!(".{}", std::process::id()));
    writable(what, option, Path::new(&beside), true)?;
    Ok(absolute)
}

/// The path without links, so that what is written is what was looked at. The target may change its folder before the
/// file is opened.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    match fs::symlink_metadata(&absolute) {
        Ok(meta) if meta.file_type().is_symlink() => fs::canonicalize(&absolute),
        _ => Ok(absolute),
    }
}

fn kind(meta: &fs::Metadata) -> &'static str {
    let kind = meta.file_type();
    if kind.is_fifo() {
        "it is a pipe, no file"
    } else if kind.is_socket() {
        "it is a socket, no file"
    } else {
        "it is a device, no file"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &Path) -> String {
        writable_beside("map", "--map", path).expect_err("refused").to_string()
    }

    #[test]
    fn only_a_regular_or_absent_file_is_taken_and_links_are_followed_to_one() {
        let folder = tempfile::tempdir().expect("folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["new.json", "old.json"] {
            if name == "old.json" {
                fs::write(at(name), "x").expect("written");
            }
            assert_eq!(writable_beside("map", "--map", &at(name)), Ok(at(name)));
        }
        assert!(!at("new.json").exists() && fs::read_to_string(at("old.json")).expect("kept") == "x");
        std::os::unix::fs::symlink(at("old.json"), at("link")).expect("link");
        assert_eq!(writable_beside("map", "--map", &at("link")), Ok(fs::canonicalize(at("old.json")).expect("path")));

        assert!(said(Path::new("/dev/null")).contains("cannot write the map /dev/null: it is a device"));
        assert!(said(folder.path()).contains("Is a directory"));
        std::os::unix::fs::symlink("/dev/full", at("dev")).expect("link");
        assert!(said(&at("dev")).contains("it is a device"));
        let fifo = std::ffi::CString::new(at("fifo").to_str().expect("path")).expect("path");
        // SAFETY: a C string.
        assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
        assert!(said(&at("fifo")).contains("it is a pipe"));
        std::os::unix::fs::symlink(at("nowhere"), at("dangling")).expect("link");
        assert!(said(&at("dangling")).contains("No such file"), "{}", said(&at("dangling")));
    }
}
