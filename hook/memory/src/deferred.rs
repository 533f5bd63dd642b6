//! Allocations whose chunks are made later: their budgets are taken, their addresses are empty.

use crate::Memory;
use crate::admission::Admission;
use crate::allocation::{Allocation, Deferred, Fill};
use crate::device::{Device, Use};
use greenboost_contract::settings::GRANULE;
use greenboost_cuda::abi::{CUdeviceptr, OUT_OF_MEMORY, Status};
use std::sync::atomic::Ordering::{AcqRel, Acquire};

impl Memory {
    /// Whether any allocation has no chunks yet.
    #[inline]
    pub fn has_deferred(&self) -> bool {
        self.deferred.load(Acquire) != 0
    }

    /// Whether an address lies in an allocation without chunks yet.
    pub fn is_deferred(&self, address: CUdeviceptr) -> bool {
        self.has_deferred() && self.table().find(address).is_some_and(|allocation| allocation.deferred.is_some())
    }

    /// Takes the budgets for an allocation whose chunks are made later, as much VRAM as there is, and no more
    /// than `most_ram` in RAM.
    ///
    /// # Errors
    /// `CUDA_ERROR_OUT_OF_MEMORY`: a budget has less left.
    pub fn take_deferred(&self, device: &Device, allocation: &mut Allocation, most_ram: u64) -> Result<(), Status> {
        let vram = allocation.span.min(device.budget.left() / GRANULE * GRANULE);
        let ram = (allocation.span - vram).min(most_ram);
        if !device.take(Use::Chunks, vram) {
            return Err(OUT_OF_MEMORY);
        }
        if !self.reserve_ram(ram, Admission::New) {
            device.give_back(Use::Chunks, vram);
            return Err(OUT_OF_MEMORY);
        }
        allocation.deferred = Some(Deferred { vram, ram, fills: Vec::new() });
        self.deferred.fetch_add(1, AcqRel);
        Ok(())
    }

    /// Gives the budgets back that [`Memory::take_deferred`] took.
    pub fn give_back_budgets(&self, device: &Device, deferred: &Deferred) {
        device.give_back(Use::Chunks, deferred.vram);
        self.give_back_ram(deferred.ram);
    }

    /// Gives back what [`Memory::take_deferred`] took, for an allocation that goes without ever having had chunks.
    pub(crate) fn give_back_deferred(&self, device: &Device, deferred: &Deferred) {
        self.give_back_budgets(device, deferred);
        self.deferred.fetch_sub(1, AcqRel);
    }

    /// Puts an allocation that has its chunks now in the place of the deferred one.
    pub fn materialised(&self, allocation: Allocation) {
        self.table_mut().insert(allocation);
        self.deferred.fetch_sub(1, AcqRel);
    }

    /// Keeps a fill for later if it lies in an allocation without chunks.
    pub fn defer(&self, fill: Fill) -> bool {
        let mut table = self.table_mut();
        let Some(base) = table.find(fill.at).map(|allocation| allocation.base) else { return false };
        let deferred = table.get_mut(base).and_then(|allocation| allocation.deferred.as_mut());
        deferred.map(|deferred| deferred.fills.push(fill)).is_some()
    }
}
