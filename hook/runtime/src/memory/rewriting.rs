//! Chunks on their way out of a file's page cache, and into it.
//!
//! What is written to weights whose home is a file is nothing where the file has the very bytes; else the chunk becomes RAM
//! first. The file itself is never written. A chunk that leaves VRAM goes to the file if it has the very bytes, which are
//! compared: whatever was done to them, nothing has to be believed.

use super::Memory;
use super::allocations::{Chunk, Home};
use super::captures;
use super::claim::Claim;
use super::device::Device;
use super::gate::{GATE, Inside};
use super::page_cache::{FilePages, FileRange};
use crate::files;
use crate::ggml::registry;
use crate::upload;
use greenboost_contract::{Assist, PageCache, Stream};
use greenboost_cuda::abi::*;
use greenboost_cuda::{Current, RelaxedCapture};
use std::io::{Read, Seek, SeekFrom};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// How often files are looked at while kernels run.
const WATCH: Duration = Duration::from_secs(1);
/// Bytes that are read from a file at once.
const PIECE: usize = 4 << 20;

/// Whether a write of weights was captured: the graph may be launched at any time, and would fault on a file's pages.
static WRITES_CAPTURED: AtomicBool = AtomicBool::new(false);

impl Memory {
    /// Whether it matters what is written at all.
    pub fn wants_to_know_writes(&self) -> bool {
        let settings = self.settings;
        settings.stream == Stream::On || settings.assist == Assist::On || settings.page_cache == PageCache::On
    }

