//! Memory: who has how much, and where it is.
//!
//! * [`allocation`] has the table of spanning allocations, each a row of chunks;
//! * [`residency`] is where a chunk's bytes are, and the one way in which that changes; [`backing`] has the kinds of RAM;
//! * [`budget`] and [`admission`] say how much may be taken, [`device`] what is known of a GPU, [`probe`] what it can do;
//! * [`gate`] keeps work that is submitted and memory that moves apart, [`quiet`] knows when nobody uses a device's memory,
//!   [`captures`] when nothing may move at all;
//! * [`ledger`] counts what the driver gave the program directly, [`split`] splits copies that the driver would refuse;
//! * [`streams`] and [`pools`] say which device is meant.
//!
//! Nothing here knows what memory is for: whoever decides does so above.
//!
//! Lock order, outermost first: `placing`, the gates, `table`. The small locks of the ledgers are leaves. Calls that submit
//! work hold the gate open and may read `table`; they never wait for `placing`. Nobody who holds `placing` or has closed a
//! gate waits for the GPU longer than a moment.

pub mod access;
pub mod admission;
pub mod allocation;
pub mod backing;
pub mod budget;
pub mod captures;
mod choice;
mod deferred;
pub mod device;
pub mod gate;
pub mod gates;
pub mod ledger;
pub mod pools;
pub mod probe;
pub mod quiet;
pub mod ram;
pub mod residency;
pub mod split;
pub mod streams;
pub mod submitted;

use allocation::Table;
use backing::Backings;
use budget::Budget;
use captures::Captures;
use device::Device;
use gates::Gates;
use greenboost_contract::record::{MAX_BACKINGS, MAX_DEVICES, Mapped};
use greenboost_contract::settings::BACKING_NAMES;
use greenboost_contract::{ReportFree, ReportTotal, Settings, Spill};
use greenboost_cuda::abi::{CUcontext, CUdevice, CUdeviceptr, MEMORY_HOST};
use greenboost_cuda::{Driver, PointerAttribute};
use greenboost_intercept::guard::Bypass;
use greenboost_kmod::Level;
use greenboost_weights::files::Files;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// All that is known of this process's memory.
pub struct Memory {
    /// The driver.
    pub driver: &'static Driver,
    /// What was asked for.
    pub settings: &'static Settings,
    /// What `greenboost status` reads.
    pub record: &'static Mapped,
    /// Model files that the program has mapped.
    pub files: &'static Files,
    /// Captures in progress.
    pub captures: &'static Captures,
    /// What work passes through when it is submitted, by device.
    pub gates: Gates,
    /// RAM that may stand in for VRAM.
    pub ram: Budget,
    /// Kinds of RAM.
    pub backings: &'static Backings,
    /// Allocations left to the driver.
    pub plain: ledger::Plain,
    /// Physical memory the program maps itself.
    pub mapped: ledger::MappedByProgram,
    /// Memory pools that the program has made.
    pub pools: pools::Pools,
    /// Called once the kernel module's pool has been chosen as a backing: from then on its pressure is to be listened to.
    pool_chosen: fn(),
    devices: [OnceLock<Device>; MAX_DEVICES],
    opening: Mutex<()>,
    placing: Mutex<()>,
    table: RwLock<Table>,
    boundaries: AtomicBool,
    deferred: AtomicUsize,
    in_files: AtomicUsize,
}

/// While it lives, nobody else makes, moves or releases chunks.
pub struct Placing<'a>(#[expect(dead_code, reason = "held")] MutexGuard<'a, ()>);

impl Memory {
    /// The memory of a process. It lives as long as the process: devices keep references into it.
    pub fn new(
        driver: &'static Driver,
        settings: &'static Settings,
        record: &'static Mapped,
        files: &'static Files,
        captures: &'static Captures,
        pool_chosen: fn(),
    ) -> Self {
        for (name, place) in BACKING_NAMES.iter().zip(&record.backings) {
            place.set(name);
        }
        let ram = Budget::new(ram::limit(if settings.spill == Spill::Never { Some(0) } else { settings.ram }));
        record.ram_budget.store(ram.limit(), Relaxed);
        Self {
            driver,
            settings,
            record,
            files,
            captures,
            gates: Gates::default(),
            ram,
            // Chunks keep references to their backing.
            backings: Box::leak(Box::new(Backings::new(settings.kmod_device.clone()))),
            plain: ledger::Plain::default(),
            mapped: ledger::MappedByProgram::default(),
            pools: pools::Pools::default(),
            pool_chosen,
            devices: [const { OnceLock::new() }; MAX_DEVICES],
            opening: Mutex::new(()),
            placing: Mutex::new(()),
            table: RwLock::default(),
            boundaries: AtomicBool::new(false),
            deferred: AtomicUsize::new(0),
            in_files: AtomicUsize::new(0),
        }
    }

