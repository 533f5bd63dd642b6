//! Which backing a device's RAM comes from: the first of the settings that a kernel on it can read and write.

use crate::Memory;
use crate::backing::HostBacking;
use crate::device::{Chosen, Device};
use crate::probe::{self, Verdict};
use greenboost_contract::{PageCache, Spill};
use greenboost_cuda::{Driver, RelaxedCapture};
use greenboost_kmod::Level;
use std::time::Instant;

/// `CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED`.
const ATTRIBUTE_READ_ONLY: u32 = 113;

impl Memory {
    /// The RAM backing to use on a device. Probed at the first call, and again as long as there was no room to find out.
    /// `None` when there is none or memory is not to leave VRAM.
    pub fn backing_of(&self, device: &Device) -> Option<&'static dyn HostBacking> {
        if let Some(chosen) = device.chosen() {
            return chosen.backing;
        }
        let _one_at_a_time = device.choosing();
        if device.chosen().is_none() {
            let _relaxed = RelaxedCapture::enter(self.driver);
            let choice = choose(self, device);
            log::info!("device {}: {}", device.ordinal, choice.reason);
            self.record.backing_reason.set(&choice.reason);
            if choice.is_final {
                device.choose(choice.chosen);
            }
        }
        device.chosen()?.backing
    }
}

struct Choice {
    chosen: Chosen,
    reason: String,
    is_final: bool,
}

fn choose(memory: &Memory, device: &Device) -> Choice {
    let settings = memory.settings;
    let none = |reason: String, is_final| Choice { chosen: Chosen::default(), reason, is_final };
    if settings.spill == Spill::Never {
        return none("memory does not leave VRAM: spill is \"never\"".to_owned(), true);
    }
    if !device.can_map {
        return none("this device cannot map memory in chunks".to_owned(), true);
    }
    let (mut chosen, mut reasons, mut is_final) = (Chosen::default(), Vec::new(), true);
    let wants_files = settings.page_cache == PageCache::On;
    let says_it_reads = wants_files && says_it_reads_files(memory.driver, device);
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

/// Whether a device says that it can read memory that is registered read-only, as the pages of a file are.
fn says_it_reads_files(driver: &Driver, device: &Device) -> bool {
    let mut reads = 0;
    // SAFETY: writes one integer to a live local.
    let known = unsafe { driver.cuDeviceGetAttribute(&mut reads, ATTRIBUTE_READ_ONLY, device.ordinal) };
    known.is_ok() && reads != 0
}