    /// Enters the gate to write to ranges: none of them has a file for its home while the result lives.
    ///
    /// # Errors
    /// The status that the write has to fail with: the file's pages are read-only.
    #[inline]
    pub fn enter_to_write(&self, targets: &[(CUdeviceptr, u64)]) -> Result<Inside<'static>, Status> {
        match self.settings.page_cache {
            PageCache::Off => Ok(GATE.enter()),
            PageCache::On => self.enter_without_pages(captures::maybe_any(), targets, |_| false),
        }
    }

    /// The same, to copy from `src`, `on` a stream or at once. Chunks whose file has these very bytes stay as they are: those
    /// pieces of the copy are to be left out ([`Memory::is_in_file`]).
    ///
    /// # Errors
    /// As of [`Memory::enter_to_write`].
    #[inline]
    pub fn enter_to_copy(
        &self,
        on: Option<CUstream>,
        dst: CUdeviceptr,
        src: u64,
        bytes: u64,
    ) -> Result<Inside<'static>, Status> {
        if self.settings.page_cache == PageCache::Off {
            return Ok(GATE.enter());
        }
        // What is captured happens later, and again.
        let is_captured = captures::maybe_any() && on.is_some_and(|on| self.is_captured(on));
        self.enter_without_pages(is_captured, &[(dst, bytes)], |chunk| {
            let Home::File(pages) = &chunk.home else { return true };
            let (first, last) = (chunk.at.max(dst), chunk.end().min(dst.saturating_add(bytes)));
            !is_captured && pages.has(chunk, first, last - first, src + (first - dst))
        })
    }

    /// Whether work on a stream is captured, or may be. The legacy stream cannot capture, nor be asked while another does.
    fn is_captured(&self, on: CUstream) -> bool {
        on != STREAM_LEGACY && captures::is_capturing(self.driver, on) != Some(false)
    }

    fn enter_without_pages(
        &self,
        may_be_captured: bool,
        targets: &[(CUdeviceptr, u64)],
        may_stay: impl Fn(&Chunk) -> bool,
    ) -> Result<Inside<'static>, Status> {
        if may_be_captured && targets.iter().any(|(at, bytes)| registry::has_weight(*at, *bytes)) {
            WRITES_CAPTURED.store(true, SeqCst);
        }
        let goes = |chunk: &&Chunk| matches!(chunk.home, Home::File(_)) && !may_stay(chunk);
        loop {
            let inside = GATE.enter();
            // Asked inside, because a chunk that leaves VRAM may get a file for its home at any other time.
            if !self.has_file_homes() {
                return Ok(inside);
            }
            let table = self.table();
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

    /// Whether any of a range lies in a chunk whose home is a file.
    #[inline]
    pub fn is_in_file(&self, at: CUdeviceptr, bytes: u64) -> bool {
        self.has_file_homes() && self.table().is_in_file(at, bytes)
    }

    /// [`Memory::watch_files`], now and then.
    #[cold]
    pub fn watch_files_at_times(&self) {
        static LAST: Mutex<Option<Instant>> = Mutex::new(None);
        {
            let Ok(mut last) = LAST.try_lock() else { return };
            if last.is_some_and(|last| last.elapsed() < WATCH) {
                return;
            }
            *last = Some(Instant::now());
        }
        self.watch_files();
    }

    #[cold]
    fn give_up_pages(&self, around: CUdeviceptr, chunks: &[CUdeviceptr]) -> Result<(), Status> {
        let _relaxed = RelaxedCapture::enter(self.driver);
        // One at a time: another may have done it meanwhile.
        let _placing = self.placing();
        self.watch_files();
        let changed = self.turn_into_ram(around, chunks);
        if let Err(status) = changed {
            log::error!("weights at {around:#x} cannot be written: they are a file's, and RAM came to {status}");
        }
        self.homes_changed();
        changed
    }

    /// Gives chunks of the allocation around an address homes in RAM, with the file's bytes.
    fn turn_into_ram(&self, around: CUdeviceptr, chunks: &[CUdeviceptr]) -> Result<(), Status> {
        let ordinal = self.table().find(around).map(|allocation| allocation.device).ok_or(INVALID_VALUE)?;
        let device = self.device(ordinal).map_err(|_| UNKNOWN)?;
        // A write that is captured happens later; that the pages are read-only then would fault.
        if captures::any(self.driver) {
            return Err(NOT_SUPPORTED);
        }
        let _closed = GATE.close().ok_or(NOT_SUPPORTED)?;
        if captures::any(self.driver) || !self.wait_for(device) {
            return Err(NOT_SUPPORTED);
        }
        let mut table = self.table_mut();
        let base = table.find(around).map(|allocation| allocation.base).ok_or(INVALID_VALUE)?;
        let allocation = table.get_mut(base).ok_or(INVALID_VALUE)?;
        let _current = Current::push(self.driver, allocation.context)?;
        let chosen = allocation.chunks.iter_mut().filter(|chunk| chunks.contains(&chunk.at));
        chosen.into_iter().try_for_each(|chunk| self.turn_one_into_ram(device, chunk))
    }

    fn turn_one_into_ram(&self, device: &Device, chunk: &mut Chunk) -> Result<(), Status> {
        let Home::File(pages) = &chunk.home else { return Ok(()) };
        let (backing, mut memory) = self.take_ram(device, chunk.bytes, Claim::Granted)?;
        pages.unmap(self.driver, chunk.at, chunk.bytes);
        let filled = backing.map(self.driver, device.ordinal, &mut memory, chunk.at).and_then(|()| {
            self.copy_from_file(pages, chunk).inspect_err(|_| backing.unmap(self.driver, memory, chunk.at))
        });
        if let Err(status) = filled {
            backing.destroy(self.driver, memory);
            self.ram.give_back(chunk.bytes, self.record);
            self.restore_pages(pages, chunk.at, chunk.bytes);
            return Err(status);
        }
        self.pages_gone(device, chunk.bytes);
        self.note_ram(device, backing, chunk.bytes);
        chunk.home = Home::Ram(backing, memory);
        Ok(())
    }

    /// Fills a chunk that is RAM now. Read, not copied out of a mapping: where the file has become shorter, that would end
    /// the program.
    fn copy_from_file(&self, pages: &FilePages, chunk: &Chunk) -> Result<(), Status> {
        pages.each_piece(chunk, |at, piece| {
            // SAFETY: a buffer of so many bytes, into memory that is mapped here and in use by nobody.
            unsafe { self.driver.cuMemcpyHtoD_v2(at, piece.as_ptr().cast(), piece.len()) }
        })
    }

    /// Gives a chunk in VRAM a home in the file that has its bytes. `false`: there is none, or not now. Nobody is using the
    /// chunk, nor can.
    pub(super) fn move_to_file(
        &self,
        device: &Device,
        files: &[FileRange],
        chunk: &mut Chunk,
        handle: CUmemGenericAllocationHandle,
    ) -> bool {
        if WRITES_CAPTURED.load(SeqCst) {
            return false;
        }
        let range = files.iter().find(|range| range.at <= chunk.at && chunk.end() <= range.end());
        let Some(range) = range.filter(|_| self.may_be_in_file(device, chunk.bytes)) else { return false };
        let pages = range.pages_at(chunk.at);
        if !pages.file.has_its_bytes() || !self.is_the_same(&pages, chunk) {
            return false;
        }
        if let Err(status) = self.exchange(device, chunk, handle, || pages.map(self.driver, chunk.at, chunk.bytes)) {
            log::debug!("a chunk at {:#x} goes to RAM, not to its file: {status}", chunk.at);
            return false;
        }
        chunk.home = Home::File(pages);
        self.vram_gone(device, chunk.bytes, handle);
        self.pages_come(device, chunk.bytes);
        true
    }

    /// Whether a chunk's bytes are those of a file.
    fn is_the_same(&self, pages: &FilePages, chunk: &Chunk) -> bool {
        upload::is_the_same(self, chunk, pages.file.descriptor(), pages.offset)
            .unwrap_or_else(|| self.is_the_same_alone(pages, chunk))
    }

    fn is_the_same_alone(&self, pages: &FilePages, chunk: &Chunk) -> bool {
        let mut there = vec![0u8; PIECE];
        let compared = pages.each_piece(chunk, |at, piece| {
            let there = &mut there[..piece.len()];
            // SAFETY: a buffer of so many bytes, out of VRAM that is mapped here.
            unsafe { self.driver.cuMemcpyDtoH_v2(there.as_mut_ptr().cast(), at, piece.len()) }?;
            if there == piece { Ok(()) } else { Err(INVALID_VALUE) }
        });
        compared.is_ok()
    }
}

