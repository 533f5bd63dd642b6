//! The one owner of state: everything that the hook knows hangs on [`RUNTIME`].
//!
//! Part of it is there from the start, because it is told before there is a driver: model files that the program maps, tensors
//! that ggml names. The rest, [`Core`], is made at the first call that needs it, once the program has loaded the driver. It is
//! made without any lock held: a look at the loaded libraries takes the loader's lock, and whoever holds that (a constructor
//! that calls the driver) may be about to ask for it too. Of two that are made at once one is dropped.

use crate::ahead::Ahead;
use crate::ggml::listener::Listener;
use crate::pending::PendingFrees;
use greenboost_contract::kernel::AccessMode;
use greenboost_contract::place::{PlaceRule, Tier};
use greenboost_contract::record::Mapped;
use greenboost_contract::{ExpertCache, Settings};
use greenboost_cuda::Driver;
use greenboost_intercept::guard::Bypass;
use greenboost_intercept::inject;
use greenboost_intercept::real;
use greenboost_intercept::slot::Library;
use greenboost_memory::Memory;
use greenboost_memory::captures::Captures;
use greenboost_stream::Streaming;
use greenboost_stream::upload::Uploads;
use greenboost_weights::files::Files;
use greenboost_weights::placement::Rules;
use greenboost_weights::registry::Registry;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, Once, OnceLock};
use std::time::Instant;

/// What begins with other things, each called more than once.
#[derive(Debug)]
pub struct Called {
    /// When the kernel module's pool has been chosen as a backing.
    pub pool_chosen: fn(),
    /// When a device has got its first staging slots.
    pub streaming_started: fn(),
}

/// Where allocations begin, if the driver follows a hint. Left to itself it chooses low addresses (0x302000000 was seen),
/// which a pair of small numbers among a kernel's parameters can look like, and streaming would replace it. What lies here
/// looks like no pair of sizes: the upper half of an address is about 19,300, and no multiple of 32.
const FIRST_ADDRESS: u64 = 0x4b61_0000_0000;

/// The hook's state. See the module.
pub static RUNTIME: Runtime = Runtime::new();

/// What there is in every process that is ours.
pub struct Runtime {
    /// What the launcher asked for; empty in a process that is not ours.
    pub settings: OnceLock<Settings>,
    /// What is called when something begins.
    pub called: OnceLock<Called>,
    /// Model files that the program has mapped.
    pub files: Files,
    /// Tensors that ggml told of.
    pub tensors: Registry,
    /// Stream captures in progress.
    pub captures: Captures,
    /// What is listened to in ggml's libraries.
    pub ggml: Listener,
    /// The file that gets the counts of caught calls at the program's end, if any.
    pub calls_file: OnceLock<PathBuf>,
    /// Done once the pool's pressure is listened to.
    pub listens: Once,
    /// Done once the program's end is waited for.
    pub awaits_exit: Once,
    /// The probe of a device before its first allocation.
    pub ahead: Ahead,
    driver: OnceLock<Driver>,
    /// The function that the driver lacks, where it is too old.
    lacking: OnceLock<&'static str>,
    record: OnceLock<Mapped>,
    core: OnceLock<Core>,
}

/// What there is once the driver is there.
pub struct Core {
    /// Who has how much, and where it is.
    pub memory: &'static Memory,
    /// Tensors that ggml told of.
    pub tensors: &'static Registry,
    /// Weights on their way to the kernels that read them.
    pub streaming: Streaming,
    /// Weights on their way to the device for the first time.
    pub uploads: Uploads,
    /// Frees that wait for their stream.
    pub pending: PendingFrees,
    /// Where tensors should be.
    pub rules: Rules,
    /// Whether a write of weights was captured: the graph may be launched at any time, and would fault on a file's pages.
    pub writes_captured: AtomicBool,
    /// When files were last looked at while kernels run.
    pub watched: Mutex<Option<Instant>>,
    /// How often the tier map is to be drawn anew; who finds 0 draws it.
    pub drawing: AtomicU64,
    /// Allocations made so far.
    pub serial: AtomicU64,
    /// Where the next allocation is to begin.
    pub next_address: AtomicU64,
}

