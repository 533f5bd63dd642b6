//! A model file: opened and mapped by ourselves, and registered with a driver piece by piece.
//!
//! The mapping is shared and read-only, so it is the page cache itself. A private one would hang the driver when it is
//! registered read-only, and a writable one it refuses.

use super::area::{self, Area, FileId};
use super::page::page;
use super::reading::{Reader, open_exact};
use greenboost_contract::format_size;
use std::ffi::c_void;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Bytes that are registered at once: milliseconds when they are in the page cache, and a copy is split at their ends.
const WINDOW: u64 = 64 << 20;

/// A file that was written this recently may be written again without its time showing it: times come in steps, of up
/// to two seconds on some file systems.
const SETTLED: Duration = Duration::from_secs(2);

/// What shows that a file is still what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of an open regular file.
    fn of(fd: &File) -> Option<Self> {
        // SAFETY: fills the structure that it is given.
        let status = unsafe {
            let mut status: libc::stat = std::mem::zeroed();
            (libc::fstat(fd.as_raw_fd(), &mut status) == 0).then_some(status)
        }?;
        (status.st_mode & libc::S_IFMT == libc::S_IFREG).then_some(Self {
            device: status.st_dev,
            inode: status.st_ino,
            size: status.st_size as u64,
            modified: (status.st_mtime, status.st_mtime_nsec),
            changed: (status.st_ctime, status.st_ctime_nsec),
        })
    }

    /// Whether a write from now on would show.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.abs_diff(Duration::from_secs(self.modified.0.unsigned_abs())) > SETTLED
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Window {
    /// Nobody has asked for it.
    Idle,
    /// In this context.
    Registered(usize),
    /// The driver does not want it.
    Refused,
}

/// See the module.
#[derive(Debug)]
pub struct ModelFile {
    fd: File,
    id: FileId,
    path: PathBuf,
    stamp: Stamp,
    base: u64,
    is_out: AtomicBool,
    is_reported: AtomicBool,
    windows: Mutex<Vec<Window>>,
}