impl FilePages {
    /// Reads what a chunk is to hold, piece by piece: `work` gets the address of each.
    fn each_piece(
        &self,
        chunk: &Chunk,
        mut work: impl FnMut(CUdeviceptr, &[u8]) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let mut reader = self.file.reader().map_err(|_| OUT_OF_MEMORY)?;
        reader.seek(SeekFrom::Start(self.offset)).map_err(|_| INVALID_VALUE)?;
        let (mut at, mut piece) = (chunk.at, Vec::with_capacity(PIECE));
        while at < chunk.end() {
            let wanted = (chunk.end() - at).min(PIECE as u64);
            piece.clear();
            reader.by_ref().take(wanted).read_to_end(&mut piece).map_err(|error| {
                log::error!("{}: cannot be read: {error}", self.file.path().display());
                INVALID_VALUE
            })?;
            // Where the file has become shorter.
            piece.resize(wanted as usize, 0);
            work(at, &piece)?;
            at += wanted;
        }
        Ok(())
    }

    /// Whether what lies at an address of the program is the very part of the file that is at `at` in this chunk.
    fn has(&self, chunk: &Chunk, at: CUdeviceptr, bytes: u64, source: u64) -> bool {
        files::source(source, bytes).is_some_and(|source| {
            let (file, offset) = source.place();
            file.id() == self.file.id() && offset == self.offset + (at - chunk.at) && self.file.has_its_bytes()
        })
    }
}