/// What there is once the driver is there.
///
/// # Errors
/// [`Bypass`]: the caller's call goes to the driver as it is. Nothing is remembered of it: a program may ask NVML first, and
/// load the driver later.
#[inline]
pub fn core() -> Result<&'static Core, Bypass> {
    RUNTIME.core.get().map_or_else(|| RUNTIME.make_core(), Ok)
}

/// The same, if it has been made already.
pub fn core_if_made() -> Option<&'static Core> {
    RUNTIME.core.get()
}

/// The rules of placement. Where experts have copies in VRAM, their tensors are in RAM: what a kernel rule says of experts names them.
fn placement(settings: &Settings) -> Vec<PlaceRule> {
    let are_kept = settings.experts == ExpertCache::On;
    let mut rules: Vec<PlaceRule> = Vec::new();
    for kernel in settings.kernels.iter().filter(|kernel| are_kept && kernel.read == AccessMode::Experts) {
        if rules.iter().all(|known| known.tensor != kernel.tensor) {
            let (tensor, tier, priority) = (kernel.tensor.clone(), Tier::Ram, 0);
            rules.push(PlaceRule { tensor, layers: None, at_least: 0, tier, priority });
        }
    }
    rules.extend(settings.place.iter().cloned());
    rules
}

impl Runtime {
    const fn new() -> Self {
        Self {
            settings: OnceLock::new(),
            called: OnceLock::new(),
            files: Files::new(),
            tensors: Registry::new(),
            captures: Captures::new(),
            ggml: Listener::new(),
            calls_file: OnceLock::new(),
            listens: Once::new(),
            awaits_exit: Once::new(),
            ahead: Ahead::new(),
            driver: OnceLock::new(),
            lacking: OnceLock::new(),
            record: OnceLock::new(),
            core: OnceLock::new(),
        }
    }

    #[cold]
    fn make_core(&'static self) -> Result<&'static Core, Bypass> {
        let (settings, called) =
            (self.settings.get().ok_or(Bypass::NotActive)?, self.called.get().ok_or(Bypass::NotActive)?);
        let driver = self.driver()?;
        if self.record.get().is_none() {
            let record = Mapped::create().inspect_err(|error| log::error!("no status record: {error}"));
            let record = record.map_err(|_| Bypass::Internal)?;
            record.profile.set(&settings.profile);
            record.layers.set(&inject::standing().names());
            record.plan.set(&settings.plan);
            let _ = self.record.set(record);
            self.record.get().into_iter().for_each(|record| inject::tell_in(record));
        }
        let record = self.record.get().ok_or(Bypass::Internal)?;
        let memory = Memory::new(driver, settings, record, &self.files, &self.captures, called.pool_chosen);
        // It lives as long as the process: streaming and devices keep references into it.
        let memory: &'static Memory = Box::leak(Box::new(memory));
        let core = Core {
            memory,
            tensors: &self.tensors,
            streaming: Streaming::new(memory, &self.tensors, called.streaming_started),
            uploads: Uploads::default(),
            pending: PendingFrees::default(),
            rules: Rules::new(&placement(settings)),
            writes_captured: AtomicBool::new(false),
            watched: Mutex::new(None),
            drawing: AtomicU64::new(0),
            serial: AtomicU64::new(1),
            next_address: AtomicU64::new(FIRST_ADDRESS),
        };
        let _ = self.core.set(core);
        self.core.get().ok_or(Bypass::Internal)
    }

    /// The driver, once the program has loaded it.
    fn driver(&self) -> Result<&Driver, Bypass> {
        if let Some(driver) = self.driver.get() {
            return Ok(driver);
        }
        if self.lacking.get().is_some() || !real::attach(Library::Cuda) {
            return Err(Bypass::NoDriver);
        }
        let driver = Driver::load(real::original).map_err(|symbol| {
            if self.lacking.set(symbol).is_ok() {
                log::error!("the driver has no {symbol}: memory stays as the driver gives it");
            }
            Bypass::NoDriver
        })?;
        // A plugin that needs it may be closed and opened again (ggml does), and the driver would come back elsewhere while our
        // addresses, and our memory, are of the old one.
        if !real::dl::keep(Library::Cuda.soname()) {
            log::warn!("the driver could not be pinned: a program that unloads it would take our addresses with it");
        }
        let _ = self.driver.set(driver);
        self.driver.get().ok_or(Bypass::Internal)
    }
}
