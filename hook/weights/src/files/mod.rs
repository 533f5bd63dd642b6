//! The page cache of a model file as the residency of weights (tier T2f): no second copy in RAM, no load step.
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
//!   we have opened as well. In a private mapping, of the pages that are used, none may have been written earlier: that is
//!   asked at every use, since rights that were given and taken back past the C library leave no other trace.
//! * What is known of addresses is forgotten at the program's `munmap`, `mmap`, `mremap`, `mprotect` ([`Files::changing`]). Since
//!   Linux 6.11 the kernel is asked at every use as well, which also covers system calls that are made past the C
//!   library. On older ones without the GOT layer nothing is translated at all, and without it no private mapping ever.
//! * The file is compared (device, inode, size, times) at every use; one that changed is out for good. A file that was
//!   written within the last two seconds is left alone, because its times would not show the next write.
//!
//! What is left: somebody who writes into the file through a shared mapping while the model is in use, page by page
//! again and again, changes its time only now and then.

mod area;
mod file;
mod loaded;
mod models;
mod page;
pub mod pinned;
mod ranges;
mod reading;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use file::{ModelFile, Refusal};
pub use loaded::own_library;
pub use models::Place;
pub use page::is_congruent;

use area::{Area, FileId};
use greenboost_intercept::failpoint::{self, Fault};
use models::{Mapped, Models};
use page::page;
use pinned::PinnedPages;
use ranges::{Range, Ranges};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

/// Files that can be known at once: a model may be split.
const MAX_FILES: usize = 256;
/// How long a file that was refused is not asked about again.
const PAUSE: Duration = Duration::from_secs(2);

/// The model files that a program has mapped. There is one of these in a process.
#[derive(Debug)]
pub struct Files {
    /// What is known of the program's addresses. A leaf: nothing is allocated, logged or asked while it is held, because
    /// [`Files::changing`] takes it inside the program's `munmap`, which may come from an allocator.
    known: Mutex<Ranges<64>>,
    /// The lowest address known and the first after the highest: most calls are about others.
    hull: [AtomicU64; 2],
    /// Counts changes of the address space, at their begin and end.
    changes: AtomicU64,
    /// A change could not be noted: nothing that is known is to be believed.
    in_doubt: AtomicBool,
    /// Whether the program's changes to its address space are told.
    is_followed: AtomicBool,
    /// Every file that was ever mapped here, by number; never shorter.
    opened: RwLock<Vec<Arc<ModelFile>>>,
    /// Files that could not be used, and when that was.
    refused: Mutex<Vec<(FileId, Instant)>>,
    models: Mutex<Models>,
    /// What of them is registered with the driver.
    pub pinned: PinnedPages,
}

impl Default for Files {
    fn default() -> Self {
        Self::new()
    }
}

/// Smaller tensors have too few granules of 2 MiB for themselves to be worth a file's pages.
pub const LEAST_IN_FILE: u64 = 8 << 20;

impl Files {
    /// Nothing is known.
    pub const fn new() -> Self {
        Self {
            known: Mutex::new(Ranges::new()),
            hull: [const { AtomicU64::new(0) }; 2],
            changes: AtomicU64::new(0),
            in_doubt: AtomicBool::new(false),
            is_followed: AtomicBool::new(false),
            opened: RwLock::new(Vec::new()),
            refused: Mutex::new(Vec::new()),
            models: Mutex::new(Models::new()),
            pinned: PinnedPages::new(),
        }
    }

    /// From now on [`Files::changing`] is called whenever the program changes its address space.
    pub fn follow(&self) {
        self.is_followed.store(true, SeqCst);
    }

    fn is_followed(&self) -> bool {
        self.is_followed.load(SeqCst)
    }

