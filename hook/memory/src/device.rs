//! One GPU as this process uses it: budget, backing, record.

use crate::backing::HostBacking;
use crate::budget::Budget;
use greenboost_contract::record::{DeviceRecord, Record};
use greenboost_contract::{Settings, format_size, vram};
use greenboost_cuda::abi::{CUcontext, CUdevice, INVALID_CONTEXT, Status};
use greenboost_cuda::{Current, Driver};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// `CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED`.
const ATTRIBUTE_VMM: u32 = 102;

/// What VRAM is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Chunks of spanning allocations.
    Chunks,
    /// Allocations left to the driver.
    Plain,
    /// Physical memory that the program maps itself.
    Mapped,
    /// Staging slots for streamed weights.
    Ring,
    /// Copies of the experts that are used most.
    Experts,
}

/// A device.
pub struct Device {
    /// The driver's ordinal in this process.
    pub ordinal: CUdevice,
    /// `GPU-...`, which names the device whatever CUDA_VISIBLE_DEVICES renumbers.
    pub uuid: String,
    /// What may be taken of it.
    pub budget: Budget,
    /// Whether device memory can be mapped in chunks at all.
    pub can_map: bool,
    /// Its part of the status record.
    pub record: &'static DeviceRecord,
    chosen: OnceLock<Chosen>,
    probing: Mutex<()>,
    contexts: Mutex<Vec<usize>>,
}

impl Device {
    /// Looks a device up. There must be a context of it when the budget depends on what is free: the current one, or its
    /// primary one.
    ///
    /// # Errors
    /// The driver's status.
    pub fn open(
        driver: &Driver,
        ordinal: CUdevice,
        settings: &Settings,
        record: &'static DeviceRecord,
    ) -> Result<Self, Status> {
        let (mut total, mut uuid, mut can_map) = (0usize, [0u8; 16], 0);
        // SAFETY: each call writes to a live local of the size that it expects.
        unsafe {
            driver.cuDeviceTotalMem_v2(&mut total, ordinal)?;
            driver.cuDeviceGetUuid(&mut uuid, ordinal)?;
            driver.cuDeviceGetAttribute(&mut can_map, ATTRIBUTE_VMM, ordinal)?;
        }
        let mut free = 0usize;
        // What was asked for does not depend on what is free.
        if settings.vram.is_none() {
            let mut installed = 0usize;
            let _current = in_context_of(driver, ordinal)?;
            // SAFETY: as above.
            unsafe { driver.cuMemGetInfo_v2(&mut free, &mut installed) }?;
        }
        let limit = vram::budget(settings.vram, free as u64, total as u64, settings.vram_reserve);
        let uuid = uuid_text(&uuid);
        record.uuid.set(&uuid);
        record.vram_budget.store(limit, Relaxed);
        log::info!("device {ordinal} ({uuid}): VRAM budget {} of {}", format_size(limit), format_size(total as u64));
        Ok(Self {
            ordinal,
            uuid,
            budget: Budget::new(limit),
            can_map: can_map != 0,
            record,
            chosen: OnceLock::new(),
            probing: Mutex::new(()),
            contexts: Mutex::new(Vec::new()),
        })
    }

    /// Whether chunks on it can reside in the pages of a file: a kernel has read some. Never before the backing has
    /// been chosen.
    pub fn reads_files(&self) -> bool {
        self.chosen.get().is_some_and(|chosen| chosen.reads_files)
    }

    /// What was chosen, if anything was.
    pub(crate) fn chosen(&self) -> Option<&Chosen> {
        self.chosen.get()
    }

    /// Waits for another thread that is choosing, and keeps others out.
    pub(crate) fn choosing(&self) -> MutexGuard<'_, ()> {
        self.probing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chooses, for good.
    pub(crate) fn choose(&self, chosen: Chosen) {
        let _ = self.chosen.set(chosen);
    }

    /// Another backing that works, for when the chosen one has a limit of its own and has come to it.
    pub fn spare(&self, why: Option<String>, record: &Record) -> Option<&'static dyn HostBacking> {
        let chosen = self.chosen.get()?;
        let (backing, spare) = (chosen.backing?, chosen.spare?);
        chosen.turned.get_or_init(|| {
            let why = why.unwrap_or_else(|| "it has no more".to_owned());
            let reason =
                format!("{} too, since {}: {why}; {}", spare.name(), backing.name(), record.backing_reason.get());
            log::warn!("device {}: {reason}", self.ordinal);
            record.backing_reason.set(&reason);
        });
        Some(spare)
    }

    /// Takes VRAM from the budget for a use, or refuses.
    pub fn take(&self, what: Use, bytes: u64) -> bool {
        let Some(used) = self.budget.take(bytes) else { return false };
        self.counter(what).fetch_add(bytes, Relaxed);
        self.record.vram_peak.fetch_max(used, Relaxed);
        true
    }

    /// Gives VRAM back to the budget.
    pub fn give_back(&self, what: Use, bytes: u64) {
        self.budget.give_back(bytes);
        self.counter(what).fetch_sub(bytes, Relaxed);
    }

    fn counter(&self, what: Use) -> &AtomicU64 {
        match what {
            Use::Chunks => &self.record.vram_chunks,
            Use::Plain => &self.record.vram_plain,
            Use::Mapped => &self.record.vram_mapped,
            Use::Ring => &self.record.vram_ring,
            Use::Experts => &self.record.vram_experts,
        }
    }

    /// Whether the backing has been chosen, so that asking for it costs nothing and waits for nothing.
    pub fn is_probed(&self) -> bool {
        self.chosen.get().is_some()
    }

    /// Remembers a context that memory of this device was made in: work in it may use the memory.
    pub fn remember_context(&self, context: CUcontext) {
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        if !contexts.contains(&(context as usize)) {
            contexts.push(context as usize);
        }
    }

    /// Forgets a context that is gone.
    pub fn forget_context(&self, context: CUcontext) {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| *known != context as usize);
    }

    /// The contexts that may have work in flight on this device's memory.
    pub fn contexts(&self) -> Vec<CUcontext> {
        let contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        contexts.iter().map(|context| *context as CUcontext).collect()
    }
}

/// Makes a context of a device current where the current one is another's, of which the driver would tell.
fn in_context_of(driver: &Driver, ordinal: CUdevice) -> Result<Option<Current<'_>>, Status> {
    let mut current = 0;
    // SAFETY: writes one integer to a live local.
    if unsafe { driver.cuCtxGetDevice(&mut current) }.is_ok() && current == ordinal {
        return Ok(None);
    }
    let primary = driver.primary_context(ordinal).ok_or(INVALID_CONTEXT)?;
    Current::push(driver, primary).map(Some)
}

/// Where RAM comes from on a device.
#[derive(Default)]
pub(crate) struct Chosen {
    /// What serves.
    pub backing: Option<&'static dyn HostBacking>,
    /// The next one that works, where the first may have no more while the machine has.
    pub spare: Option<&'static dyn HostBacking>,
    turned: OnceLock<()>,
    /// Whether a kernel has read the pages of a file.
    pub reads_files: bool,
}

fn uuid_text(bytes: &[u8; 16]) -> String {
    let mut text = String::from("GPU-");
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_written_as_nvml_writes_it() {
        let bytes = std::array::from_fn(|at| at as u8);
        assert_eq!(uuid_text(&bytes), "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}
