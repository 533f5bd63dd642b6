//! When nobody uses a device's memory: its gate, and those of the devices that reach it, are closed, and what was submitted to
//! any of their contexts is done.
//!
//! ```text
//!   submitters   ──▶──▶──▶   stand still  ──▶──▶──▶──▶──▶──▶   stand still
//!   the mover            close, mark, look          wait for the marks         close, mark: done ─ move ─ open
//!                         (HOLD, doubled)             (gates open)
//! ```
//!
//! Nothing is held while work is waited for that takes long, and no wait is without an end: what a kernel waits for may be up
//! to a thread that wants to submit, to free or to allocate.

use crate::Memory;
use crate::device::Device;
use crate::gate::{Closed, Inside};
use crate::submitted::Submitted;
use greenboost_cuda::abi::{CUcontext, CUdevice, CUdeviceptr, CUstream, Status};
use greenboost_cuda::{Current, Driver};
use std::time::{Duration, Instant};

/// How long gates are closed at first to wait for what is being done.
const HOLD: Duration = Duration::from_millis(10);
/// How long at the most: nobody who submits work should notice.
const LONGEST_HOLD: Duration = Duration::from_millis(320);
/// How often is looked whether work is done.
const LOOK: Duration = Duration::from_micros(50);

/// How long a mover goes on trying.
#[derive(Debug)]
pub struct Patience {
    until: Instant,
    hold: Duration,
}

impl Patience {
    /// As long as this from now on.
    pub fn of(patience: Duration) -> Self {
        Self { until: Instant::now() + patience, hold: HOLD }
    }

    /// Waits, with nothing held, for what was in the way; false when there is no time left.
    pub fn wait(&mut self, busy: &Busy) -> bool {
        let Some(submitted) = &busy.0 else { return false };
        let began = Instant::now();
        // Whoever stood before the gates gets at least as long as they were closed.
        while (!submitted.is_worth_another_look() || began.elapsed() < self.hold) && Instant::now() < self.until {
            std::thread::sleep(LOOK);
        }
        self.hold = (self.hold * 2).min(LONGEST_HOLD);
        Instant::now() < self.until
    }
}

/// Nobody submits work that could use a device's memory, and none is under way, while this lives.
pub struct Quiet<'a>(#[expect(dead_code, reason = "held")] Vec<Closed<'a>>);

/// Why nothing can be moved right now: what has been submitted and is not done; `None` where waiting is of no use.
pub struct Busy(Option<Submitted>);

