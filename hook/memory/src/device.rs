//! One GPU as this process uses it: budget, backing, record.

use crate::Memory;
use crate::backing::HostBacking;
use crate::budget::Budget;
use crate::probe::{self, Verdict};
use greenboost_contract::record::{DeviceRecord, Record};
use greenboost_contract::{PageCache, Settings, Spill, format_size};
use greenboost_cuda::abi::{CUcontext, CUdevice, Status};
use greenboost_cuda::{Driver, RelaxedCapture};
use greenboost_kmod::Level;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

/// `CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED`.
const ATTRIBUTE_VMM: u32 = 102;
/// `CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED`.
const ATTRIBUTE_READ_ONLY: u32 = 113;

/// The reserve is never more than this part of what is free: a small card is not given away whole.
const MAX_RESERVE_SHARE: u64 = 8;

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
    /// Looks a device up. A context of it must be current when the budget depends on what is free.
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
        let limit = match settings.vram {
            Some(wanted) => wanted.min(total as u64),
            None => {
                let (mut free, mut installed) = (0usize, 0usize);
                // SAFETY: as above.
                unsafe { driver.cuMemGetInfo_v2(&mut free, &mut installed) }?;
                let free = free as u64;
                free - settings.vram_reserve.min(free / MAX_RESERVE_SHARE)
            }
        };
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

    /// Whether the pages of a file can be homes on it: a kernel has read some. Never before the backing has been chosen.
    pub fn reads_files(&self) -> bool {
        self.chosen.get().is_some_and(|chosen| chosen.reads_files)
    }

    /// Whether it says that it can read memory that is registered read-only, as the pages of a file are.
    fn says_it_reads_files(&self, driver: &Driver) -> bool {
        let mut reads = 0;
        // SAFETY: writes one integer to a live local.
        let known = unsafe { driver.cuDeviceGetAttribute(&mut reads, ATTRIBUTE_READ_ONLY, self.ordinal) };
        known.is_ok() && reads != 0
    }

    /// The RAM backing to use: the first of the settings that a kernel on this device can read and write.
    /// Probed at the first call, and again as long as there was no room to find out. `None` when there is none or
    /// memory is not to leave VRAM.
    pub fn backing(&self, memory: &Memory) -> Option<&'static dyn HostBacking> {
        if let Some(chosen) = self.chosen.get() {
            return chosen.backing;
        }
        let _one_at_a_time = self.probing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.chosen.get().is_none() {
            let _relaxed = RelaxedCapture::enter(memory.driver);
            let choice = choose(memory, self);
            log::info!("device {}: {}", self.ordinal, choice.reason);
            memory.record.backing_reason.set(&choice.reason);
            if choice.is_final {
                let _ = self.chosen.set(choice.chosen);
            }
        }
        self.chosen.get()?.backing
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

/// Where RAM comes from on a device.
#[derive(Default)]
struct Chosen {
    backing: Option<&'static dyn HostBacking>,
    /// The next one that works, where the first may have no more while the machine has.
    spare: Option<&'static dyn HostBacking>,
    turned: OnceLock<()>,
    /// Whether a kernel has read the pages of a file.
    reads_files: bool,
}

struct Choice {
    chosen: Chosen,
    reason: String,
    is_final: bool,
}

fn choose(memory: &Memory, device: &Device) -> Choice {
    let (driver, settings) = (memory.driver, memory.settings);
    let none = |reason: String, is_final| Choice { chosen: Chosen::default(), reason, is_final };
    if settings.spill == Spill::Never {
        return none("memory does not leave VRAM: spill is \"never\"".to_owned(), true);
    }
    if !device.can_map {
        return none("this device cannot map memory in chunks".to_owned(), true);
    }
    let (mut chosen, mut reasons, mut is_final) = (Chosen::default(), Vec::new(), true);
    let wants_files = settings.page_cache == PageCache::On;
    let says_it_reads = wants_files && device.says_it_reads_files(driver);
    for name in &settings.backings {
        let Some(backing) = memory.backings.all().into_iter().find(|backing| backing.name() == name) else { continue };
        let started = Instant::now();
        let found = probe::ask(memory, device.ordinal, backing, says_it_reads && chosen.backing.is_none());
        log::debug!("probing {name} took {:?}", started.elapsed());
        if chosen.backing.is_none() && memory.pressure() == Level::Critical {
            // Not the time to take RAM of any kind, and what refuses now may serve later.
            return none("the machine is critically short of memory".to_owned(), false);
        }
        match found.backing {
            Verdict::Works(_) if chosen.backing.is_some() => {
                reasons.push(format!("{name} when that has no more"));
                chosen.spare = Some(backing);
                break;
            }
            Verdict::Works(how) => {
                reasons.insert(0, format!("{name}: {how}"));
                chosen.backing = Some(backing);
                if wants_files {
                    let read = found.file_pages.unwrap_or_else(|| Err("the device says that it cannot".to_owned()));
                    chosen.reads_files = read.is_ok();
                    let said =
                        read.map_or_else(|why| format!("not file pages: {why}"), |how| format!("file pages: {how}"));
                    // Behind what was chosen and in front of what was not: the record has room for so much.
                    reasons.insert(1, said);
                }
                if !backing.has_own_limit() {
                    break;
                }
                // Probed now, while there is VRAM for a context.
                (memory.pool_chosen)();
            }
            Verdict::Fails(why) => reasons.push(format!("not {name}: {why}")),
            Verdict::NoRoom(why) => {
                is_final = false;
                reasons.push(format!("not {name}: {why}"));
            }
        }
    }
    let reason = reasons.join("; ");
    match chosen.backing {
        Some(_) => Choice { chosen, reason, is_final: true },
        None => none(format!("no RAM backing works: {reason}"), is_final),
    }
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
