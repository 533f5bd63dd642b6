//! Host memory the GPU reaches: allocated by the driver, or registered by the program.

use crate::env::{HostMemory, options};
use crate::errors::{Error, Result};
use crate::trace;
use crate::va::{self, Backing, Origin, READ_WRITE};
use crate::world::MAX_BOARDS;
use std::ffi::CString;

/// `CU_MEMHOSTREGISTER_READ_ONLY`
pub const READ_ONLY: u32 = 8;
const PAGE: u64 = 4096;

/// Anonymous memory of the process.
pub fn pages(bytes: u64) -> Result<u64> {
    // SAFETY: a new mapping at an address the kernel chooses.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes.next_multiple_of(PAGE) as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED { Err(Error::OUT_OF_MEMORY) } else { Ok(at as u64) }
}

/// A line of `/proc/self/maps`.
struct Area {
    start: u64,
    end: u64,
    readable: bool,
    writable: bool,
    shared: bool,
    offset: u64,
    path: String,
}

fn areas() -> Vec<Area> {
    let text = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let modes = fields.next()?.as_bytes();
        let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
        let path = fields.skip(2).collect::<Vec<_>>().join(" ");
        Some(Area {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            readable: modes[0] == b'r',
            writable: modes[1] == b'w',
            shared: modes[3] == b's',
            offset,
            path,
        })
    };
    text.lines().filter_map(parse).collect()
}

/// Whether a file's writable pages may be pinned: those of real file systems may not.
fn pins_writable(path: &str) -> bool {
    const TMPFS: i64 = 0x0102_1994;
    const HUGETLBFS: i64 = 0x9584_58f6;
    // Of DMA-BUFs only greenboost.ko's pin; those of udmabuf and the system heap, which nothing here uses, do not.
    if path.starts_with("/dmabuf:")
        || path.starts_with("/memfd:")
        || path.starts_with("/dev/")
        || path.starts_with("/SYSV")
    {
        return true;
    }
    if !path.starts_with('/') || path.ends_with("(deleted)") {
        return true;
    }
    let Ok(path) = CString::new(path) else { return false };
    // SAFETY: statfs fills the struct it is given.
    unsafe {
        let mut status: libc::statfs = std::mem::zeroed();
        libc::statfs(path.as_ptr(), &mut status) == 0 && matches!(status.f_type, TMPFS | HUGETLBFS)
    }
}

/// Whether a file has all the pages that a range of its mapping shows: touching one after its end is fatal, and the
/// driver finds none to pin there.
fn has_pages(area: &Area, end: u64) -> bool {
    let Ok(file) = std::fs::metadata(&area.path) else { return true };
    let last = end.min(area.end) - area.start + area.offset;
    !file.is_file() || last <= file.len().next_multiple_of(PAGE)
}

/// What the driver makes of a range of the process when it is asked to register it.
fn registrable(start: u64, end: u64, flags: u32) -> Result {
    let read_only = flags & READ_ONLY != 0;
    let mut next = start;
    for area in areas().into_iter().filter(|area| area.end > start && area.start < end) {
        let file = area.path.starts_with('/');
        if area.start > next || !area.readable || file && !has_pages(&area, end) {
            return Err(Error::INVALID_VALUE);
        }
        if read_only && file && !area.shared {
            trace::note("cuMemHostRegister_v2: a MAP_PRIVATE file with READ_ONLY hangs in the real driver");
            return Err(Error::UNKNOWN);
        }
        if !read_only && (!area.writable || file && area.shared && !pins_writable(&area.path)) {
            return Err(Error::INVALID_VALUE);
        }
        next = area.end;
    }
    if next >= end { Ok(()) } else { Err(Error::INVALID_VALUE) }
}

/// Registers a range of the process, for a context.
pub fn register(context: usize, start: u64, bytes: u64, flags: u32) -> Result {
    if start == 0 || bytes == 0 || flags & !0xf != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let read_only = flags & READ_ONLY != 0;
    if !options().host_register || read_only && options().read_only == HostMemory::Unsupported {
        return Err(Error::NOT_SUPPORTED);
    }
    let end = start.checked_add(bytes).ok_or(Error::INVALID_VALUE)?;
    registrable(start, end, flags)?;
    let mut space = va::write();
    // Whole pages are pinned, so two ranges that share a page collide.
    let (first, last) = (start & !(PAGE - 1), end.next_multiple_of(PAGE));
    if let Some(other) = space.within(first, last - first).next() {
        let host = matches!(other.origin, Origin::Registered(_) | Origin::HostAlloc(_));
        return Err(if host { Error::HOST_MEMORY_ALREADY_REGISTERED } else { Error::INVALID_VALUE });
    }
    space.insert(start, bytes, Backing::Host, Origin::Registered(flags), [READ_WRITE; MAX_BOARDS], context);
    Ok(())
}
