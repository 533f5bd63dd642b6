//! The engine of one device: its staging slots in VRAM, and the queues that use them in turn.
//!
//! Outside of captures there is one queue. A capture has one of its own, whose copies become the graph's. A graph that is
//! launched may use any of the staging slots, so all of them are handed over to it and taken back after it.

use super::copies::Means;
use super::copy_queue::CopyQueue;
use super::ring::Key;
use super::staging::StagingMemory;
use super::trace::Trace;
use greenboost_contract::record::MAX_DEVICES;
use greenboost_cuda::abi::{CUcontext, CUdevice, CUevent, CUgraph, CUstream, INVALID_VALUE, Status};
use greenboost_cuda::event::{self, Events};
use greenboost_cuda::{Current, Driver};
use greenboost_intercept::failpoint::{self, Fault};
use greenboost_intercept::guard;
use greenboost_memory::Memory;
use greenboost_memory::captures::is_capturing;
use greenboost_memory::device::Device;
use greenboost_memory::streams::StreamOrder;
use greenboost_weights::registry::Registry;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub mod session;

/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: u32 = 1;
/// `CU_STREAM_CAPTURE_STATUS_ACTIVE`.
const CAPTURING: u32 = 1;

/// A capture in progress.
struct Capturing {
    queue: CopyQueue,
    /// At the capture's begin; what the first copy follows.
    root: CUevent,
    has_joined: bool,
    /// The stream that it began on: one that is invalid cannot be told otherwise.
    origin: StreamOrder,
    /// Whether the driver refused something in it, most likely because it is invalid: its launches read in place.
    has_failed: bool,
}

/// See the module.
pub struct Engine {
    context: CUcontext,
    slots: StagingMemory,
    events: Events,
    direct: CopyQueue,
    captures: HashMap<u64, Capturing>,
    /// Whether any capture has used staging slots, so that graphs may.
    is_in_graphs: bool,
    spare_streams: Vec<CUstream>,
    /// Streams known to be of the context.
    own_streams: Vec<CUstream>,
    has_failed: bool,
    /// Panics of ours that its copies were made after.
    failures: u64,
    trace: Option<Trace>,
}

// SAFETY: handles are names that any thread may use; the lock around an engine keeps threads apart.
unsafe impl Send for Engine {}

/// The engines of a process, by device.
pub struct Engines([Mutex<Option<Engine>>; MAX_DEVICES]);

impl Default for Engines {
    fn default() -> Self {
        Self([const { Mutex::new(None) }; MAX_DEVICES])
    }
}

