//! Pages of a file as a home of weights has them: mapped into a reservation, and registered read-only.
//!
//! No model is known when the probe runs. One file is always there: the library that this is.

use super::Granule;
use crate::files;
use crate::memory::registered::restore_reservation;
use greenboost_cuda::Driver;
use greenboost_cuda::abi::CUdeviceptr;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

/// Its first bytes: pages, however large those are.
const BYTES: u64 = 64 << 10;

/// See the module.
pub struct FilePages<'a>(Granule<'a>);

impl<'a> FilePages<'a> {
    /// Makes them what the device sees, in the current context; and the words that they have.
    ///
    /// # Errors
    /// Why it cannot be done; nothing is mapped then.
    pub fn map(driver: &'a Driver) -> Result<(Self, Vec<u32>), String> {
        let file = files::own_library().ok_or("the hook's own library cannot be opened")?.file;
        let mut bytes = vec![0; BYTES as usize];
        file.read_exact_at(&mut bytes, 0).map_err(|error| format!("the hook's own library cannot be read: {error}"))?;
        let granule = Granule::reserve(driver).map_err(|(what, status)| format!("{what} failed with {status}"))?;
        // SAFETY: a reservation of ours, with nothing in it.
        unsafe { files::map_over(file.as_fd(), granule.at, BYTES, 0) }
            .map_err(|error| format!("the hook's own library cannot be mapped: {error}"))?;
        // SAFETY: mapped just now, until `unmap`.
        unsafe { files::pin(driver, granule.at, BYTES) }.map_err(|status| {
            restore_reservation(granule.at, BYTES);
            format!("registering them failed with {status}")
        })?;
        let words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word)).collect();
        Ok((Self(granule), words))
    }

    /// Where they are.
    pub fn address(&self) -> CUdeviceptr {
        self.0.at
    }

    /// Undoes `map`, `in_context` or after its end.
    pub fn unmap(self, in_context: bool) {
        let Self(Granule { driver, at }) = &self;
        if !in_context {
            files::forget(*at);
        } else if let Err(status) = files::unpin(driver, *at) {
            log::error!("cuMemHostUnregister at {at:#x} failed with {status}");
        }
        restore_reservation(*at, BYTES);
    }
}
