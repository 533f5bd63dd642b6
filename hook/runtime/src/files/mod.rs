//! The page cache of a model file as a home of weights (tier T2f): no second copy in RAM, no load step.
//!
//! ```text
//!   program's mapping of model.gguf   [ ............ W ............ ]   where it copies W from; never registered
//!                                                    │  address -> (file, offset): `ranges`, asked of the kernel: `area`
//!                                                    ▼
//!   our own mapping of the same file  [ ............ W ............ ]   shared, read-only, registered in windows: `file`
//!                                                    │
//!                                                    ▼  the device reads the page cache at link speed
//! ```
//!
//! The program's own mapping is never registered: llama.cpp unmaps parts of it, new mappings land in the holes, and CUDA
//! then refuses them.
//!
//! # Why no wrong byte is read
//!
//! * An address is translated only while the program has a mapping there through which it cannot write, of a file that
//!   we have opened as well. In a private mapping no page may have been written earlier.
//! * What is known of addresses is forgotten at the program's `munmap`, `mmap`, `mremap`, `mprotect` (`follow`). Since
//!   Linux 6.11 the kernel is asked at every use as well, which also covers system calls that are made past the C
//!   library. On older ones without the GOT layer nothing is translated at all, and without it no private mapping ever.
//! * The file is compared (device, inode, size, times) at every use; one that changed is out for good. A file that was
//!   written within the last two seconds is left alone, because its times would not show the next write.
//!
//! What is left: somebody who writes into the file through a shared mapping while the model is in use, page by page
//! again and again, changes its time only now and then.

mod area;
mod file;
mod follow;
mod loaded;
pub mod models;
mod pin;
mod ranges;
mod reading;
#[cfg(test)]
pub mod testing;

pub use file::{ModelFile, WINDOW};
pub use follow::install;
pub use loaded::{Loaded, loaded_from, own_library};
pub use pin::{forget, has_room, map_over, pin, registered, unpin};
pub use reading::Reader;

use crate::memory::{Memory, captures};
use crate::stream::plant::{self, Fault};
use area::{Area, FileId};
use greenboost_cuda::abi::{CUcontext, CUdeviceptr};
use greenboost_intercept::inject;
use ranges::{Range, Ranges};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

/// Files that can be known at once: a model may be split.
const MAX_FILES: usize = 256;
/// How long a file that was refused is not asked about again.
const PAUSE: Duration = Duration::from_secs(2);

/// What is known of the program's addresses. A leaf: nothing is allocated, logged or asked while it is held, because
/// [`changing`] takes it inside the program's `munmap`, which may come from an allocator.
static KNOWN: Mutex<Ranges<64>> = Mutex::new(Ranges::new());
/// From the lowest address known to behind the highest: most calls are about others.
static HULL: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
/// Counts changes of the address space, at their begin and end.
static CHANGES: AtomicU64 = AtomicU64::new(0);
/// A change could not be noted: nothing that is known is to be believed.
static IN_DOUBT: AtomicBool = AtomicBool::new(false);

/// Every file that was ever mapped here, by number; never shorter.
static FILES: RwLock<Vec<Arc<ModelFile>>> = RwLock::new(Vec::new());
/// Files that could not be used, and when that was.
static REFUSED: Mutex<Vec<(FileId, Instant)>> = Mutex::new(Vec::new());

/// Works with what is known. `None` when another thread holds it for too long: nobody waits here, since a signal
/// handler might have interrupted that very thread.
fn known<T>(work: impl FnOnce(&mut Ranges<64>) -> T) -> Option<T> {
    for _ in 0..10_000 {
        let mut ranges = match KNOWN.try_lock() {
            Ok(ranges) => ranges,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                std::hint::spin_loop();
                continue;
            }
        };
        if IN_DOUBT.swap(false, SeqCst) {
            ranges.clear();
        }
        return Some(work(&mut ranges));
    }
    None
}

