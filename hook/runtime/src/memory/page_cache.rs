//! The page cache of a model file as the home of a chunk (tier T2f): the file's own pages, mapped over the reservation
//! and registered read-only. No second copy in RAM, and nothing to wait for when the model is loaded.
//!
//! ```text
//!   the file       ...│ header │ A A A A A A A A A A A A A A │ B B B ...
//!                                  ┊  ┌───────────────┐  ┊
//!   the allocation     ... 2 MiB ┊ │ A A A A A A A A A A │ B B ...    A's address and its offset in the file are the same
//!                                     └──────┬────────┘               modulo a page: `ggml::congruent` sees to it
//!   homes             VRAM or RAM ...  page cache ...  RAM            granules that are A's alone; others are copied
//! ```
//!
//! Every address has its bytes at all times, so that an access that nobody sees is right as well. What writes to such a
//! chunk has it turned into RAM first (`rewriting`).

use super::Memory;
use super::allocations::{Allocation, Home};
use super::device::Device;
use super::registered::restore_reservation;
use crate::files::{self, ModelFile, models};
use crate::ggml::congruent::{self, LEAST, is_congruent};
use crate::ggml::registry::Tensor;
use greenboost_contract::settings::GRANULE;
use greenboost_contract::{PageCache, format_size};
use greenboost_cuda::Driver;
use greenboost_cuda::abi::*;
use greenboost_kmod::Level;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};

/// What the tier map calls such a home.
pub const NAME: &str = "page-cache";

/// A part of a file.
#[derive(Debug, Clone)]
pub struct FilePages {
    /// The file.
    pub file: Arc<ModelFile>,
    /// Where in it, bytes; a multiple of a page.
    pub offset: u64,
}

impl FilePages {
    /// Makes the pages what the device sees at `at`, a part of a reservation of ours that is empty, and stays so when it
    /// fails.
    pub(super) fn map(&self, driver: &Driver, at: CUdeviceptr, bytes: u64) -> Result<(), Status> {
        // SAFETY: an empty part of a reservation of ours.
        unsafe { self.file.map_over(at, bytes, self.offset) }.map_err(|error| {
            log::warn!("{} at {at:#x} could not be mapped: {error}", self.file.path().display());
            OUT_OF_MEMORY
        })?;
        // SAFETY: mapped just now, until `unmap`.
        unsafe { files::pin(driver, at, bytes) }.inspect_err(|status| {
            log::warn!("{} at {at:#x} was not registered: {status}", self.file.path().display());
            restore_reservation(at, bytes);
        })?;
        if !self.file.has_its_bytes() {
            // What was mapped may have no pages any more.
            self.unmap(driver, at, bytes);
            return Err(NOT_SUPPORTED);
        }
        Ok(())
    }

    /// Undoes `map`; nothing may be using it.
    pub(super) fn unmap(&self, driver: &Driver, at: CUdeviceptr, bytes: u64) {
        if let Err(status) = files::unpin(driver, at) {
            log::error!("cuMemHostUnregister at {at:#x} failed with {status}");
        }
        restore_reservation(at, bytes);
    }
}

/// Whole granules of an allocation that hold what a part of a file holds.
#[derive(Debug, Clone)]
pub struct FileRange {
    /// First address.
    pub at: CUdeviceptr,
    /// Bytes, a multiple of 2 MiB.
    pub bytes: u64,
    /// The part of the file that begins as they do.
    pub pages: FilePages,
}

impl FileRange {
    /// The granules that a tensor has for itself.
    fn of(at: CUdeviceptr, bytes: u64, place: models::Place) -> Option<Self> {
        let first = at.next_multiple_of(GRANULE);
        let bytes = ((at + bytes) / GRANULE * GRANULE).checked_sub(first).filter(|bytes| *bytes > 0)?;
        Some(Self { at: first, bytes, pages: FilePages { file: place.file, offset: place.offset + (first - at) } })
    }

    /// The pages of an address in it.
    pub(super) fn pages_at(&self, at: CUdeviceptr) -> FilePages {
        FilePages { file: self.pages.file.clone(), offset: self.pages.offset + (at - self.at) }
    }

    /// First address behind it.
    pub fn end(&self) -> CUdeviceptr {
        self.at + self.bytes
    }
}

impl Memory {
    /// Whether any chunk's home is a file: almost always no, and quickly said.
    #[inline]
    pub fn has_file_homes(&self) -> bool {
        self.file_homes.load(Relaxed) != 0
    }

    /// Which granules of an allocation of weights files can be the homes of, in order of address.
    pub(super) fn file_ranges(&self, tensors: &[(u64, Tensor)]) -> Vec<FileRange> {
        if self.settings.page_cache == PageCache::Off {
            return Vec::new();
        }
        let range = |(at, tensor): &(u64, Tensor)| {
            let place = models::place(&tensor.name, tensor.bytes)?;
            is_congruent(*at, place.offset).then(|| FileRange::of(*at, tensor.bytes, place)).flatten()
        };
        tensors.iter().filter(|(_, tensor)| tensor.bytes >= LEAST).filter_map(range).collect()
    }