    /// Works with what is known. `None` when another thread holds it for too long: nobody waits here, since a signal
    /// handler might have interrupted that very thread.
    fn known<T>(&self, work: impl FnOnce(&mut Ranges<64>) -> T) -> Option<T> {
        for _ in 0..10_000 {
            let mut ranges = match self.known.try_lock() {
                Ok(ranges) => ranges,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    std::hint::spin_loop();
                    continue;
                }
            };
            if self.in_doubt.swap(false, SeqCst) {
                ranges.clear();
            }
            return Some(work(&mut ranges));
        }
        None
    }

    fn publish_hull(&self, (start, end): (u64, u64)) {
        self.hull[0].store(start, SeqCst);
        self.hull[1].store(end, SeqCst);
    }

    /// The program is changing, or has changed, what lies in a range.
    pub fn changing(&self, start: u64, bytes: u64) {
        self.changes.fetch_add(1, SeqCst);
        // The kernel rounds to pages.
        let (start, end) = (start & !(page() - 1), start.saturating_add(bytes).saturating_add(page() - 1));
        if failpoint::is(Fault::Blind)
            || bytes == 0
            || end <= self.hull[0].load(SeqCst)
            || self.hull[1].load(SeqCst) <= start
        {
            return;
        }
        let forgotten = self.known(|ranges| {
            ranges.forget(start, end);
            self.publish_hull(ranges.hull());
        });
        if forgotten.is_none() {
            self.in_doubt.store(true, SeqCst);
        }
    }

    /// Notes a range, unless the address space has changed since `seen`.
    fn note(&self, range: Range, seen: u64) {
        self.known(|ranges| {
            // Before the check: whoever counts a change after it sees that it concerns this range.
            let (start, end) = ranges.hull();
            let wider = if end == 0 { (range.start, range.end) } else { (start.min(range.start), end.max(range.end)) };
            self.publish_hull(wider);
            if self.changes.load(SeqCst) == seen {
                ranges.insert(range);
            }
            self.publish_hull(ranges.hull());
        });
    }

    /// The file that `bytes` at an address of the program are mapped from, if it can be read in their place. Not to be
    /// asked of memory that the driver knows.
    pub fn source(&self, at: u64, bytes: u64) -> Option<Source> {
        let (file, offset) = self.confirmed(at, bytes).or_else(|| self.learn(at, bytes))?;
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= file.size());
        inside.then_some(Source { file, offset, bytes })
    }

    /// The file and the offset that an address of the program is mapped from, and how many bytes from there on: as it is
    /// now, to be told and not to be read from.
    pub fn behind(&self, at: u64) -> Option<(PathBuf, u64, u64)> {
        // Most memory is no file: that is quickly said.
        if area::quick(at).is_some_and(|area| area.is_none_or(|area| !area.is_file())) {
            return None;
        }
        let (area, path) = area::named(at)?;
        area.is_file().then(|| (path, area.file_offset(at), area.end - at))
    }

    /// What is known of a range, if it is still so.
    fn confirmed(&self, at: u64, bytes: u64) -> Option<(Arc<ModelFile>, u64)> {
        let known = self.known(|ranges| ranges.find(at, bytes))??;
        let file = self.opened.read().unwrap_or_else(PoisonError::into_inner).get(known.file as usize)?.clone();
        let same = |area: Area| {
            area.is_read_only_file()
                && area.file == file.id()
                && known.end <= area.end
                && area.file_offset(at) == known.offset
                && area.shared != known.is_private
        };
        // Where the kernel cannot be asked so often, the hooks stand, or nothing would have been noted. What the rights of a
        // private mapping were in between nobody tells, but pages that were written then are the process's own.
        let is_so = area::quick(at).is_none_or(|now| now.is_some_and(same));
        if is_so && (!known.is_private || area::is_unwritten(at, known.end)) && file.is_unchanged() {
            return Some((file, known.offset));
        }
        self.changing(at, bytes);
        None
    }

    /// Asks the kernel about a range, and notes what it says.
    fn learn(&self, at: u64, bytes: u64) -> Option<(Arc<ModelFile>, u64)> {
        let seen = self.changes.load(SeqCst);
        // Most sources are no files: that is quickly said.
        if let Some(quick) = area::quick(at)
            && !quick.is_some_and(|area| area.is_read_only_file() && !self.is_refused(area.file))
        {
            return None;
        }
        let can_believe = self.is_followed();
        let (area, path) = area::named(at)?;
        let covers = area.is_read_only_file() && at.checked_add(bytes)? <= area.end;
        if !covers || self.is_refused(area.file) || !can_believe && (area::quick(at).is_none() || !area.shared) {
            return None;
        }
        let (number, file) = self.opened(&area, &path)?;
        let is_private = !area.shared;
        if is_private && !area::is_unwritten(at, at + bytes) {
            return None;
        }
        self.note(Range { start: area.start, end: area.end, file: number, offset: area.offset, is_private }, seen);
        // If it could not be noted because something else changed, this use is right all the same.
        Some((file, area.file_offset(at)))
    }

    /// Where a tensor of this name and size is in a model file that is mapped now. Where several have it, in the one that
    /// was mapped last.
    pub fn place(&self, name: &str, bytes: u64) -> Option<Place> {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        models.look(self);
        models.place(name, bytes)
    }

    fn is_refused(&self, id: FileId) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.iter().any(|(other, when)| *other == id && when.elapsed() < PAUSE)
    }

    /// A file and its number; it is opened and mapped when it is new.
    fn opened(&self, area: &Area, path: &Path) -> Option<(u32, Arc<ModelFile>)> {
        let mut files = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        // A file that changed is out, but the same file may be mapped anew as it is now.
        let known = files.iter().position(|file| file.id() == area.file && file.is_unchanged());
        if let Some(number) = known {
            return Some((number as u32, files[number].clone()));
        }
        let opened =
            if files.len() < MAX_FILES { ModelFile::open(area, path) } else { Err("there are too many files") };
        match opened {
            Ok(file) => {
                let file = Arc::new(file);
                files.push(file.clone());
                Some((files.len() as u32 - 1, file))
            }
            Err(why) => {
                log::debug!("{}: not a home of weights: {why}", path.display());
                let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                refused.retain(|(id, when)| *id != area.file && when.elapsed() < PAUSE);
                refused.push((area.file, Instant::now()));
                None
            }
        }
    }

    /// Bytes from a device address on that one copy may touch, as far as our mappings of files limit it.
    pub fn run(&self, at: u64, bytes: u64) -> u64 {
        let files = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        files.iter().find(|file| file.contains(at)).map_or(bytes, |file| file.run(at, bytes))
    }

    /// Whether an address is in our mapping of a file that is not what it was.
    pub fn is_out(&self, at: u64) -> bool {
        let files = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        files.iter().find(|file| file.contains(at)).is_some_and(|file| !file.is_unchanged())
    }

    /// Whether anything is registered in a context.
    pub fn is_of(&self, context: usize) -> bool {
        let files = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        files.iter().any(|file| file.is_of(context))
    }

    /// A context is about to go, and its work is done: what was registered in it is not any more. `unregister` gets the
    /// first address of each registration.
    pub fn context_gone(&self, context: usize, unregister: impl Fn(u64)) {
        let files = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        files.iter().for_each(|file| file.context_gone(context, &unregister));
    }
}

impl Mapped for Files {
    fn changes(&self) -> Option<u64> {
        self.is_followed().then(|| self.changes.load(SeqCst))
    }

    fn is_ours(&self, start: u64) -> bool {
        let files = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        self.pinned.contains(start) || files.iter().any(|file| file.contains(start))
    }

    fn open(&self, area: &Area, path: &Path) -> Option<Arc<ModelFile>> {
        self.opened(area, path).map(|(_, file)| file)
    }
}

/// Bytes of a model file that the program has mapped.
#[derive(Debug, Clone)]
pub struct Source {
    file: Arc<ModelFile>,
    offset: u64,
    bytes: u64,
}

impl Source {
    /// Where the bytes are in our own mapping; for the device as well, once it is registered.
    pub fn address(&self) -> u64 {
        self.file.address(self.offset)
    }

    /// Another range of the same file, of `bytes` bytes: it begins `before` bytes before this one. `None` when the file
    /// has no such range.
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
}

#[cfg(test)]
mod tests;
