//! RAM in a file of ours, mapped over the reservation and registered with the driver.
//!
//! The file is a memfd or a buffer of the kernel module; only the opening differs. Kernels reach such memory at the
//! same address; copies and fills that cross a chunk's border are refused by the driver and must be split.

use super::host_backing::{HostBacking, HostChunk};
use greenboost_cuda::Driver;
use greenboost_cuda::abi::*;
use greenboost_cuda::host;
use greenboost_kmod::{Access, Mapping};
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// The token of a chunk that is mapped: its mapping is all that is left of it.
const MAPPED: u64 = u64::MAX;

/// Where the memory comes from.
pub trait Source: Send + Sync {
    /// The backing's name.
    const NAME: &'static str;
    /// Whether it may have no more while the machine has: see [`HostBacking::has_own_limit`].
    const HAS_OWN_LIMIT: bool;

    /// Whether there is anything to open at all.
    ///
    /// # Errors
    /// Why not, in words.
    fn ready(&self) -> Result<(), String>;

    /// A file of `bytes`, closed on exec.
    ///
    /// # Errors
    /// `CUDA_ERROR_OUT_OF_MEMORY`: there is no more. `CUDA_ERROR_NOT_SUPPORTED`: there never will be.
    fn open(&self, driver: &Driver, device: CUdevice, bytes: u64) -> Result<OwnedFd, Status>;

    /// See [`HostBacking::note`].
    fn note(&self) -> Option<String>;

    /// See [`HostBacking::is_machine_short`].
    fn is_machine_short(&self) -> bool {
        false
    }
}

/// A source whose files are registered.
#[derive(Default)]
pub struct Registered<S>(pub S);

/// Where the file is not mapped yet, its descriptor is the token.
fn file(chunk: &HostChunk) -> BorrowedFd<'_> {
    // SAFETY: only asked for before `map`, while the chunk holds the descriptor.
    unsafe { BorrowedFd::borrow_raw(chunk.token as RawFd) }
}

impl<S: Source> HostBacking for Registered<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn has_boundaries(&self) -> bool {
        true
    }

    fn has_own_limit(&self) -> bool {
        S::HAS_OWN_LIMIT
    }

    fn ready(&self) -> Result<(), String> {
        self.0.ready()
    }

    fn note(&self) -> Option<String> {
        self.0.note()
    }

    fn is_machine_short(&self) -> bool {
        self.0.is_machine_short()
    }

    fn create(&self, driver: &Driver, device: CUdevice, bytes: u64) -> Result<HostChunk, Status> {
        let fd = self.0.open(driver, device, bytes)?;
        Ok(HostChunk { token: fd.into_raw_fd() as u64, bytes })
    }

    fn fill(&self, driver: &Driver, _: CUdevice, chunk: HostChunk, from: CUdeviceptr) -> Result<(), Status> {
        let bytes = chunk.bytes as usize;
        let window = Mapping::of_file(file(&chunk), bytes, Access::ReadWrite).map_err(|_| OUT_OF_MEMORY)?;
        // SAFETY: the window is this many bytes of our own memory; the source is mapped VRAM of this size.
        unsafe { driver.cuMemcpyDtoH_v2(window.as_ptr().cast(), from, bytes) }
    }

    fn map(&self, driver: &Driver, _: CUdevice, chunk: &mut HostChunk, at: CUdeviceptr) -> Result<(), Status> {
        // SAFETY: an empty part of a reservation of ours, which it becomes again where registering fails.
        unsafe {
            host::map_over(file(chunk), at, chunk.bytes, 0, host::Access::ReadWrite).map_err(|error| {
                log::warn!("{} bytes of RAM could not be mapped at {at:#x}: {error}", chunk.bytes);
                OUT_OF_MEMORY
            })?;
            host::register(driver, at, chunk.bytes, host::Access::ReadWrite)
                .inspect_err(|_| host::restore_reservation(at, chunk.bytes))?;
        }
        // The mapping keeps the memory; hundreds of open files would meet the program's own limit.
        self.destroy(driver, *chunk);
        chunk.token = MAPPED;
        Ok(())
    }

    fn unmap(&self, driver: &Driver, chunk: HostChunk, at: CUdeviceptr) {
        // SAFETY: undoes what `map` made; nothing uses it.
        unsafe {
            if let Err(status) = host::unregister(driver, at) {
                log::error!("cuMemHostUnregister at {at:#x} failed with {status}");
            }
            host::restore_reservation(at, chunk.bytes);
        }
    }

    fn unmap_without_context(&self, _: &Driver, chunk: HostChunk, at: CUdeviceptr) {
        // SAFETY: what was registered went with its context.
        unsafe { host::restore_reservation(at, chunk.bytes) };
    }

    fn destroy(&self, _: &Driver, chunk: HostChunk) {
        if chunk.token != MAPPED {
            // SAFETY: the chunk holds the descriptor, and its owner uses it no more.
            drop(unsafe { OwnedFd::from_raw_fd(chunk.token as RawFd) });
        }
    }
}
