//! Writing to memory of ours: one guard for every handler that does it.
//!
//! While a [`WriteGuard`] lives, no memory moves, none of what is written is in a file's page cache, and copies of the weights in
//! it have been given up; they are once more when it goes, since another thread may have made new ones meanwhile.
//!
//! What is written to weights that are in a file is nothing where the file has the very bytes; else the chunk becomes RAM first.
//! The file itself is never written.

use crate::runtime::Core;
use greenboost_contract::{HostCopyPrefetch, PageCache, Stream};
use greenboost_cuda::abi::*;
use greenboost_cuda::{Current, RelaxedCapture};
use greenboost_intercept::failpoint::{self, Fault};
use greenboost_memory::admission::Admission;
use greenboost_memory::allocation::{Chunk, Residency};
use greenboost_memory::backing::file_pages::FilePages;
use greenboost_memory::device::Device;
use greenboost_memory::gate::Inside;
use greenboost_memory::quiet::{Busy, Patience};
use greenboost_memory::residency::Target;
use greenboost_stream::Writing;
use greenboost_weights::files::ModelFile;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

/// How long a write waits for the work that reads what it writes to. It has nowhere else to go, and fails then.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often files are looked at while kernels run.
const WATCH: Duration = Duration::from_secs(1);

/// See the module. Dropped in this order: copies are given up while no memory moves.
pub struct WriteGuard<'a> {
    _copies: Writing<'a>,
    _inside: Inside<'a>,
}

#[inline]
fn fail_if_planted() {
    assert!(!failpoint::is(Fault::WritePanics), "planted");
}

impl Core {
    /// Whether it matters what is written at all.
    pub fn wants_to_know_writes(&self) -> bool {
        let settings = self.memory.settings;
        settings.stream == Stream::On
            || settings.host_copy_prefetch == HostCopyPrefetch::On
            || settings.page_cache == PageCache::On
    }

