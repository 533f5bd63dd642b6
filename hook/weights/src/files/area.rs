//! What the kernel says lies at an address of this process.
//!
//! Since Linux 6.11 one call tells (`PROCMAP_QUERY`), in a microsecond, so that it can be asked at every use. Before,
//! the same is read from the text of `/proc/self/maps`, which takes as long as a copy.

use super::page::page;
use greenboost_intercept::failpoint::{self, Fault};
use std::ffi::{OsStr, c_int};
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// A range of addresses with one meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Where in the file it begins, bytes.
    pub offset: u64,
    /// The file, as mappings name it.
    pub file: FileId,
    /// Whether it can be read.
    pub readable: bool,
    /// Whether it can be written.
    pub writable: bool,
    /// Whether the file itself is seen (`MAP_SHARED`), or the process may have pages of its own in it.
    pub shared: bool,
}

/// A file as the kernel names it in mappings: device and inode. What `stat` says may differ (btrfs, overlayfs), so
/// this is compared with nothing but itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId {
    device: (u32, u32),
    inode: u64,
}

impl Area {
    /// Whether it is a mapping of a file.
    pub fn is_file(&self) -> bool {
        self.file.inode != 0
    }

    /// Whether it is a mapping of a file that this process can only read through it.
    pub fn is_read_only_file(&self) -> bool {
        self.file.inode != 0 && self.readable && !self.writable
    }

    /// Where in the file the byte at `address` is.
    pub fn file_offset(&self, address: u64) -> u64 {
        self.offset + (address - self.start)
    }
}

/// The kernel's `struct procmap_query`.
#[repr(C)]
#[derive(Default)]
struct Query {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}

const _: () = assert!(size_of::<Query>() == 104);

/// `_IOWR('f', 17, struct procmap_query)`.
const PROCMAP_QUERY: u64 = 3 << 30 | (size_of::<Query>() as u64) << 16 | (b'f' as u64) << 8 | 17;
const READABLE: u64 = 1;
const WRITABLE: u64 = 2;
const SHARED: u64 = 8;

/// Why the kernel did not tell.
enum Unanswered {
    /// Nothing is mapped there.
    Nothing,
    /// It does not know the question.
    Unknown,
}

fn ask(address: u64) -> Result<Area, Unanswered> {
    let mut query = Query { size: size_of::<Query>() as u64, query_addr: address, ..Query::default() };
    // Opened for each question: a program may close descriptors it does not know, and reuse their numbers.
    // SAFETY: a C string; the descriptor is ours alone.
    let maps = unsafe {
        let maps = libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if maps < 0 {
            return Err(Unanswered::Unknown);
        }
        OwnedFd::from_raw_fd(maps)
    };
    // SAFETY: the structure is the one this request stands for.
    let status: c_int = unsafe { libc::ioctl(maps.as_raw_fd(), PROCMAP_QUERY, &raw mut query) };
    if status != 0 {
        let nothing = std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT);
        return Err(if nothing { Unanswered::Nothing } else { Unanswered::Unknown });
    }
    Ok(Area {
        start: query.vma_start,
        end: query.vma_end,
        offset: query.vma_offset,
        file: FileId { device: (query.dev_major, query.dev_minor), inode: query.inode },
        readable: query.vma_flags & READABLE != 0,
        writable: query.vma_flags & WRITABLE != 0,
        shared: query.vma_flags & SHARED != 0,
    })
}

/// What lies at an address, asked without reading the whole map. `None`: this kernel cannot tell so quickly.
/// `Some(None)`: nothing lies there.
pub fn quick(address: u64) -> Option<Option<Area>> {
    if failpoint::is(Fault::OldKernel) || failpoint::is(Fault::Blind) {
        return None;
    }
    match ask(address) {
        Ok(area) => Some(Some(area)),
        Err(Unanswered::Nothing) => Some(None),
        Err(Unanswered::Unknown) => None,
    }
}

/// Every area, in order of address, with the path of its file.
pub fn all() -> Vec<(Area, PathBuf)> {
    let maps = fs::read("/proc/self/maps").unwrap_or_default();
    maps.split(|byte| *byte == b'\n').filter_map(parse).collect()
}

/// What lies at an address, and the path of its file.
pub fn named(address: u64) -> Option<(Area, PathBuf)> {
    // Bytes, not text: a path is whatever it is.
    let maps = fs::read("/proc/self/maps").ok()?;
    maps.split(|byte| *byte == b'\n').filter_map(parse).find(|(area, _)| (area.start..area.end).contains(&address))
}

