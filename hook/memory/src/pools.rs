//! Memory pools: whose memory an allocation from one is, which no other argument of the call says.

use greenboost_cuda::Driver;
use greenboost_cuda::abi::{ALLOCATION_PINNED, CUdevice, CUmemoryPool, LOCATION_DEVICE, PoolProp};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Whose memory is in a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolHome {
    /// A device's, and nobody else has a name for it: RAM may stand in for it.
    Spans(CUdevice),
    /// A device's, which other processes may be given: it must be the driver's.
    Device(CUdevice),
    /// Not VRAM, or a pool that nothing is known of.
    Elsewhere,
}

/// The pools that the program has made.
#[derive(Debug, Default)]
pub struct Pools(Mutex<HashMap<usize, PoolHome>>);

impl Pools {
    fn lock(&self) -> MutexGuard<'_, HashMap<usize, PoolHome>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The program has made a pool.
    pub fn created(&self, pool: CUmemoryPool, prop: &PoolProp) {
        let home = match (prop.kind, prop.location.kind, prop.handle_types) {
            (ALLOCATION_PINNED, LOCATION_DEVICE, 0) => PoolHome::Spans(prop.location.id),
            (ALLOCATION_PINNED, LOCATION_DEVICE, _) => PoolHome::Device(prop.location.id),
            _ => PoolHome::Elsewhere,
        };
        self.lock().insert(pool as usize, home);
    }

    /// A pool is going, and another may get its name. What was known of it.
    pub fn destroyed(&self, pool: CUmemoryPool) -> Option<PoolHome> {
        self.lock().remove(&(pool as usize))
    }

    /// It stays.
    pub fn keep(&self, pool: CUmemoryPool, home: PoolHome) {
        self.lock().insert(pool as usize, home);
    }

    /// Whose memory is in a pool.
    pub fn home(&self, driver: &Driver, pool: CUmemoryPool) -> PoolHome {
        if let Some(home) = self.lock().get(&(pool as usize)) {
            return *home;
        }
        let is_default_of = |device: &CUdevice| {
            let mut default = std::ptr::null_mut();
            // SAFETY: writes one handle to a live local.
            unsafe { driver.cuDeviceGetDefaultMemPool(&mut default, *device) }.is_ok() && default == pool
        };
        (0..driver.device_count()).find(is_default_of).map_or(PoolHome::Elsewhere, PoolHome::Spans)
    }

    /// Whose memory is in the pool that allocations of a device come from.
    pub fn home_of(&self, driver: &Driver, device: CUdevice) -> PoolHome {
        let mut pool = std::ptr::null_mut();
        // SAFETY: writes one handle to a live local.
        match unsafe { driver.cuDeviceGetMemPool(&mut pool, device) } {
            Ok(()) => self.home(driver, pool),
            Err(_) => PoolHome::Elsewhere,
        }
    }
}