    /// Begins to write to ranges, `on` a stream or at once, by work that uses memory at `used`, what it reads among it.
    ///
    /// # Errors
    /// The status that the write has to fail with: a file's pages are read-only, and could not become RAM.
    #[inline]
    pub fn write_to(
        &self,
        on: Option<CUstream>,
        targets: &[(CUdeviceptr, u64)],
        used: &[CUdeviceptr],
    ) -> Result<WriteGuard<'_>, Status> {
        fail_if_planted();
        let enter = || self.memory.enter_to_use(on, used);
        let inside = match self.memory.settings.page_cache {
            PageCache::Off => enter(),
            PageCache::On => self.enter_without_pages(enter, self.memory.captures.maybe_any(), targets, |_| false)?,
        };
        let copies = self.streaming.writing(targets.iter().copied());
        Ok(WriteGuard { _copies: copies, _inside: inside })
    }

    /// The same, to copy from `src`, `on` a stream or at once. Chunks whose file has these very bytes stay as they are: those
    /// pieces of the copy are to be left out ([`Core::is_in_file`]).
    ///
    /// # Errors
    /// As of [`Core::write_to`].
    #[inline]
    pub fn copy_to(
        &self,
        on: Option<CUstream>,
        dst: CUdeviceptr,
        src: u64,
        bytes: u64,
    ) -> Result<WriteGuard<'_>, Status> {
        fail_if_planted();
        let enter = || self.memory.enter_to_use(on, &[dst, src]);
        let inside = match self.memory.settings.page_cache {
            PageCache::Off => enter(),
            PageCache::On => {
                // What is captured happens later, and again.
                let is_captured = on.is_some_and(|on| self.memory.captures.takes(self.memory.driver, on));
                self.enter_without_pages(enter, is_captured, &[(dst, bytes)], |chunk| {
                    let Residency::File(pages) = &chunk.residency else { return true };
                    let (first, last) = (chunk.at.max(dst), chunk.end().min(dst.saturating_add(bytes)));
                    !is_captured && self.has(pages, chunk, first, last - first, src + (first - dst))
                })?
            }
        };
        let copies = self.streaming.writing([(dst, bytes)]);
        Ok(WriteGuard { _copies: copies, _inside: inside })
    }

    /// Whether what lies at an address of the program is the very part of the file that is at `at` in this chunk.
    fn has(&self, pages: &FilePages, chunk: &Chunk, at: CUdeviceptr, bytes: u64, source: u64) -> bool {
        self.memory.files.source(source, bytes).is_some_and(|source| {
            let (file, offset) = source.place();
            file.id() == pages.file.id() && offset == pages.offset + (at - chunk.at) && pages.file.has_its_bytes()
        })
    }

    fn enter_without_pages<'a>(
        &'a self,
        enter: impl Fn() -> Inside<'a>,
        may_be_captured: bool,
        targets: &[(CUdeviceptr, u64)],
        may_stay: impl Fn(&Chunk) -> bool,
    ) -> Result<Inside<'a>, Status> {
        if may_be_captured && targets.iter().any(|(at, bytes)| self.tensors.has_weight(*at, *bytes)) {
            self.writes_captured.store(true, SeqCst);
        }
        let goes = |chunk: &&Chunk| matches!(chunk.residency, Residency::File(_)) && !may_stay(chunk);
        loop {
            let inside = enter();
            // Asked inside, because a chunk that leaves VRAM may get a file's pages at any other time.
            if !self.memory.has_chunks_in_files() {
                return Ok(inside);
            }
            let table = self.memory.table();
            let touched = |(at, bytes): &(CUdeviceptr, u64)| {
                let touched = table.find(*at).map_or(&[][..], |allocation| allocation.touched(*at, *bytes));
                let chunks: Vec<_> = touched.iter().filter(goes).map(|chunk| chunk.at).collect();
                (!chunks.is_empty()).then_some((*at, chunks))
            };
            let Some((at, chunks)) = targets.iter().find_map(touched) else {
                drop(table);
                return Ok(inside);
            };
            drop(table);
            drop(inside);
            self.give_up_pages(at, &chunks)?;
        }
    }

    /// Whether any of a range lies in a chunk that is in a file.
    #[inline]
    pub fn is_in_file(&self, at: CUdeviceptr, bytes: u64) -> bool {
        self.memory.has_chunks_in_files() && self.memory.table().is_in_file(at, bytes)
    }

    #[cold]
    fn give_up_pages(&self, around: CUdeviceptr, chunks: &[CUdeviceptr]) -> Result<(), Status> {
        let _relaxed = RelaxedCapture::enter(self.memory.driver);
        self.watch_files();
        let mut patience = Patience::of(PATIENCE);
        let changed = loop {
            match self.turn_into_ram(around, chunks, &patience) {
                Ok(changed) => break changed,
                Err(busy) if patience.wait(&busy) => {}
                Err(_) => break Err(NOT_SUPPORTED),
            }
        };
        if let Err(status) = changed {
            log::error!("weights at {around:#x} cannot be written: they are a file's, and RAM came to {status}");
        }
        self.residency_changed();
        changed
    }

    /// Moves chunks of the allocation around an address to RAM, with the file's bytes, if nobody uses them right now.
    fn turn_into_ram(
        &self,
        around: CUdeviceptr,
        chunks: &[CUdeviceptr],
        patience: &Patience,
    ) -> Result<Result<(), Status>, Busy> {
        let memory = self.memory;
        // One at a time: another may have done it meanwhile.
        let _placing = memory.placing();
        let Some(ordinal) = memory.table().find(around).map(|allocation| allocation.device) else {
            return Ok(Err(INVALID_VALUE));
        };
        let Ok(device) = memory.device(ordinal) else { return Ok(Err(UNKNOWN)) };
        // A write that is captured happens later; that the pages are read-only then would fault.
        if memory.captures.any(memory.driver) {
            return Ok(Err(NOT_SUPPORTED));
        }
        let _quiet = memory.quiet(device, patience)?;
        Ok(self.turn_quiet_into_ram(device, around, chunks))
    }

    fn turn_quiet_into_ram(&self, device: &Device, around: CUdeviceptr, chunks: &[CUdeviceptr]) -> Result<(), Status> {
        let memory = self.memory;
        let mut table = memory.table_mut();
        let base = table.find(around).map(|allocation| allocation.base).ok_or(INVALID_VALUE)?;
        let allocation = table.get_mut(base).ok_or(INVALID_VALUE)?;
        let _current = Current::push(memory.driver, allocation.context)?;
        let is_file = |chunk: &&mut Chunk| matches!(chunk.residency, Residency::File(_)) && chunks.contains(&chunk.at);
        let mut chosen = allocation.chunks.iter_mut().filter(is_file);
        chosen.try_for_each(|chunk| memory.transition(device, chunk, Target::Ram(Admission::Granted)))
    }

    /// Looks after watched files (`watch_files`), now and then.
    #[cold]
    pub fn watch_files_at_times(&self) {
        {
            let Ok(mut watched) = self.watched.try_lock() else { return };
            if watched.is_some_and(|last| last.elapsed() < WATCH) {
                return;
            }
            *watched = Some(Instant::now());
        }
        self.watch_files();
    }

    /// Looks whether files that weights are read in are what they were, and says so once of each that is not.
    #[cold]
    fn watch_files(&self) {
        let mut files: Vec<Arc<ModelFile>> = Vec::new();
        for chunk in self.memory.table().iter().flat_map(|allocation| &allocation.chunks) {
            if let Residency::File(pages) = &chunk.residency
                && !files.iter().any(|known| Arc::ptr_eq(known, &pages.file))
            {
                files.push(pages.file.clone());
            }
        }
        for file in files.iter().filter(|file| !file.has_its_bytes() && file.is_first_report()) {
            log::error!(
                "{}: changed while weights are read in its page cache: what the program computes from now on may be \
                 wrong; load the model again, and replace files by renaming new ones over them",
                file.path().display()
            );
            self.memory.record.files_changed.fetch_add(1, Relaxed);
        }
    }
}