    /// RAM that an allocation of weights takes at the most: all of it, unless there is not so much RAM and files are known to
    /// have the rest.
    pub(super) fn most_ram(&self, device: &Device, span: u64) -> u64 {
        let expected = congruent::expected();
        let is_short = || span.saturating_sub(device.budget.left()) > self.ram_left(Level::Critical);
        if expected == 0 || !is_short() || !self.may_be_in_file(device, expected) {
            return span;
        }
        span.saturating_sub(expected)
    }

    /// Makes a part of a file a home. `None`: it has to be RAM.
    pub(super) fn file_home(&self, device: &Device, range: &FileRange, at: CUdeviceptr, bytes: u64) -> Option<Home> {
        if !self.may_be_in_file(device, bytes) {
            return None;
        }
        let pages = range.pages_at(at);
        pages.map(self.driver, at, bytes).ok()?;
        self.pages_come(device, bytes);
        Some(Home::File(pages))
    }

    /// Whether so much more page cache may become a home.
    pub(super) fn may_be_in_file(&self, device: &Device, bytes: u64) -> bool {
        device.reads_files() && files::has_room(bytes)
    }

    /// A chunk's home is a file now.
    pub(super) fn pages_come(&self, device: &Device, bytes: u64) {
        self.file_homes.fetch_add(1, AcqRel);
        self.note_pages(device, bytes, true);
        self.seams.store(true, Relaxed);
    }

    /// Puts a file's pages back where they were taken away.
    pub(super) fn restore_pages(&self, pages: &FilePages, at: CUdeviceptr, bytes: u64) {
        if let Err(status) = pages.map(self.driver, at, bytes) {
            log::error!("a chunk at {at:#x} is unmapped: its file's pages could not be put back: {status}");
        }
    }

    /// A chunk's home is a file no more.
    pub(super) fn pages_gone(&self, device: &Device, bytes: u64) {
        self.file_homes.fetch_sub(1, AcqRel);
        self.note_pages(device, bytes, false);
    }

    fn note_pages(&self, device: &Device, bytes: u64, is_new: bool) {
        let count = &device.record.page_cache;
        if is_new {
            count.fetch_add(bytes, Relaxed)
        } else {
            count.fetch_sub(bytes, Relaxed)
        };
        self.record.file_bytes.store(files::registered(), Relaxed);
    }

    /// Looks whether files that weights are read in are what they were, and says so once of each that is not.
    #[cold]
    pub fn watch_files(&self) {
        let mut files: Vec<Arc<ModelFile>> = Vec::new();
        for chunk in self.table().iter().flat_map(|allocation| &allocation.chunks) {
            if let Home::File(pages) = &chunk.home
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
            self.record.files_changed.fetch_add(1, Relaxed);
        }
    }

    /// What the log says of an allocation's homes beyond VRAM.
    pub(super) fn in_files(allocation: &Allocation) -> String {
        let files = allocation.chunks.iter().filter(|chunk| matches!(chunk.home, Home::File(_)));
        match files.map(|chunk| chunk.bytes).sum() {
            0 => String::new(),
            bytes => format!(", {} in the page cache of the model file", format_size(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::testing::{MappedFile, PAGE};

    /// A file that is known, and a place in it.
    fn place(mapped: &MappedFile, offset: u64) -> models::Place {
        let source = files::source(mapped.at, mapped.bytes).expect("a file");
        models::Place { file: source.place().0.clone(), offset }
    }

    #[test]
    fn only_granules_that_a_tensor_has_for_itself_are_a_files() {
        let mapped = MappedFile::new("model", 4 * PAGE, libc::MAP_SHARED, libc::PROT_READ);
        let of = |at, bytes| {
            let range = FileRange::of(at, bytes, place(&mapped, 96))?;
            assert_eq!(range.pages_at(range.at + GRANULE).offset, range.pages.offset + GRANULE);
            Some((range.at, range.end(), range.pages.offset))
        };
        const BASE: u64 = 10 * GRANULE;
        // From one border to another, and with parts of granules on either side.
        assert_eq!(of(BASE, 2 * GRANULE), Some((BASE, BASE + 2 * GRANULE, 96)));
        assert_eq!(of(BASE - 96, 2 * GRANULE), Some((BASE, BASE + GRANULE, 192)));
        assert_eq!(of(BASE + 1, 3 * GRANULE), Some((BASE + GRANULE, BASE + 3 * GRANULE, 96 + GRANULE - 1)));
        // None is whole.
        assert_eq!((of(BASE + 1, 2 * GRANULE - 2), of(BASE + 1, GRANULE - 1), of(BASE, 0)), (None, None, None));
    }

    #[test]
    fn an_address_is_congruent_with_an_offset_of_the_same_place_in_a_page() {
        let page = greenboost_intercept::inject::page_size() as u64;
        assert!(is_congruent(7 * page + 32, 32) && is_congruent(0, 5 * page) && !is_congruent(page + 32, 64));
    }
}