impl ModelFile {
    /// Opens and maps the file that a mapping of the program shows.
    ///
    /// # Errors
    /// Why it cannot be used, for the log.
    pub fn open(area: &Area, path: &Path) -> Result<Self, &'static str> {
        if path.starts_with("/dev") || path.as_os_str().as_bytes().starts_with(b"/memfd:") {
            return Err("it is memory, not a file");
        }
        let fd = open_exact(area, path).map(File::from).ok_or("it cannot be opened")?;
        let stamp = Stamp::of(&fd).ok_or("it is not a regular file")?;
        if !stamp.is_settled() {
            return Err("it has just been written");
        }
        let base = map(&fd, stamp.size).ok_or("it cannot be mapped")?;
        let count = stamp.size.div_ceil(WINDOW) as usize;
        let file = Self {
            fd,
            id: area.file,
            path: path.to_owned(),
            stamp,
            base,
            is_out: AtomicBool::new(false),
            is_reported: AtomicBool::new(false),
            windows: Mutex::new(vec![Window::Idle; count]),
        };
        // By name one may find another file. The names of mappings are compared with each other, since the kernel
        // names a file in mappings otherwise than in `stat` on some file systems.
        let own = area::quick(base).unwrap_or_else(|| area::named(base).map(|(area, _)| area));
        if own.is_none_or(|own| own.file != area.file) {
            return Err("its name leads to another file now");
        }
        log::info!("{}: {} mapped as a home of weights", path.display(), format_size(stamp.size));
        Ok(file)
    }

    /// Its name in mappings.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Its bytes.
    pub fn size(&self) -> u64 {
        self.stamp.size
    }

    /// Where a byte is in our own mapping; for the device the same once it is registered.
    pub fn address(&self, offset: u64) -> u64 {
        self.base + offset
    }

    /// Whether an address lies in our mapping.
    pub fn contains(&self, address: u64) -> bool {
        (self.base..self.base + self.stamp.size).contains(&address)
    }

    /// Bytes from an address in our mapping on that one copy may touch.
    pub fn run(&self, address: u64, bytes: u64) -> u64 {
        bytes.min(WINDOW - (address - self.base) % WINDOW)
    }

    /// Whether the file is what it was when it was opened. Once it is not, it is out for good: its pages may not even
    /// be there any more.
    pub fn is_unchanged(&self) -> bool {
        if self.is_out.load(Relaxed) {
            return false;
        }
        if Stamp::of(&self.fd) == Some(self.stamp) {
            return true;
        }
        if !self.is_out.swap(true, Relaxed) {
            log::warn!("{}: changed while in use; it is not read from any more", self.path.display());
        }
        false
    }

    /// Whether its bytes are what they were when it was opened, as far as the system tells. Less is asked than by
    /// [`Self::is_unchanged`]: a new name, or a new file under the old one, changes the file's own times, not its bytes.
    pub fn has_its_bytes(&self) -> bool {
        Stamp::of(&self.fd).is_some_and(|now| Stamp { changed: self.stamp.changed, ..now } == self.stamp)
    }

    /// True once: that it changed is said once.
    pub fn is_first_report(&self) -> bool {
        !self.is_reported.swap(true, Relaxed)
    }

    /// Its path, when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its open descriptor, to read at places with.
    pub fn descriptor(&self) -> &File {
        &self.fd
    }

    /// Reads it, at places of the reader's own.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub fn reader(&self) -> std::io::Result<Reader> {
        Ok(Reader::new(self.fd.try_clone()?))
    }

    /// Has `register` register what is not registered yet of the windows that a range touches, in `context`: it gets the
    /// first address and the bytes of each. `false`: the range cannot be used.
    pub fn register(
        &self,
        context: usize,
        offset: u64,
        bytes: u64,
        register: impl Fn(u64, u64) -> Result<(), Refusal>,
    ) -> bool {
        if bytes == 0 || offset.checked_add(bytes).is_none_or(|end| end > self.stamp.size) || !self.is_unchanged() {
            return false;
        }
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        for at in offset / WINDOW..=(offset + bytes - 1) / WINDOW {
            let Some(window) = windows.get_mut(at as usize) else { return false };
            if *window == Window::Idle {
                let bytes = WINDOW.min(self.stamp.size - at * WINDOW);
                *window = match register(self.base + at * WINDOW, bytes) {
                    Ok(()) => Window::Registered(context),
                    Err(Refusal::ForNow) => return false,
                    Err(Refusal::ForGood(why)) => {
                        log::warn!("{}: not registered: {why}", self.path.display());
                        Window::Refused
                    }
                };
            }
            if *window == Window::Refused {
                return false;
            }
        }
        true
    }

    /// Whether any of it is registered in a context.
    pub fn is_of(&self, context: usize) -> bool {
        let windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.contains(&Window::Registered(context))
    }

    /// Has `unregister` take back the registrations made in a context that is about to go: it gets the first address of
    /// each. Nothing may be using them.
    pub fn context_gone(&self, context: usize, unregister: impl Fn(u64)) {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, window) in windows.iter_mut().enumerate().filter(|(_, it)| **it == Window::Registered(context)) {
            *window = Window::Idle;
            unregister(self.base + at as u64 * WINDOW);
        }
    }
}

/// Why a window was not registered.
#[derive(Debug)]
pub enum Refusal {
    /// The machine is short of memory.
    ForNow,
    /// The driver does not want it, and why.
    ForGood(String),
}

/// Maps a whole file at a multiple of 2 MiB, where it can have huge pages.
fn map(fd: &File, bytes: u64) -> Option<u64> {
    const ALIGNMENT: u64 = 2 << 20;
    if bytes == 0 {
        return None;
    }
    let room = bytes.checked_next_multiple_of(page())?.checked_add(ALIGNMENT)?;
    let none = std::ptr::null_mut();
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: addresses of the kernel's choice; the file goes over a part of them; what is left over is given back.
    unsafe {
        let start = libc::mmap(none, room as usize, libc::PROT_NONE, anonymous, -1, 0);
        if start == libc::MAP_FAILED {
            return None;
        }
        let start = start as u64;
        let base = start.next_multiple_of(ALIGNMENT);
        let (flags, length) = (libc::MAP_SHARED | libc::MAP_FIXED, bytes as usize);
        if libc::mmap(base as *mut c_void, length, libc::PROT_READ, flags, fd.as_raw_fd(), 0) == libc::MAP_FAILED {
            libc::munmap(start as *mut c_void, room as usize);
            return None;
        }
        let end = (base + bytes).next_multiple_of(page());
        if base > start {
            libc::munmap(start as *mut c_void, (base - start) as usize);
        }
        if start + room > end {
            libc::munmap(end as *mut c_void, (start + room - end) as usize);
        }
        // A forked child must not share pages that the device reads.
        libc::madvise(base as *mut c_void, length, libc::MADV_DONTFORK);
        Some(base)
    }
}

