//! Pages of a file as weights have them: mapped into a reservation, and registered read-only.
//!
//! No model is known when the probe runs. One file is always there: the library that this is.

use crate::backing::file_pages::{pin, unpin};
use greenboost_contract::settings::GRANULE;
use greenboost_cuda::abi::{CUdeviceptr, Status};
use greenboost_cuda::vmm::Reservation;
use greenboost_cuda::{Driver, host};
use greenboost_weights::files;
use greenboost_weights::files::pinned::PinnedPages;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

/// Its first bytes: pages, however large those are.
const BYTES: u64 = 64 << 10;

/// A granule of addresses.
pub fn granule(driver: &Driver) -> Result<Reservation<'_>, Status> {
    Reservation::new(driver, GRANULE, GRANULE, 0)
}

/// See the module.
pub struct FilePages<'a>(Reservation<'a>);

impl<'a> FilePages<'a> {
    /// Makes them what the device sees, in the current context; and the words that they have.
    ///
    /// # Errors
    /// Why it cannot be done; nothing is mapped then.
    pub fn map(driver: &'a Driver, pinned: &PinnedPages) -> Result<(Self, Vec<u32>), String> {
        let file = files::own_library().ok_or("the hook's own library cannot be opened")?;
        let mut bytes = vec![0; BYTES as usize];
        file.read_exact_at(&mut bytes, 0).map_err(|error| format!("the hook's own library cannot be read: {error}"))?;
        let granule = granule(driver).map_err(|status| format!("cuMemAddressReserve failed with {status}"))?;
        // SAFETY: a reservation of ours, with nothing in it.
        unsafe { host::map_over(file.as_fd(), granule.at(), BYTES, 0, host::Access::Read) }
            .map_err(|error| format!("the hook's own library cannot be mapped: {error}"))?;
        // SAFETY: mapped just now, until `unmap`; nothing uses it before this has succeeded.
        unsafe {
            pin(driver, pinned, granule.at(), BYTES).map_err(|status| {
                host::restore_reservation(granule.at(), BYTES);
                format!("registering them failed with {status}")
            })?;
        }
        let words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word)).collect();
        Ok((Self(granule), words))
    }

    /// Where they are.
    pub fn address(&self) -> CUdeviceptr {
        self.0.at()
    }

    /// Undoes `map`, `in_context` or after its end.
    pub fn unmap(self, pinned: &PinnedPages, in_context: bool) {
        let at = self.address();
        if !in_context {
            pinned.remove(at);
        } else if let Err(status) = unpin(self.0.driver(), pinned, at) {
            log::error!("cuMemHostUnregister at {at:#x} failed with {status}");
        }
        // SAFETY: the probe's kernel has ended, or its context has.
        unsafe { host::restore_reservation(at, BYTES) };
    }
}