/// Bytes of a page.
fn page() -> u64 {
    inject::page_size() as u64
}

fn publish_hull((start, end): (u64, u64)) {
    HULL[0].store(start, SeqCst);
    HULL[1].store(end, SeqCst);
}

/// The program is changing, or has changed, what lies in a range.
fn changing(start: u64, bytes: u64) {
    CHANGES.fetch_add(1, SeqCst);
    // The kernel rounds to pages.
    let (start, end) = (start & !(page() - 1), start.saturating_add(bytes).saturating_add(page() - 1));
    if plant::is(Fault::Blind) || bytes == 0 || end <= HULL[0].load(SeqCst) || HULL[1].load(SeqCst) <= start {
        return;
    }
    let forgotten = known(|ranges| {
        ranges.forget(start, end);
        publish_hull(ranges.hull());
    });
    if forgotten.is_none() {
        IN_DOUBT.store(true, SeqCst);
    }
}

/// Notes a range, unless the address space has changed since `seen`.
fn note(range: Range, seen: u64) {
    known(|ranges| {
        // Before the check: whoever counts a change after it sees that it concerns this range.
        let (start, end) = ranges.hull();
        let wider = if end == 0 { (range.start, range.end) } else { (start.min(range.start), end.max(range.end)) };
        publish_hull(wider);
        if CHANGES.load(SeqCst) == seen {
            ranges.insert(range);
        }
        publish_hull(ranges.hull());
    });
}

/// Bytes of a model file that the program has mapped.
#[derive(Debug, Clone)]
pub struct Source {
    file: Arc<ModelFile>,
    offset: u64,
    bytes: u64,
}

/// The file behind `bytes` at an address of the program, if it can be read in its place. Not to be asked of memory that
/// the driver knows.
pub fn source(at: u64, bytes: u64) -> Option<Source> {
    let (file, offset) = confirmed(at, bytes).or_else(|| learn(at, bytes))?;
    let inside = offset.checked_add(bytes).is_some_and(|end| end <= file.size());
    inside.then_some(Source { file, offset, bytes })
}

/// The file and the offset behind an address of the program, and how many bytes from there on: as it is now, to be told
/// and not to be read from.
pub fn behind(at: u64) -> Option<(std::path::PathBuf, u64, u64)> {
    // Most memory is no file: that is quickly said.
    if area::quick(at).is_some_and(|area| area.is_none_or(|area| !area.is_file())) {
        return None;
    }
    let (area, path) = area::named(at)?;
    area.is_file().then(|| (path, area.file_offset(at), area.end - at))
}

/// What is known of a range, if it is still so.
fn confirmed(at: u64, bytes: u64) -> Option<(Arc<ModelFile>, u64)> {
    let (number, offset) = known(|ranges| ranges.find(at, bytes))??;
    let file = FILES.read().unwrap_or_else(PoisonError::into_inner).get(number as usize)?.clone();
    let same = |area: Area| {
        area.is_read_only_file() && area.file == file.id() && at + bytes <= area.end && area.file_offset(at) == offset
    };
    // Where the kernel cannot be asked so often, the hooks stand, or nothing would have been noted.
    if area::quick(at).is_none_or(|now| now.is_some_and(same)) && file.is_unchanged() {
        return Some((file, offset));
    }
    changing(at, bytes);
    None
}

/// Asks the kernel about a range, and notes what it says.
fn learn(at: u64, bytes: u64) -> Option<(Arc<ModelFile>, u64)> {
    let seen = CHANGES.load(SeqCst);
    // Most sources are no files: that is quickly said.
    if let Some(quick) = area::quick(at)
        && !quick.is_some_and(|area| area.is_read_only_file() && !is_refused(area.file))
    {
        return None;
    }
    let can_believe = follow::stands();
    let (area, path) = area::named(at)?;
    let covers = area.is_read_only_file() && at.checked_add(bytes)? <= area.end;
    if !covers || is_refused(area.file) || !can_believe && (area::quick(at).is_none() || !area.shared) {
        return None;
    }
    let (number, file) = opened(&area, &path)?;
    if !area.shared && !area::is_unwritten(area.start, area.end) {
        return None;
    }
    note(Range { start: area.start, end: area.end, file: number, offset: area.offset }, seen);
    // If it could not be noted because something else changed, this use is right all the same.
    Some((file, area.file_offset(at)))
}

