//! Opening and reading files that the program has mapped.

use super::area::Area;
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A file that is read from a place of the reader's own: whoever has the same descriptor is not disturbed.
#[derive(Debug)]
pub struct Reader {
    file: File,
    at: u64,
}

impl Reader {
    /// From its start.
    pub fn new(file: File) -> Self {
        Self { file, at: 0 }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            // What a buffer in front of it asks for when more is skipped than it holds.
            SeekFrom::Current(by) => (self.at, by),
            SeekFrom::End(by) => (self.file.metadata()?.len(), by),
        };
        self.at = from.checked_add_signed(by).ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// Whether the file that a mapping shows begins with these bytes.
pub fn begins_with(area: &Area, path: &Path, bytes: &[u8]) -> bool {
    let mut first = vec![0; bytes.len()];
    let file = open_exact(area, path).map(File::from);
    file.is_some_and(|file| file.read_exact_at(&mut first, 0).is_ok()) && first == bytes
}

/// Opens the file that a mapping shows.
pub fn open_exact(area: &Area, path: &Path) -> Option<OwnedFd> {
    // Leads to the very file even when its name is gone or another's, but needs a right that few have.
    let exact = PathBuf::from(format!("/proc/self/map_files/{:x}-{:x}", area.start, area.end));
    open(&exact).or_else(|| open(path))
}

/// Opens a path for reading; what else it might be must not hold us up.
fn open(path: &Path) -> Option<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
    // SAFETY: a C string; a descriptor that comes back is ours alone.
    unsafe {
        let fd = libc::open(path.as_ptr(), flags);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
    }
}