    /// The device of the current context.
    ///
    /// # Errors
    /// [`Bypass`] without a context: the driver has the right error for it.
    pub fn current_device(&self) -> Result<&Device, Bypass> {
        let mut ordinal = 0;
        // SAFETY: writes one integer to a live local.
        unsafe { self.driver.cuCtxGetDevice(&mut ordinal) }.map_err(|_| Bypass::NoContext)?;
        self.device(ordinal)
    }

    /// A device by ordinal.
    ///
    /// # Errors
    /// [`Bypass`] when the driver does not know it, or its budget cannot be known yet.
    pub fn device(&self, ordinal: CUdevice) -> Result<&Device, Bypass> {
        let at = usize::try_from(ordinal).map_err(|_| Bypass::NoContext)?;
        let cell = self.devices.get(at).ok_or(Bypass::NoContext)?;
        if let Some(device) = cell.get() {
            return Ok(device);
        }
        let _one_at_a_time = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if cell.get().is_none() {
            let device = Device::open(self.driver, ordinal, self.settings, &self.record.devices[at])
                .map_err(|_| Bypass::NoContext)?;
            let _ = cell.set(device);
            self.record.devices_used.fetch_max(at as u32 + 1, Relaxed);
        }
        cell.get().ok_or(Bypass::NoContext)
    }

    /// The devices in use.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter_map(OnceLock::get)
    }

    /// The current context.
    ///
    /// # Errors
    /// [`Bypass`] without one.
    pub fn current_context(&self) -> Result<CUcontext, Bypass> {
        let mut context = std::ptr::null_mut();
        // SAFETY: writes one pointer to a live local.
        unsafe { self.driver.cuCtxGetCurrent(&mut context) }.map_err(|_| Bypass::NoContext)?;
        if context.is_null() { Err(Bypass::NoContext) } else { Ok(context) }
    }

    /// The table of spanning allocations, to look at.
    pub fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table, to change.
    pub fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for whoever makes, moves or releases chunks, and keeps others out.
    pub fn placing(&self) -> Placing<'_> {
        Placing(self.placing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether any copy could meet a boundary. False for ever on machines whose backing has none.
    #[inline]
    pub fn has_boundaries(&self) -> bool {
        self.boundaries.load(Relaxed)
    }

    /// Bytes from an address on, at most `bytes`, that one copy may touch: less only at a boundary.
    pub fn run(&self, address: CUdeviceptr, bytes: u64) -> u64 {
        self.table().run(address, bytes)
    }

    /// Whether any of a range lies in RAM that only the device may touch: the processor has no mapping of it.
    pub fn is_closed_to_cpu(&self, address: CUdeviceptr, bytes: u64) -> bool {
        self.table().is_closed_to_cpu(address, bytes)
    }

    /// Whether the driver says that an address is a device's.
    pub fn is_on_device(&self, address: CUdeviceptr) -> bool {
        let kind = self.driver.pointer_attribute(PointerAttribute::MemoryType, address);
        kind.is_some_and(|kind| kind != MEMORY_HOST.into())
    }

    /// Bytes free and total as the program is to see them, from what the driver says of a device. `kept`: bytes of VRAM that
    /// will be asked for later, and that a program which fills what is free should leave.
    pub fn report(&self, device: Option<&Device>, free: u64, total: u64, kept: u64) -> (u64, u64) {
        let limit = device.map(|device| device.budget.limit()).or(self.settings.vram);
        let left = device.map(|device| device.budget.left()).or(self.settings.vram);
        let total = match self.settings.report_total {
            ReportTotal::Physical => total,
            ReportTotal::Budget => limit.map_or(total, |limit| total.min(limit)),
        };
        let in_vram = left.map_or(free, |left| free.min(left)).saturating_sub(kept);
        let extended = in_vram.saturating_add(self.ram_left(Level::Low));
        let free = match self.settings.report_free {
            ReportFree::Extended => extended,
            ReportFree::Clamped => extended.min(total),
            ReportFree::Vram => in_vram,
        };
        (free, total)
    }

    /// How short of memory the machine is, as the kernel module says; ok where nobody can be asked.
    pub fn pressure(&self) -> Level {
        let Some(info) = self.backings.kmod().opened().and_then(|device| device.info().ok()) else { return Level::Ok };
        self.publish_pressure(info.level());
        info.level()
    }

    /// Shows the level in the status record, and says when it is another one.
    pub fn publish_pressure(&self, level: Level) {
        let index = match level {
            Level::Ok => 1,
            Level::Low => 2,
            Level::Critical => 3,
        };
        if self.record.pressure.swap(index, Relaxed) != index {
            log::info!("memory pressure: {}", self.record.pressure());
        }
    }
}

const _: () = assert!(BACKING_NAMES.len() <= MAX_BACKINGS);