impl Memory {
    /// Enters the gate to submit work to a stream, or in the current context.
    #[inline]
    pub fn enter(&self, on: Option<CUstream>) -> Inside<'_> {
        if self.driver.device_count() == 1 { self.gates.gate(0).enter() } else { self.enter_with(on, &[]) }
    }

    /// The same for work that uses memory at these addresses, which may be another device's.
    #[inline]
    pub fn enter_to_use(&self, on: Option<CUstream>, addresses: &[CUdeviceptr]) -> Inside<'_> {
        if self.driver.device_count() == 1 { self.gates.gate(0).enter() } else { self.enter_with(on, addresses) }
    }

    /// The same for a graph: it may have nodes of any device in it, whatever stream it is launched on.
    #[inline]
    pub fn enter_with_graph(&self, on: CUstream) -> Inside<'_> {
        if self.driver.device_count() == 1 {
            return self.gates.gate(0).enter();
        }
        let own = self.submits_to(Some(on));
        self.enter_all(own, self.devices().map(|device| device.ordinal).collect())
    }

    fn enter_with(&self, on: Option<CUstream>, addresses: &[CUdeviceptr]) -> Inside<'_> {
        let mut others: Vec<CUdevice> = Vec::new();
        if !addresses.is_empty() {
            let table = self.table();
            others.extend(addresses.iter().filter_map(|at| table.find(*at)).map(|allocation| allocation.device));
        }
        self.enter_all(self.submits_to(on), others)
    }

    /// The device that work is submitted to.
    fn submits_to(&self, on: Option<CUstream>) -> CUdevice {
        on.and_then(|on| device_of_stream(self.driver, on)).or_else(|| current_device(self.driver)).unwrap_or(0)
    }

    fn enter_all(&self, own: CUdevice, mut others: Vec<CUdevice>) -> Inside<'_> {
        others.retain(|device| *device != own);
        if others.is_empty() {
            return self.gates.gate(own).enter();
        }
        others.sort_unstable();
        others.dedup();
        let gates: Vec<_> = others.iter().map(|other| self.gates.gate(*other)).collect();
        let inside = self.gates.gate(own).enter_with(&gates);
        others.iter().for_each(|other| self.gates.reaches(own, *other));
        inside
    }

    /// Opens a device's memory to the work of another while `open` runs, and from then on.
    pub fn open_to<T>(&self, device: CUdevice, other: CUdevice, open: impl FnOnce() -> T) -> T {
        let _inside = self.gates.gate(other).enter();
        self.gates.reaches(device, other);
        open()
    }

    /// Closes the gates of a device's memory. `Err`: it is in use, by what is to be waited for with nothing held.
    ///
    /// # Errors
    /// What was submitted and is not done. While a stream is capturing, nothing is waited for.
    pub fn quiet(&self, device: &Device, patience: &Patience) -> Result<Quiet<'_>, Busy> {
        let until = Instant::now() + patience.hold;
        let gate_is_held = || Busy(Some(Submitted::default()));
        let mut closed = vec![self.gates.gate(device.ordinal).close(until).ok_or_else(gate_is_held)?];
        // Asked with the first gate closed: others come to reach the memory inside it.
        for other in self.gates.reaching(device.ordinal).skip(1) {
            closed.push(self.gates.gate(other).close(until).ok_or_else(gate_is_held)?);
        }
        if self.captures.any(self.driver) {
            return Err(Busy(None));
        }
        let submitted = self.submitted_to(device).map_err(|_| Busy(None))?;
        while !submitted.is_done() {
            if Instant::now() > until {
                return Err(Busy(Some(submitted)));
            }
            std::thread::sleep(LOOK);
        }
        Ok(Quiet(closed))
    }

    /// Marks what was submitted so far to any context whose work may use a device's memory. No stream may be capturing.
    ///
    /// # Errors
    /// The driver's status: nothing is known of some of the work.
    pub fn submitted_to(&self, device: &Device) -> Result<Submitted, Status> {
        let mut submitted = Submitted::default();
        for context in self.contexts_reaching(device) {
            // A context that cannot be entered is gone, and its work with it.
            let Ok(_current) = Current::push(self.driver, context) else {
                device.forget_context(context);
                continue;
            };
            submitted.mark(self.driver, &self.gates.waiters, context)?;
        }
        Ok(submitted)
    }

    /// Contexts whose work may use a device's memory: all of the device's own, and of those that reach it.
    fn contexts_reaching(&self, device: &Device) -> Vec<CUcontext> {
        let mut contexts: Vec<_> = device.contexts();
        for reaching in self.gates.reaching(device.ordinal) {
            contexts.extend(self.driver.primary_context(reaching));
            let made = self.gates.made();
            contexts.extend(made.iter().filter(|(of, _)| *of == reaching).map(|(_, context)| *context as CUcontext));
        }
        contexts.sort_unstable();
        contexts.dedup();
        contexts
    }
}

fn current_device(driver: &Driver) -> Option<CUdevice> {
    let mut device = 0;
    // SAFETY: writes one integer to a live local.
    unsafe { driver.cuCtxGetDevice(&mut device) }.is_ok().then_some(device)
}

fn device_of_stream(driver: &Driver, stream: CUstream) -> Option<CUdevice> {
    device_of(driver, driver.context_of(stream).ok()??)
}

/// The device of a context.
pub fn device_of(driver: &Driver, context: CUcontext) -> Option<CUdevice> {
    let _current = Current::enter(driver, context).ok()?;
    current_device(driver)
}
