//! Taking RAM: from the budget, under the machine's pressure, out of the backing that still has some.

use crate::Memory;
use crate::backing::{HostBacking, HostChunk};
use crate::device::Device;
use crate::ram::{self, FLOOR};
use greenboost_cuda::abi::{OUT_OF_MEMORY, Status};
use greenboost_kmod::Level;
use std::sync::atomic::Ordering::Relaxed;

/// By what right RAM is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Nobody counts on it yet: a machine that is critically short refuses.
    New,
    /// The program was told that it has the memory, and would fault without.
    Granted,
}

impl Memory {
    /// Bytes of RAM in the budget; none from this level of pressure on.
    pub fn ram_left(&self, none_from: Level) -> u64 {
        match self.ram.left() {
            0 => 0,
            _ if self.pressure() >= none_from => 0,
            left => left,
        }
    }

    /// Whether the machine is not critically short of memory.
    pub fn may_take_ram(&self) -> bool {
        self.pressure() < Level::Critical
    }

    /// Reserves RAM in the budget, or refuses: over the budget, or the machine itself has run short since.
    pub fn reserve_ram(&self, bytes: u64, admission: Admission) -> bool {
        if bytes > 0 && admission == Admission::New && !self.may_take_ram() {
            self.record.pressure_refused.fetch_add(1, Relaxed);
            log::warn!("{bytes} bytes of RAM refused: the machine is critically short of memory");
            return false;
        }
        if self.ram.take(bytes).is_none() {
            return false;
        }
        let available = self.available_ram();
        if available < bytes.saturating_add(FLOOR) {
            self.ram.give_back(bytes);
            log::warn!("{bytes} bytes of RAM refused: {available} are available, {FLOOR} must stay so");
            return false;
        }
        self.record.ram_used.store(self.ram.used(), Relaxed);
        true
    }

    /// Gives RAM back to the budget.
    pub fn give_back_ram(&self, bytes: u64) {
        self.ram.give_back(bytes);
        self.record.ram_used.store(self.ram.used(), Relaxed);
    }

    /// Bytes of RAM that this process may still take.
    pub fn available_ram(&self) -> u64 {
        ram::available(self.files.pinned.bytes())
    }

    /// Whether this much more page cache can be held.
    pub fn has_room_for_pages(&self, bytes: u64) -> bool {
        self.available_ram() >= bytes.saturating_add(FLOOR)
    }

    /// Reserves RAM and makes it, not mapped yet. Where the device's backing has come to a limit that is not the
    /// machine's, another serves.
    pub(crate) fn take_ram(
        &self,
        device: &Device,
        bytes: u64,
        admission: Admission,
    ) -> Result<(&'static dyn HostBacking, HostChunk), Status> {
        let backing = self.backing_of(device).ok_or(OUT_OF_MEMORY)?;
        if !self.reserve_ram(bytes, admission) {
            return Err(OUT_OF_MEMORY);
        }
        let make = |backing: &'static dyn HostBacking| {
            backing.create(self.driver, device.ordinal, bytes).map(|chunk| (backing, chunk))
        };
        let made = make(backing).or_else(|status| {
            // What was granted before is honoured. Anything else obeys what the pool says of the machine.
            let elsewhere = admission == Admission::Granted || !backing.is_machine_short() && self.may_take_ram();
            let spare = if elsewhere { device.spare(backing.note(), self.record) } else { None };
            spare.map_or(Err(status), make)
        });
        made.inspect_err(|_| self.give_back_ram(bytes))
    }
}
