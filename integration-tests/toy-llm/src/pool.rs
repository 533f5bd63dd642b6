//! A scratch pool as ggml has it: 32 GiB of reserved addresses that grow by mapping VRAM after the last map.

use crate::cuda::{CudaError, DevicePtr, Driver};
use anyhow::Result;

const ADDRESSES: u64 = 32 << 30;

/// The pool. It only grows; everything in it is given back by one unmap.
pub struct Pool {
    base: DevicePtr,
    mapped: u64,
    granularity: u64,
}

impl Pool {
    /// Reserves the addresses.
    pub fn new(driver: &Driver) -> Result<Self> {
        Ok(Self { base: driver.reserve(ADDRESSES)?, mapped: 0, granularity: driver.map_granularity()? })
    }

    /// The pool's address, once at least `bytes` are mapped there.
    pub fn at_least(&mut self, driver: &Driver, bytes: u64) -> Result<DevicePtr, CudaError> {
        if bytes > self.mapped {
            let more = (bytes - self.mapped).next_multiple_of(self.granularity);
            driver.map_vram(self.base + self.mapped, more)?;
            self.mapped += more;
        }
        Ok(self.base)
    }

    /// Bytes mapped.
    pub fn bytes(&self) -> u64 {
        self.mapped
    }

    /// Gives everything back.
    pub fn close(self, driver: &Driver) -> Result<()> {
        driver.unreserve(self.base, self.mapped, ADDRESSES)
    }
}
