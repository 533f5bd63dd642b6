//! Taking RAM: from the budget, under the machine's pressure, out of the backing that still has some.

use super::Memory;
use super::backing::{HostBacking, HostChunk};
use super::device::Device;
use super::pressure;
use greenboost_cuda::abi::{OUT_OF_MEMORY, Status};
use greenboost_kmod::Level;
use std::sync::atomic::Ordering::Relaxed;

/// By what right RAM is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nobody counts on it yet: a machine that is critically short refuses.
    New,
    /// The program was told that it has the memory, and would fault without.
    Granted,
}

impl Memory {
    /// Bytes of RAM in the budget; none from this level of pressure on.
    pub(super) fn ram_left(&self, none_from: Level) -> u64 {
        match self.ram.left() {
            0 => 0,
            _ if pressure::level(self.record) >= none_from => 0,
            left => left,
        }
    }

    /// Whether the machine is not critically short of memory.
    pub(super) fn may_take_ram(&self) -> bool {
        pressure::level(self.record) < Level::Critical
    }

    /// Reserves RAM in the budget.
    pub(super) fn reserve_ram(&self, bytes: u64, claim: Claim) -> bool {
        if bytes > 0 && claim == Claim::New && !self.may_take_ram() {
            self.record.pressure_refused.fetch_add(1, Relaxed);
            log::warn!("{bytes} bytes of RAM refused: the machine is critically short of memory");
            return false;
        }
        self.ram.take(bytes, self.record)
    }

    /// Reserves RAM and makes it, not mapped yet. Where the device's backing has come to a limit that is not the
    /// machine's, another serves.
    pub(super) fn take_ram(
        &self,
        device: &Device,
        bytes: u64,
        claim: Claim,
    ) -> Result<(&'static dyn HostBacking, HostChunk), Status> {
        let backing = device.backing(self.driver, self.settings, self.record).ok_or(OUT_OF_MEMORY)?;
        if !self.reserve_ram(bytes, claim) {
            return Err(OUT_OF_MEMORY);
        }
        let make = |backing: &'static dyn HostBacking| {
            backing.create(self.driver, device.ordinal, bytes).map(|chunk| (backing, chunk))
        };
        let made = make(backing).or_else(|status| {
            device.refused(backing, status);
            let elsewhere = claim == Claim::Granted || self.may_take_ram();
            let spare = if elsewhere { device.spare(backing.note(), self.record) } else { None };
            spare.map_or(Err(status), make)
        });
        made.inspect_err(|_| self.ram.give_back(bytes, self.record))
    }
}