impl Engines {
    fn lock(&self, device: CUdevice) -> Option<MutexGuard<'_, Option<Engine>>> {
        let cell = self.0.get(usize::try_from(device).ok()?)?;
        Some(cell.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a device has an engine.
    pub fn has(&self, device: CUdevice) -> bool {
        self.lock(device).is_some_and(|engine| engine.is_some())
    }

    /// Bytes of staging slots of a device, if it has any.
    pub fn capacity(&self, device: CUdevice) -> Option<u64> {
        self.lock(device)?.as_ref().map(|engine| engine.slots.capacity())
    }

    /// Does something with the engine of a device, if it has one.
    pub fn of(&self, device: CUdevice, work: impl FnOnce(&mut Engine)) {
        if let Some(engine) = self.lock(device).as_deref_mut().and_then(Option::as_mut) {
            work(engine);
        }
    }

    /// Does something with every engine.
    pub fn each(&self, mut work: impl FnMut(CUdevice, &mut Engine)) {
        for device in 0..MAX_DEVICES as CUdevice {
            if let Some(engine) = self.lock(device).as_deref_mut().and_then(Option::as_mut) {
                work(device, engine);
            }
        }
    }

    /// Does something with every engine that no other thread holds: at the program's end, it might never let go.
    pub fn each_now(&self, mut work: impl FnMut(CUdevice, &mut Engine)) {
        for (device, cell) in (0..).zip(&self.0) {
            if let Some(engine) = cell.try_lock().ok().as_deref_mut().and_then(Option::as_mut) {
                work(device, engine);
            }
        }
    }

    /// Takes the engines of a context that is gone, or about to go, each with its trace.
    pub fn take(&self, context: CUcontext) -> Vec<(CUdevice, StagingMemory, Option<Trace>)> {
        let devices = 0..MAX_DEVICES as CUdevice;
        let taken = devices.filter_map(|device| {
            let engine = self.lock(device)?.take_if(|engine| engine.context == context)?;
            // Streams and events go with their context.
            Some((device, engine.slots, engine.trace))
        });
        taken.collect()
    }

    /// Makes the engine of a device, in the current context.
    ///
    /// # Errors
    /// The driver's status; the memory is the caller's again.
    pub fn install(
        &self,
        memory: &'static Memory,
        tensors: &'static Registry,
        device: CUdevice,
        context: CUcontext,
        slots: StagingMemory,
    ) -> Result<(), (Status, StagingMemory)> {
        let copy_stream = match new_stream(memory.driver) {
            Ok(stream) => stream,
            Err(status) => return Err((status, slots)),
        };
        let direct = CopyQueue::new(copy_stream, slots.capacity(), false);
        let engine = Engine {
            context,
            slots,
            events: Events::of(context),
            direct,
            captures: HashMap::new(),
            is_in_graphs: false,
            spare_streams: Vec::new(),
            own_streams: Vec::new(),
            has_failed: false,
            failures: guard::failures(),
            trace: Trace::start(memory, tensors, device, copy_stream, memory.settings.trace.as_deref()),
        };
        match self.lock(device) {
            Some(mut cell) if cell.is_none() => *cell = Some(engine),
            // Another thread was faster.
            _ => return Err((INVALID_VALUE, engine.slots)),
        }
        Ok(())
    }
}

/// A stream for copies, before all others: what of a weight is in VRAM is copied by a kernel, which would wait for a place among
/// the program's while the link stands still (on an H200 that cost a tenth of a prompt's speed).
fn new_stream(driver: &Driver) -> Result<CUstream, Status> {
    let (mut stream, mut least, mut greatest) = (std::ptr::null_mut(), 0, 0);
    // SAFETY: writes to live locals.
    unsafe {
        driver.cuCtxGetStreamPriorityRange(&mut least, &mut greatest)?;
        driver.cuStreamCreateWithPriority(&mut stream, NON_BLOCKING, greatest)?;
    }
    Ok(stream)
}

/// The capture a stream is in: `None` when it is in none, `Some(None)` in one that is invalid or cannot be told.
fn capture_of(driver: &Driver, stream: CUstream) -> Option<Option<u64>> {
    let (mut state, mut id) = (0, 0);
    let (mut graph, mut dependencies, mut count): (CUgraph, _, _) = (std::ptr::null_mut(), std::ptr::null(), 0);
    // SAFETY: the program's stream; results go to live locals.
    let asked = unsafe {
        driver.cuStreamGetCaptureInfo_v2(stream, &mut state, &mut id, &mut graph, &mut dependencies, &mut count)
    };
    match (asked, state) {
        (Ok(()), 0) => None,
        (Ok(()), CAPTURING) => Some(Some(id)),
        _ => Some(None),
    }
}

impl Engine {
    /// Whether it lives in a context.
    pub fn is_of(&self, context: CUcontext) -> bool {
        self.context == context
    }

    /// The context it lives in.
    pub fn context(&self) -> CUcontext {
        self.context
    }

    /// Its trace, if there is one.
    pub fn trace(&mut self) -> &mut Option<Trace> {
        &mut self.trace
    }

