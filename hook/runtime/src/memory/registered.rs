//! RAM in a file of ours, mapped over the reservation and registered with the driver.
//!
//! The file is a memfd or a buffer of the kernel module; only the opening differs. Kernels reach such memory at the
//! same address; copies and fills that cross a chunk's border are refused by the driver and must be cut.

use super::backing::{HostBacking, HostChunk};
use greenboost_cuda::Driver;
use greenboost_cuda::abi::*;
use greenboost_kmod::{Access, Mapping, map_fixed};
use std::ffi::c_void;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// `CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP`.
const REGISTER_FLAGS: u32 = 1 | 2;
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

    /// See [`HostBacking::variant`].
    fn variant(&self) -> String;

    /// See [`HostBacking::recall`].
    fn recall(&self, _note: Option<&str>) {}
}

/// A source whose files are registered.
pub struct Registered<S>(pub S);

/// Where the file is not mapped yet, its descriptor is the token.
fn file(chunk: &HostChunk) -> BorrowedFd<'_> {
    // SAFETY: only asked for before `map`, while the chunk holds the descriptor.
    unsafe { BorrowedFd::borrow_raw(chunk.token as RawFd) }
}

/// Maps the file into an empty part of a reservation of ours.
fn map_over(chunk: &HostChunk, at: CUdeviceptr) -> Result<(), Status> {
    let (host, bytes) = (at as *mut c_void, chunk.bytes as usize);
    // SAFETY: an empty part of a reservation of ours.
    unsafe { map_fixed(file(chunk), host, 0, bytes, Access::ReadWrite) }.map_err(|error| {
        log::warn!("{bytes} bytes of RAM could not be mapped at {at:#x}: {error}");
        OUT_OF_MEMORY
    })?;
    // SAFETY: advice on our own mapping; a kernel that cannot follow it changes nothing.
    unsafe {
        libc::madvise(host, bytes, libc::MADV_HUGEPAGE);
        // A forked child has no use for it, and would keep it alive when we are gone.
        libc::madvise(host, bytes, libc::MADV_DONTFORK);
    }
    Ok(())
}

/// Registers what is mapped, at the same address for the device.
fn register(driver: &Driver, at: CUdeviceptr, bytes: u64) -> Result<(), Status> {
    let (host, mut seen) = (at as *mut c_void, 0);
    // SAFETY: the range was mapped just now and stays so until `unmap`.
    unsafe {
        driver.cuMemHostRegister_v2(host, bytes as usize, REGISTER_FLAGS)?;
        let same = driver.cuMemHostGetDevicePointer_v2(&mut seen, host, 0).is_ok() && seen == at;
        // Elsewhere on the device it is of no use: the program has this address.
        if same { Ok(()) } else { driver.cuMemHostUnregister(host).and(Err(NOT_SUPPORTED)) }
    }
}

/// Makes the range what the driver's reservation was: addresses that nobody else can be given.
pub(super) fn restore_reservation(at: CUdeviceptr, bytes: u64) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: replaces our own mapping inside our own reservation.
    let restored = unsafe { libc::mmap(at as *mut c_void, bytes as usize, libc::PROT_NONE, flags, -1, 0) };
    if restored == libc::MAP_FAILED {
        log::error!("the reservation at {at:#x} could not be restored: {}", std::io::Error::last_os_error());
    }
}

impl<S: Source> HostBacking for Registered<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn has_seams(&self) -> bool {
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

    fn variant(&self) -> String {
        self.0.variant()
    }

    fn recall(&self, note: Option<&str>) {
        self.0.recall(note);
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
        map_over(chunk, at)?;
        register(driver, at, chunk.bytes).inspect_err(|_| restore_reservation(at, chunk.bytes))?;
        // The mapping keeps the memory; hundreds of open files would meet the program's own limit.
        self.destroy(driver, *chunk);
        chunk.token = MAPPED;
        Ok(())
    }

    fn unmap(&self, driver: &Driver, chunk: HostChunk, at: CUdeviceptr) {
        // SAFETY: undoes the registration that `map` made.
        if let Err(status) = unsafe { driver.cuMemHostUnregister(at as *mut c_void) } {
            log::error!("cuMemHostUnregister at {at:#x} failed with {status}");
        }
        restore_reservation(at, chunk.bytes);
    }

    fn unmap_without_context(&self, _: &Driver, chunk: HostChunk, at: CUdeviceptr) {
        restore_reservation(at, chunk.bytes);
    }

    fn destroy(&self, _: &Driver, chunk: HostChunk) {
        if chunk.token != MAPPED {
            // SAFETY: the chunk holds the descriptor, and its owner uses it no more.
            drop(unsafe { OwnedFd::from_raw_fd(chunk.token as RawFd) });
        }
    }
}