impl Drop for ModelFile {
    /// Only for one that was refused: a file in use is kept for as long as the process lives.
    fn drop(&mut self) {
        let windows = self.windows.get_mut().unwrap_or_else(PoisonError::into_inner);
        if windows.iter().all(|window| *window == Window::Idle) {
            // SAFETY: our own mapping, of which nobody knows.
            unsafe { libc::munmap(self.base as *mut c_void, self.stamp.size as usize) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::testing::{MappedFile, PAGE, byte};
    use std::fs;

    fn opened(mapped: &MappedFile) -> Result<ModelFile, &'static str> {
        let (area, path) = area::named(mapped.at).expect("it is mapped");
        ModelFile::open(&area, &path)
    }

    fn content(file: &ModelFile, offset: u64) -> u8 {
        // SAFETY: inside a mapping that the file holds.
        unsafe { (file.address(offset) as *const u8).read() }
    }

    #[test]
    fn our_mapping_is_another_one_of_the_same_bytes() {
        let mapped = MappedFile::new("model", 5 * PAGE + 3, libc::MAP_SHARED, libc::PROT_READ);
        let file = opened(&mapped).expect("a plain file");
        assert_eq!((file.size(), file.address(0) % (2 << 20)), (5 * PAGE + 3, 0));
        assert_ne!(file.address(0), mapped.at);
        assert!([0, 1, 4 * PAGE, 5 * PAGE + 2].into_iter().all(|at| content(&file, at) == byte(at)));
        let (own, _) = area::named(file.address(0)).expect("mapped");
        assert!(own.shared && own.is_read_only_file());
    }

    #[test]
    fn a_changed_file_is_out_for_good() {
        type Change = (&'static str, fn(&Path));
        let changes: [Change; 3] = [
            ("truncated", |path| {
                fs::File::options().write(true).open(path).expect("ours").set_len(PAGE).expect("ours")
            }),
            ("written", |path| {
                let file = fs::File::options().write(true).open(path).expect("ours");
                std::os::unix::fs::FileExt::write_all_at(&file, b"x", 7).expect("ours");
            }),
            // Its time is put back; the time of that shows.
            ("touched", |path| {
                let file = fs::File::options().write(true).open(path).expect("ours");
                let modified = file.metadata().and_then(|meta| meta.modified()).expect("ours");
                std::thread::sleep(Duration::from_millis(20));
                std::os::unix::fs::FileExt::write_all_at(&file, b"x", 7).expect("ours");
                file.set_modified(modified).expect("ours");
            }),
        ];
        for (name, change) in changes {
            let mapped = MappedFile::new(name, 4 * PAGE, libc::MAP_SHARED, libc::PROT_READ);
            let file = opened(&mapped).expect("a plain file");
            assert!(file.is_unchanged());
            change(&mapped.path);
            assert!(!file.is_unchanged(), "{name}");
            fs::File::options().write(true).open(&mapped.path).expect("ours").set_len(4 * PAGE).expect("ours");
            assert!(!file.is_unchanged(), "{name}, and back");
        }
    }

    #[test]
    fn a_name_that_leads_to_another_file_is_refused() {
        let mapped = MappedFile::new("model", PAGE, libc::MAP_SHARED, libc::PROT_READ);
        let other = MappedFile::new("other", PAGE, libc::MAP_SHARED, libc::PROT_READ);
        let (area, path) = area::named(mapped.at).expect("it is mapped");
        // An address range that no mapping has, so that only the name is left to go by.
        let unknown = Area { end: area.end + PAGE, ..area };
        assert!(ModelFile::open(&unknown, &path).is_ok());
        assert_eq!(ModelFile::open(&unknown, &other.path).err(), Some("its name leads to another file now"));
        assert_eq!(ModelFile::open(&unknown, Path::new("/nowhere")).err(), Some("it cannot be opened"));
        assert!(ModelFile::open(&unknown, Path::new("/dev/zero")).is_err());
    }

    #[test]
    fn a_file_that_is_being_written_is_left_alone_until_it_settles() {
        let mapped = MappedFile::new("fresh", PAGE, libc::MAP_SHARED, libc::PROT_READ);
        let file = fs::File::options().write(true).open(&mapped.path).expect("ours");
        file.set_modified(SystemTime::now()).expect("ours");
        assert_eq!(opened(&mapped).err(), Some("it has just been written"));
        file.set_modified(SystemTime::now() - Duration::from_secs(10)).expect("ours");
        assert!(opened(&mapped).is_ok());
    }
}