    /// Does something with every queue.
    fn queues(
        &mut self,
        memory: &Memory,
        device: CUdevice,
        work: &mut dyn FnMut(&mut CopyQueue, &mut Means<'_>) -> Result<(), Status>,
    ) {
        let Ok(device) = memory.device(device) else { return };
        let mut means = Means {
            memory,
            driver: memory.driver,
            record: device.record,
            base: self.slots.base(),
            events: &mut self.events,
            experts: None,
            trace: None,
        };
        if let Err(status) = work(&mut self.direct, &mut means) {
            log::error!("streaming ends: the driver refused with {status}; weights are read in place");
            self.has_failed = true;
        }
        for capturing in self.captures.values_mut().filter(|capturing| !capturing.has_failed) {
            capturing.has_failed = work(&mut capturing.queue, &mut means).is_err();
        }
    }

    /// Weights are about to be written, or were: their copies are worth nothing.
    pub fn written(&mut self, memory: &Memory, device: CUdevice, keys: &[Key]) {
        if failpoint::is(Fault::StaleSlot) {
            return;
        }
        self.queues(memory, device, &mut |queue, means| {
            keys.iter().for_each(|key| queue.written(*key));
            queue.drop_copies(means, |key| keys.contains(&key))
        });
    }

    /// After a panic of ours, which may have been in the handler of a write: all copies are worth nothing.
    fn doubt_copies(&mut self, memory: &Memory, device: CUdevice) {
        let failures = guard::failures();
        if std::mem::replace(&mut self.failures, failures) != failures {
            log::warn!("device {device}: weights are copied anew, because a write may have gone unnoticed");
            self.queues(memory, device, &mut |queue, means| queue.all_written(means));
        }
    }

    /// The memory of a range is going. What is submitted to `behind` next follows the copies that still read it.
    pub fn forget(&mut self, memory: &Memory, device: CUdevice, from: u64, bytes: u64, behind: Option<CUstream>) {
        let gone = |key: Key| key >= from && key - from < bytes;
        self.queues(memory, device, &mut |queue, means| {
            queue.forget(gone);
            queue.drop_copies(means, gone)
        });
        if let Some(stream) = behind.filter(|_| !failpoint::is(Fault::MissingJoin)) {
            let mut is_first = true;
            self.queues(memory, device, &mut |queue, means| {
                // The first is the direct one; those of captures copy nothing until their graph is launched.
                if std::mem::take(&mut is_first) { queue.join(means, stream) } else { Ok(()) }
            });
        }
    }

    /// Whether some of the staging slots' VRAM could be given back. It cannot once a capture has used them, because its
    /// graph has their addresses.
    pub fn may_shrink(&self) -> bool {
        !self.is_in_graphs && self.captures.is_empty() && !self.has_failed
    }

    /// Gives back at least `needed` bytes of the staging slots' VRAM, if half of it is enough, while the device is idle and
    /// nobody submits work. Returns how many.
    pub fn shrink(&mut self, memory: &Memory, device: &Device, needed: u64) -> u64 {
        if !self.may_shrink() {
            return 0;
        }
        let given_back = self.slots.shrink(memory, device, needed);
        if given_back > 0 {
            let capacity = self.slots.capacity();
            self.queues(memory, device.ordinal, &mut |queue, means| queue.start_over(means, capacity));
        }
        given_back
    }

    /// An event after the copies made so far, outside of graphs; whoever asks waits for it without the engine, and destroys it.
    /// `None` of one that has failed: it copies no more.
    pub fn copies_so_far(&mut self, memory: &Memory) -> Option<CUevent> {
        event::untimed_after(memory.driver, self.direct.copy_stream()).ok()
    }

    /// A stream is about to be destroyed, or, without one, a capture is about to begin: nothing stays open.
    pub fn settle(&mut self, memory: &Memory, device: CUdevice, only: Option<CUstream>) {
        self.own_streams.retain(|known| only.is_some_and(|gone| *known != gone));
        let mut is_first = true;
        self.queues(memory, device, &mut |queue, means| {
            let is_direct = std::mem::take(&mut is_first);
            if is_direct || only.is_some() { queue.settle(means, only) } else { Ok(()) }
        });
    }

    /// A capture has begun on a stream.
    pub fn capture_begun(&mut self, memory: &Memory, stream: CUstream) {
        let driver = memory.driver;
        if self.has_failed || memory.context_of(stream).ok() != Some(self.context) {
            return;
        }
        let Some(Some(id)) = capture_of(driver, stream) else { return };
        let (Ok(origin), Ok(_current)) = (memory.order_of(stream), Current::enter(driver, self.context)) else {
            return;
        };
        let copy_stream = self.spare_streams.pop().map_or_else(|| new_stream(driver), Ok);
        let Ok(copy_stream) = copy_stream else { return };
        match self.events.behind(driver, stream) {
            Ok(root) => {
                let queue = CopyQueue::new(copy_stream, self.slots.capacity(), true);
                let capturing = Capturing { queue, root, has_joined: false, origin, has_failed: false };
                self.captures.insert(id, capturing);
            }
            Err(_) => self.spare_streams.push(copy_stream),
        }
    }

    /// A capture is about to end on a stream: its copies are joined to it. Its name, if it is one of ours.
    pub fn capture_ends(&mut self, memory: &Memory, device: CUdevice, stream: CUstream) -> Option<u64> {
        let Some(id) = capture_of(memory.driver, stream)? else { return self.begun_on(memory, stream) };
        let record = memory.device(device).ok()?.record;
        let capturing = self.captures.get_mut(&id)?;
        if capturing.has_joined && !capturing.has_failed {
            let mut means = Means {
                memory,
                driver: memory.driver,
                record,
                base: self.slots.base(),
                events: &mut self.events,
                experts: None,
                trace: None,
            };
            // What goes wrong here ends the capture with the driver's own error.
            let _ = capturing.queue.join(&mut means, stream);
        }
        Some(id)
    }

    /// The capture that began on a stream and is not over, as far as is known.
    pub fn begun_on(&self, memory: &Memory, stream: CUstream) -> Option<u64> {
        let order = memory.order_of(stream).ok()?;
        self.captures.iter().find(|(_, capturing)| capturing.origin == order).map(|(id, _)| *id)
    }

    /// A capture is over. Returns the bytes that its graph copies into staging slots.
    pub fn capture_over(&mut self, memory: &Memory, id: u64) -> u64 {
        let Some(capturing) = self.captures.remove(&id) else { return 0 };
        let (copied, stream) = (capturing.queue.copied(), capturing.queue.copy_stream());
        if is_capturing(memory.driver, stream) == Some(false) {
            self.spare_streams.push(stream);
        } else {
            // What became of the capture is not known, and the stream may be in it for ever.
            // SAFETY: ours, and used no more.
            let _ = unsafe { memory.driver.cuStreamDestroy_v2(stream) };
        }
        self.events.give(capturing.root);
        capturing.queue.end(&mut self.events);
        copied
    }
}
