//! A chunk in the page cache of a model file (tier T2f): the file's own pages, mapped over the reservation
//! and registered read-only. No second copy in RAM, and nothing to wait for when the model is loaded.
//!
//! ```text
//!   the file       ...│ header │ A A A A A A A A A A A A A A │ B B B ...
//!                                  ┊  ┌───────────────┐  ┊
//!   the allocation     ... 2 MiB ┊ │ A A A A A A A A A A │ B B ...    A's address and its offset in the file are the same
//!                                     └──────┬────────┘               modulo a page: the runtime sees to it
//!   homes             VRAM or RAM ...  page cache ...  RAM            granules that are A's alone; others are copied
//! ```
//!
//! Every address has its bytes at all times, so that an access that nobody sees is right as well. What writes to such a
//! chunk has it turned into RAM first (`rewriting`).

use greenboost_contract::settings::GRANULE;
use greenboost_cuda::abi::{CUdeviceptr, INVALID_VALUE, NOT_SUPPORTED, OUT_OF_MEMORY, Status};
use greenboost_cuda::{Driver, host};
use greenboost_weights::files::pinned::PinnedPages;
use greenboost_weights::files::{ModelFile, Place};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::sync::Arc;

/// Bytes that are read from a file at once.
const PIECE: usize = 4 << 20;

/// What the tier map calls this tier.
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
    ///
    /// # Errors
    /// The driver's status; `CUDA_ERROR_OUT_OF_MEMORY` when the file cannot be mapped, `CUDA_ERROR_NOT_SUPPORTED` when it has
    /// changed.
    pub fn map(&self, driver: &Driver, pinned: &PinnedPages, at: CUdeviceptr, bytes: u64) -> Result<(), Status> {
        let what = || self.file.path().display();
        // SAFETY: an empty part of a reservation of ours.
        unsafe { host::map_over(self.file.descriptor().as_fd(), at, bytes, self.offset, host::Access::Read) }.map_err(
            |error| {
                log::warn!("{} at {at:#x} could not be mapped: {error}", what());
                OUT_OF_MEMORY
            },
        )?;
        // SAFETY: mapped just now, until `unmap`.
        unsafe { pin(driver, pinned, at, bytes) }.inspect_err(|status| {
            log::warn!("{} at {at:#x} was not registered: {status}", what());
            // SAFETY: nothing uses it yet.
            unsafe { host::restore_reservation(at, bytes) };
        })?;
        if !self.file.has_its_bytes() {
            // What was mapped may have no pages any more.
            self.unmap(driver, pinned, at, bytes);
            return Err(NOT_SUPPORTED);
        }
        Ok(())
    }

    /// Undoes `map`; nothing may be using it.
    pub fn unmap(&self, driver: &Driver, pinned: &PinnedPages, at: CUdeviceptr, bytes: u64) {
        if let Err(status) = unpin(driver, pinned, at) {
            log::error!("cuMemHostUnregister at {at:#x} failed with {status}");
        }
        // SAFETY: the caller's promise.
        unsafe { host::restore_reservation(at, bytes) };
    }

    /// Reads the `bytes` that belong at `at`, piece by piece: `work` gets the address of each. Read, not copied out of a
    /// mapping: where the file has become shorter, that would end the program.
    ///
    /// # Errors
    /// `CUDA_ERROR_INVALID_VALUE` when the file cannot be read; what `work` says.
    pub fn each_piece(
        &self,
        at: CUdeviceptr,
        bytes: u64,
        mut work: impl FnMut(CUdeviceptr, &[u8]) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let mut reader = self.file.reader().map_err(|_| OUT_OF_MEMORY)?;
        reader.seek(SeekFrom::Start(self.offset)).map_err(|_| INVALID_VALUE)?;
        let (end, mut at, mut piece) = (at + bytes, at, Vec::with_capacity(PIECE));
        while at < end {
            let wanted = (end - at).min(PIECE as u64);
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
}

/// Registers a range of a read-only mapping of a file, at the same address for the device, in the current context.
///
/// # Safety
/// The range is mapped so, and stays mapped until [`unpin`].
///
/// # Errors
/// The driver's status.
pub unsafe fn pin(driver: &Driver, pinned: &PinnedPages, at: CUdeviceptr, bytes: u64) -> Result<(), Status> {
    // SAFETY: the caller's promise.
    unsafe { host::register(driver, at, bytes, host::Access::Read) }?;
    pinned.add(at, bytes);
    Ok(())
}

/// Undoes [`pin`], which nothing may be using.
///
/// # Errors
/// The driver's status.
pub fn unpin(driver: &Driver, pinned: &PinnedPages, at: CUdeviceptr) -> Result<(), Status> {
    pinned.remove(at);
    // SAFETY: registered by us, in use by nobody.
    unsafe { host::unregister(driver, at) }
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
    pub fn of(at: CUdeviceptr, bytes: u64, place: Place) -> Option<Self> {
        let first = at.next_multiple_of(GRANULE);
        let bytes = ((at + bytes) / GRANULE * GRANULE).checked_sub(first).filter(|bytes| *bytes > 0)?;
        Some(Self { at: first, bytes, pages: FilePages { file: place.file, offset: place.offset + (first - at) } })
    }

    /// The pages of an address in it.
    pub fn pages_at(&self, at: CUdeviceptr) -> FilePages {
        FilePages { file: self.pages.file.clone(), offset: self.pages.offset + (at - self.at) }
    }

    /// First address after it.
    pub fn end(&self) -> CUdeviceptr {
        self.at + self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use greenboost_weights::files::Files;
    use greenboost_weights::files::testing::{MappedFile, PAGE};

    /// A file that is known, and a place in it.
    fn place(mapped: &MappedFile, offset: u64) -> Place {
        let source = Files::new().source(mapped.at, mapped.bytes).expect("a file");
        Place { file: source.place().0.clone(), offset }
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
}
