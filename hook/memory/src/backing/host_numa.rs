//! RAM from the driver itself: `cuMemCreate` at a NUMA node, mapped like VRAM.
//!
//! One reservation with such chunks behaves as one allocation for kernels, copies and fills. The price is
//! creation: the driver zeroes at about 5 GB/s.

use super::host_backing::{HostBacking, HostChunk};
use crate::access;
use greenboost_cuda::Driver;
use greenboost_cuda::abi::*;
use greenboost_cuda::vmm::{self, Reservation};
use std::ffi::c_int;

/// `CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID`.
const ATTRIBUTE_HOST_NUMA_ID: u32 = 134;

/// `cuMemCreate(HOST_NUMA)`.
#[derive(Default)]
pub struct HostNuma;

/// The NUMA node next to a device, where the driver says.
pub(super) fn nearest_node(driver: &Driver, device: CUdevice) -> Option<u32> {
    let mut node: c_int = -1;
    // SAFETY: writes one integer to a live local.
    unsafe { driver.cuDeviceGetAttribute(&mut node, ATTRIBUTE_HOST_NUMA_ID, device) }.ok()?;
    u32::try_from(node).ok()
}

/// Maps it at an empty part of a reservation of ours.
fn attach(driver: &Driver, chunk: HostChunk, at: CUdeviceptr) -> Result<(), Status> {
    // SAFETY: the caller's promise; `token` is a live handle of this size.
    unsafe { vmm::map(driver, at, chunk.bytes, chunk.token, &access::to_ram(driver)) }
}

impl HostBacking for HostNuma {
    fn name(&self) -> &'static str {
        "host-numa"
    }

    fn has_boundaries(&self) -> bool {
        false
    }

    fn create(&self, driver: &Driver, device: CUdevice, bytes: u64) -> Result<HostChunk, Status> {
        // Node 0 is there on every machine.
        let node = nearest_node(driver, device).unwrap_or(0) as c_int;
        let prop = AllocationProp::pinned(LOCATION_HOST_NUMA, node);
        Ok(HostChunk { token: vmm::create(driver, bytes, &prop)?, bytes })
    }

    fn fill(&self, driver: &Driver, _: CUdevice, chunk: HostChunk, from: CUdeviceptr) -> Result<(), Status> {
        // The memory needs an address to be copied to; it is a passing one.
        let (bytes, window) = (chunk.bytes as usize, Reservation::new(driver, chunk.bytes, 0, 0)?);
        attach(driver, chunk, window.at())?;
        // SAFETY: the window is ours alone until it is dropped; the source is mapped VRAM of this size.
        unsafe {
            let copied = driver.cuMemcpyDtoD_v2(window.at(), from, bytes).and_then(|()| driver.cuCtxSynchronize());
            let _ = driver.cuMemUnmap(window.at(), bytes);
            copied
        }
    }

    fn map(&self, driver: &Driver, _: CUdevice, chunk: &mut HostChunk, at: CUdeviceptr) -> Result<(), Status> {
        attach(driver, *chunk, at)
    }

    fn unmap(&self, driver: &Driver, chunk: HostChunk, at: CUdeviceptr) {
        // SAFETY: undoes `map` of this chunk at this address.
        if let Err(status) = unsafe { driver.cuMemUnmap(at, chunk.bytes as usize) } {
            log::error!("cuMemUnmap of a RAM chunk at {at:#x} failed with {status}");
        }
    }

    fn destroy(&self, driver: &Driver, chunk: HostChunk) {
        // SAFETY: the handle is ours and used no more.
        if let Err(status) = unsafe { driver.cuMemRelease(chunk.token) } {
            log::error!("cuMemRelease of a RAM chunk failed with {status}");
        }
    }
}
