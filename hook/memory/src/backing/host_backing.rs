//! A kind of system memory that is mapped at device addresses: the trait.
//!
//! A chunk of RAM goes through five steps. `create` and `fill` happen while its bytes are still in VRAM,
//! so that the moment without a residency (`cuMemUnmap` to `map`) is as short as a remap:
//!
//! ```text
//!   create -> fill (from VRAM, when moving) -> map at the device address -> ... -> unmap -> destroy
//! ```

use greenboost_cuda::Driver;
use greenboost_cuda::abi::{CUdevice, CUdeviceptr, Status};

/// Memory of a backing: its own name for it (a driver handle, a file descriptor) and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostChunk {
    /// The backing's name for the memory.
    pub token: u64,
    /// Bytes, a multiple of 2 MiB.
    pub bytes: u64,
}

/// A kind of system memory that is mapped at device addresses. Addresses lie inside a reservation of ours
/// (`cuMemAddressReserve`), sizes are multiples of 2 MiB, a context of the device is current, and nothing is
/// using the range when it changes.
pub trait HostBacking: Send + Sync {
    /// The name it has in settings, logs and the status record.
    fn name(&self) -> &'static str;

    /// Whether copies and fills that cross the border of a chunk must be split there.
    fn has_boundaries(&self) -> bool;

    /// Whether it can refuse memory that the machine still has. Another backing then serves the rest.
    fn has_own_limit(&self) -> bool {
        false
    }

    /// Whether it last refused because the machine is short of memory: no other backing may serve instead.
    fn is_machine_short(&self) -> bool {
        false
    }

    /// Whether there is anything to try: asked before a context is made for trying.
    ///
    /// # Errors
    /// Why not, in words.
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    /// What there is to say of it beyond a status: why it last refused, or what was found out while it was tried.
    fn note(&self) -> Option<String> {
        None
    }

    /// Makes memory that is not mapped anywhere yet.
    ///
    /// # Errors
    /// The driver's status; `CUDA_ERROR_OUT_OF_MEMORY` when there is no more.
    fn create(&self, driver: &Driver, device: CUdevice, bytes: u64) -> Result<HostChunk, Status>;

    /// Copies a chunk's worth of device bytes into memory that is not mapped yet; done when it returns.
    ///
    /// # Errors
    /// The driver's status; the source is untouched.
    fn fill(&self, driver: &Driver, device: CUdevice, chunk: HostChunk, from: CUdeviceptr) -> Result<(), Status>;

    /// Makes the memory what the device sees at `at`.
    ///
    /// # Errors
    /// The driver's status; nothing is mapped then.
    fn map(&self, driver: &Driver, device: CUdevice, chunk: &mut HostChunk, at: CUdeviceptr) -> Result<(), Status>;

    /// Undoes `map`; the address is reserved and empty again, and mapped memory of a file is gone with it.
    fn unmap(&self, driver: &Driver, chunk: HostChunk, at: CUdeviceptr);

    /// The same where the context is gone that the memory was mapped in, and what was registered in it.
    fn unmap_without_context(&self, driver: &Driver, chunk: HostChunk, at: CUdeviceptr) {
        self.unmap(driver, chunk, at);
    }

    /// Gives the memory back.
    fn destroy(&self, driver: &Driver, chunk: HostChunk);
}
