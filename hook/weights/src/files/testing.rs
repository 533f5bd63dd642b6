//! A file of known bytes, mapped, for the tests of this folder.

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// A multiple of the page size of every machine.
pub const PAGE: u64 = 64 << 10;

/// See the module.
pub struct MappedFile {
    _directory: tempfile::TempDir,
    /// The file.
    pub path: PathBuf,
    /// Where it is mapped.
    pub at: u64,
    /// Bytes mapped.
    pub bytes: u64,
}

/// The byte at an offset of such a file.
pub fn byte(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

impl MappedFile {
    /// Makes a file, last written a minute ago, and maps all of it.
    pub fn new(name: &str, bytes: u64, flags: i32, protection: i32) -> Self {
        Self::of(name, &(0..bytes).map(byte).collect::<Vec<_>>(), flags, protection)
    }

    /// The same, with a content of its own.
    pub fn of(name: &str, content: &[u8], flags: i32, protection: i32) -> Self {
        let bytes = content.len() as u64;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(name);
        let mut file = fs::File::options().create_new(true).read(true).write(true).open(&path).expect("a file");
        file.write_all(content).expect("room for it");
        file.set_modified(SystemTime::now() - Duration::from_secs(60)).expect("our own file");
        // SAFETY: a new mapping of our own file at a place the kernel chooses.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes as usize, protection, flags, file.as_raw_fd(), 0) };
        assert_ne!(at, libc::MAP_FAILED);
        Self { _directory: directory, path, at: at as u64, bytes }
    }

    /// Changes the protection of all of it.
    pub fn protect(&self, protection: i32) {
        // SAFETY: our own mapping.
        assert_eq!(unsafe { libc::mprotect(self.at as *mut _, self.bytes as usize, protection) }, 0);
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // SAFETY: our own mapping.
        unsafe { libc::munmap(self.at as *mut _, self.bytes as usize) };
    }
}