fn is_refused(id: FileId) -> bool {
    let refused = REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
    refused.iter().any(|(other, when)| *other == id && when.elapsed() < PAUSE)
}

/// A file and its number; it is opened and mapped when it is new.
fn opened(area: &Area, path: &std::path::Path) -> Option<(u32, Arc<ModelFile>)> {
    let mut files = FILES.write().unwrap_or_else(PoisonError::into_inner);
    // A file that changed is out, but the same file may be mapped anew as it is now.
    let known = files.iter().position(|file| file.id() == area.file && file.is_unchanged());
    if let Some(number) = known {
        return Some((number as u32, files[number].clone()));
    }
    let opened = if files.len() < MAX_FILES { ModelFile::open(area, path) } else { Err("there are too many files") };
    match opened {
        Ok(file) => {
            let file = Arc::new(file);
            files.push(file.clone());
            Some((files.len() as u32 - 1, file))
        }
        Err(why) => {
            log::debug!("{}: not a home of weights: {why}", path.display());
            let mut refused = REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
            refused.retain(|(id, when)| *id != area.file && when.elapsed() < PAUSE);
            refused.push((area.file, Instant::now()));
            None
        }
    }
}

impl Source {
    /// Where the bytes are in our own mapping; for the device as well, once [`Self::register`] has said yes.
    pub fn address(&self) -> CUdeviceptr {
        self.file.address(self.offset)
    }

    /// Another range of the same file: it begins so many bytes before this one. `None` when the file has no such range.
    pub fn around(&self, before: u64, bytes: u64) -> Option<Self> {
        let offset = self.offset.checked_sub(before)?;
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.file.size());
        inside.then(|| Self { file: self.file.clone(), offset, bytes })
    }

    /// The file, and where in it they are.
    pub fn place(&self) -> (&Arc<ModelFile>, u64) {
        (&self.file, self.offset)
    }

    /// Bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the file is still what it was.
    pub fn is_unchanged(&self) -> bool {
        self.file.is_unchanged()
    }

    /// Sees to it that the device can read the bytes in place. `false`: it cannot, or not now. Needs a current context.
    pub fn register(&self, memory: &Memory) -> bool {
        let Ok(context) = memory.current_context() else { return false };
        !captures::any(memory.driver) && self.file.register(memory.driver, context, self.offset, self.bytes)
    }
}

/// Bytes from a device address on that one copy may touch, as far as our mappings of files limit it.
pub fn run(at: CUdeviceptr, bytes: u64) -> u64 {
    let files = FILES.read().unwrap_or_else(PoisonError::into_inner);
    files.iter().find(|file| file.contains(at)).map_or(bytes, |file| file.run(at, bytes))
}

/// Whether an address is in our mapping of a file that is not what it was.
pub fn is_out(at: CUdeviceptr) -> bool {
    let files = FILES.read().unwrap_or_else(PoisonError::into_inner);
    files.iter().find(|file| file.contains(at)).is_some_and(|file| !file.is_unchanged())
}

/// Whether anything is registered in a context.
pub fn is_of(context: CUcontext) -> bool {
    let files = FILES.read().unwrap_or_else(PoisonError::into_inner);
    files.iter().any(|file| file.is_of(context))
}

/// A context is about to go, and its work is done: what was registered in it is not any more.
pub fn context_gone(memory: &Memory, context: CUcontext) {
    let files = FILES.read().unwrap_or_else(PoisonError::into_inner);
    files.iter().for_each(|file| file.context_gone(memory.driver, context));
}

#[cfg(test)]
mod tests;
