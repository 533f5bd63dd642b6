//! Memory: who has how much, and where it is.
//!
//! Everything hangs on one [`Memory`] per process, made at the first call that needs it. Lock order, outermost
//! first: `placing`, the gate, `table`. The small locks of the ledgers are leaves. Calls that submit work hold
//! the gate open and may read `table`; they never wait for `placing`.

pub mod access;
pub mod allocations;
pub mod backing;
pub mod captures;
mod claim;
pub mod device;
pub mod gate;
mod homes;
mod host_numa;
mod import;
mod kmod;
mod late;
pub mod ledger;
mod map;
mod memfd;
pub mod page_cache;
pub mod pending;
pub mod placing;
pub mod pressure;
pub mod probe;
pub mod ram;
mod registered;
mod rewriting;
pub mod room;
mod turns;
pub mod vram;

use crate::driver;
use crate::ggml::placement::Rules;
use crate::{activate, stream};
use allocations::Table;
use device::Device;
use greenboost_contract::record::{MAX_BACKINGS, MAX_DEVICES, Mapped};
use greenboost_contract::{ReportFree, ReportTotal, Settings, Spill};
use greenboost_cuda::abi::{CUcontext, CUdevice, CUdeviceptr, MEMORY_HOST};
use greenboost_cuda::{Driver, PointerAttribute};
use greenboost_intercept::guard::Bypass;
use greenboost_kmod::Level;
use ram::RamBudget;
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
    /// RAM that may stand in for VRAM.
    pub ram: RamBudget,
    /// Allocations left to the driver.
    pub plain: ledger::Plain,
    /// Physical memory the program maps itself.
    pub mapped: ledger::MappedByProgram,
    /// Frees that wait for their stream.
    pub pending: pending::PendingFrees,
    devices: [OnceLock<Device>; MAX_DEVICES],
    opening: Mutex<()>,
    placing: Mutex<()>,
    table: RwLock<Table>,
    seams: AtomicBool,
    late: AtomicUsize,
    file_homes: AtomicUsize,
    rules: Rules,
}

/// The process's memory; `Err(Bypass)` when the hook is off or the driver is not usable for it.
///
/// # Errors
/// [`Bypass`]: the caller's call goes to the driver as it is.
pub fn get() -> Result<&'static Memory, Bypass> {
    static MEMORY: OnceLock<Option<Memory>> = OnceLock::new();
    MEMORY.get_or_init(|| Memory::new(activate::settings()?)).as_ref().ok_or(Bypass)
}

impl Memory {
    fn new(settings: &'static Settings) -> Option<Self> {
        let driver = driver::get()?;
        driver::pin();
        let record = Mapped::create().inspect_err(|error| log::error!("no status record: {error}")).ok()?;
        record.profile.set(&settings.profile);
        record.layers.set(&activate::standing().names());
        record.plan.set(&settings.plan);
        for (backing, name) in backing::BACKINGS.iter().zip(&record.backings) {
            name.set(backing.name());
        }
        let ram = RamBudget::new(if settings.spill == Spill::Never { Some(0) } else { settings.ram });
        record.ram_budget.store(ram.limit(), Relaxed);
        Some(Self {
            driver,
            settings,
            // It lives as long as the process: devices keep references into it.
            record: Box::leak(Box::new(record)),
            ram,
            plain: ledger::Plain::default(),
            mapped: ledger::MappedByProgram::default(),
            pending: pending::PendingFrees::default(),
            devices: [const { OnceLock::new() }; MAX_DEVICES],
            opening: Mutex::new(()),
            placing: Mutex::new(()),
            table: RwLock::default(),
            seams: AtomicBool::new(false),
            late: AtomicUsize::new(0),
            file_homes: AtomicUsize::new(0),
            rules: Rules::new(&settings.place),
        })
    }

    /// The device of the current context.
    ///
    /// # Errors
    /// [`Bypass`] without a context: the driver has the right error for it.
    pub fn current_device(&self) -> Result<&Device, Bypass> {
        let mut ordinal = 0;
        // SAFETY: writes one integer to a live local.
        unsafe { self.driver.cuCtxGetDevice(&mut ordinal) }.map_err(|_| Bypass)?;
        self.device(ordinal)
    }

    /// A device by ordinal.
    ///
    /// # Errors
    /// [`Bypass`] when the driver does not know it, or its budget cannot be known yet.
    pub fn device(&self, ordinal: CUdevice) -> Result<&Device, Bypass> {
        let at = usize::try_from(ordinal).map_err(|_| Bypass)?;
        let cell = self.devices.get(at).ok_or(Bypass)?;
        if let Some(device) = cell.get() {
            return Ok(device);
        }
        let _one_at_a_time = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if cell.get().is_none() {
            let device =
                Device::open(self.driver, ordinal, self.settings, &self.record.devices[at]).map_err(|_| Bypass)?;
            let _ = cell.set(device);
            self.record.devices_used.fetch_max(at as u32 + 1, Relaxed);
        }
        cell.get().ok_or(Bypass)
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
        unsafe { self.driver.cuCtxGetCurrent(&mut context) }.map_err(|_| Bypass)?;
        if context.is_null() { Err(Bypass) } else { Ok(context) }
    }

    /// The table of spanning allocations, to look at.
    pub fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn placing(&self) -> MutexGuard<'_, ()> {
        self.placing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether any copy could meet a seam. False for ever on machines whose backing has none.
    #[inline]
    pub fn has_seams(&self) -> bool {
        self.seams.load(Relaxed)
    }

    /// Bytes from an address on, at most `bytes`, that one copy may touch: less only at a seam.
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

    /// Bytes free and total as the program is to see them, from what the driver says of a device.
    pub fn report(&self, device: Option<&Device>, free: u64, total: u64) -> (u64, u64) {
        let limit = device.map(|device| device.budget.limit()).or(self.settings.vram);
        let left = device.map(|device| device.budget.left()).or(self.settings.vram);
        let total = match self.settings.report_total {
            ReportTotal::Physical => total,
            ReportTotal::Budget => limit.map_or(total, |limit| total.min(limit)),
        };
        let kept = device.map_or(0, |device| stream::kept_free(self, device));
        let in_vram = left.map_or(free, |left| free.min(left)).saturating_sub(kept);
        let extended = in_vram.saturating_add(self.ram_left(Level::Low));
        let free = match self.settings.report_free {
            ReportFree::Extended => extended,
            ReportFree::Clamped => extended.min(total),
            ReportFree::Vram => in_vram,
        };
        (free, total)
    }
}

const _: () = assert!(backing::BACKINGS.len() <= MAX_BACKINGS);