/// A line of `/proc/self/maps`: `start-end rights offset device inode   path`.
fn parse(line: &[u8]) -> Option<(Area, PathBuf)> {
    let mut words = line.splitn(6, |byte| *byte == b' ');
    let mut word = || std::str::from_utf8(words.next()?).ok();
    let (range, rights, offset, device, inode) = (word()?, word()?, word()?, word()?, word()?);
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = range.split_once('-')?;
    let (major, minor) = device.split_once(':')?;
    let area = Area {
        start: hex(start)?,
        end: hex(end)?,
        offset: hex(offset)?,
        file: FileId { device: (hex(major)? as u32, hex(minor)? as u32), inode: inode.parse().ok()? },
        readable: rights.contains('r'),
        writable: rights.contains('w'),
        shared: rights.contains('s'),
    };
    let path = words.next().unwrap_or_default().trim_ascii_start();
    Some((area, PathBuf::from(OsStr::from_bytes(path))))
}

/// Whether every page of a private file mapping is still the file's: none has been written, so that the process has
/// one of its own in its place. Protection alone does not tell: it may have been writable before. `false` when in doubt. Takes
/// less than a microsecond for each MiB, and five to begin with.
pub fn is_unwritten(start: u64, end: u64) -> bool {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const OF_FILE: u64 = 1 << 61;
    let Ok(pagemap) = fs::File::open("/proc/self/pagemap") else { return false };
    let size = page();
    let mut buffer = vec![0u8; 128 << 10];
    let (mut at, last) = (start / size, end.div_ceil(size));
    while at < last {
        let wanted = ((last - at) * 8).min(buffer.len() as u64) as usize;
        if std::os::unix::fs::FileExt::read_exact_at(&pagemap, &mut buffer[..wanted], at * 8).is_err() {
            return false;
        }
        let own = |entry: u64| entry & SWAPPED != 0 || entry & PRESENT != 0 && entry & OF_FILE == 0;
        let entries = buffer[..wanted].chunks_exact(8);
        if entries.map(|entry| u64::from_le_bytes(entry.try_into().unwrap_or_default())).any(own) {
            return false;
        }
        at += wanted as u64 / 8;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::testing::{MappedFile, PAGE};

    #[test]
    fn both_ways_of_asking_say_the_same() {
        let file = MappedFile::new("both ways", 3 * PAGE, libc::MAP_PRIVATE, libc::PROT_READ);
        let (area, path) = named(file.at + PAGE).expect("it is mapped");
        assert_eq!((area.start, area.end, area.offset), (file.at, file.at + 3 * PAGE, 0));
        assert!(area.is_read_only_file() && !area.shared);
        assert_eq!(area.file_offset(file.at + PAGE + 7), PAGE + 7);
        assert_eq!(path, file.path);
        if let Some(quick) = quick(file.at + PAGE) {
            assert_eq!(quick, Some(area));
        }
        let shared = MappedFile::new("shared", PAGE, libc::MAP_SHARED, libc::PROT_READ | libc::PROT_WRITE);
        let (area, _) = named(shared.at).expect("it is mapped");
        assert!(area.shared && area.writable && !area.is_read_only_file());
        if let Some(quick) = quick(shared.at) {
            assert_eq!(quick, Some(area));
        }
    }

    #[test]
    fn what_is_no_file_or_nothing_is_told_apart() {
        let local = 0u8;
        let here = (&raw const local) as u64;
        let (area, _) = named(here).expect("the stack");
        assert!(!area.is_read_only_file());
        assert!(named(PAGE).is_none());
        if let Some(nothing) = quick(PAGE) {
            assert_eq!(nothing, None);
        }
        assert!(parse(b"nonsense").is_none() && parse(b"1-2 r--p 0 x 0").is_none());
    }

    #[test]
    fn a_page_written_before_it_became_read_only_is_noticed() {
        let file = MappedFile::new("cow", 40 * PAGE, libc::MAP_PRIVATE, libc::PROT_READ | libc::PROT_WRITE);
        let last = (file.at + 39 * PAGE) as *mut u8;
        // SAFETY: the mapping's own bytes.
        unsafe { last.cast_const().read_volatile() };
        file.protect(libc::PROT_READ);
        assert!(is_unwritten(file.at, file.at + 40 * PAGE));
        file.protect(libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: as above.
        unsafe { last.write_volatile(1) };
        file.protect(libc::PROT_READ);
        assert!(!is_unwritten(file.at, file.at + 40 * PAGE));
        assert!(is_unwritten(file.at, file.at + 39 * PAGE));
    }
}
