//! Events: points of a stream that other streams wait for.
//!
//! A wait holds for what the event stood for when the wait was issued, so that an event can be recorded anew as soon as
//! everybody who needs it has issued the wait. During a capture the same calls become edges of the graph.

use crate::abi::{CUcontext, CUevent, CUstream, NOT_READY, NOT_SUPPORTED, SUCCESS, Status};
use crate::context::Current;
use crate::driver::Driver;
use std::time::{Duration, Instant};

/// `CU_EVENT_DEFAULT`: with a time.
const TIMING: u32 = 0;
/// `CU_EVENT_DISABLE_TIMING`.
const NO_TIMING: u32 = 2;

/// Events of one context that nobody needs at the moment.
#[derive(Debug)]
pub struct Events {
    context: CUcontext,
    spare: Vec<CUevent>,
}

impl Events {
    /// None yet.
    pub fn of(context: CUcontext) -> Self {
        Self { context, spare: Vec::new() }
    }

    /// An event after everything submitted to a stream of the context so far, whatever context is current.
    ///
    /// # Errors
    /// The driver's status.
    pub fn behind(&mut self, driver: &Driver, stream: CUstream) -> Result<CUevent, Status> {
        let event = match self.spare.pop() {
            Some(event) => event,
            None => {
                let _current = Current::enter(driver, self.context)?;
                create(driver, NO_TIMING)?
            }
        };
        record(driver, event, stream).inspect_err(|_| self.give(event))?;
        Ok(event)
    }

    /// Takes back an event that no wait will be issued for any more.
    pub fn give(&mut self, event: CUevent) {
        self.spare.push(event);
    }
}

/// An event that keeps its time, after everything submitted to a stream so far. Not for a stream that is captured.
///
/// # Errors
/// The driver's status.
pub fn timed_behind(driver: &Driver, stream: CUstream) -> Result<CUevent, Status> {
    let _current = within(driver, stream)?;
    let event = create(driver, TIMING)?;
    record(driver, event, stream)?;
    Ok(event)
}

/// An event without a time, after everything submitted to a stream so far. Whoever asks destroys it.
///
/// # Errors
/// The driver's status.
pub fn untimed_after(driver: &Driver, stream: CUstream) -> Result<CUevent, Status> {
    let _current = within(driver, stream)?;
    let event = create(driver, NO_TIMING)?;
    record(driver, event, stream).inspect_err(|_| destroy(driver, event))?;
    Ok(event)
}

/// An event without a time that can be recorded on a stream. Whoever asks destroys it.
///
/// # Errors
/// The driver's status.
pub fn untimed(driver: &Driver, stream: CUstream) -> Result<CUevent, Status> {
    let _current = within(driver, stream)?;
    create(driver, NO_TIMING)
}

/// Makes the context of a stream current: only an event of its own context can be recorded on it.
fn within(driver: &Driver, stream: CUstream) -> Result<Option<Current<'_>>, Status> {
    driver.context_of(stream)?.map_or(Ok(None), |context| Current::enter(driver, context))
}

/// An event after everything submitted to a context so far, which is current; later work is not held up by it. Whoever asks
/// destroys it. `None`: the driver, older than 12.5, cannot.
pub fn after_context(driver: &Driver, context: CUcontext) -> Option<Result<CUevent, Status>> {
    let record = driver.record_context?;
    let event = match create(driver, NO_TIMING) {
        Ok(event) => event,
        Err(status) => return Some(Err(status)),
    };
    // SAFETY: a context that is current, and an event of it that is ours.
    let status = unsafe { record(context, event) };
    if status == SUCCESS {
        return Some(Ok(event));
    }
    destroy(driver, event);
    (status != NOT_SUPPORTED).then_some(Err(status))
}

/// Destroys an event that nobody uses any more.
pub fn destroy(driver: &Driver, event: CUevent) {
    // SAFETY: made by us, as its user relies on.
    let _ = unsafe { driver.cuEventDestroy_v2(event) };
}

fn create(driver: &Driver, flags: u32) -> Result<CUevent, Status> {
    let mut event = std::ptr::null_mut();
    // SAFETY: writes one handle to a live local.
    unsafe { driver.cuEventCreate(&mut event, flags) }?;
    Ok(event)
}

/// The time between two such events; `None`: they have not both been reached.
///
/// # Errors
/// The driver's status.
pub fn milliseconds(driver: &Driver, from: CUevent, to: CUevent) -> Result<Option<f64>, Status> {
    let mut milliseconds = 0.0f32;
    // SAFETY: both events are ours and have been recorded outside of captures; writes to a live local.
    match unsafe { driver.cuEventElapsedTime(&mut milliseconds, from, to) } {
        Ok(()) => Ok(Some(milliseconds.into())),
        Err(NOT_READY) => Ok(None),
        Err(status) => Err(status),
    }
}

/// Moves an event after everything submitted to a stream so far.
///
/// # Errors
/// The driver's status.
pub fn record(driver: &Driver, event: CUevent, stream: CUstream) -> Result<(), Status> {
    // SAFETY: the event is ours and of the stream's context; the stream is alive, as its next user relies on.
    unsafe { driver.cuEventRecord(event, stream) }
}

/// What is submitted to a stream from now on waits for an event.
///
/// # Errors
/// The driver's status.
pub fn wait(driver: &Driver, stream: CUstream, event: CUevent) -> Result<(), Status> {
    // SAFETY: as in `record`.
    unsafe { driver.cuStreamWaitEvent(stream, event, 0) }
}

/// Whether the work before an event's record has been done. Not to be asked of an event that was recorded in a capture.
pub fn is_done(driver: &Driver, event: CUevent) -> bool {
    // SAFETY: the event is ours.
    let asked = unsafe { driver.cuEventQuery(event) };
    asked != Err(NOT_READY)
}

/// How long a stream that has nothing to do may take to say so: the GPU needs some microseconds, its host more under load.
const MOMENT: Duration = Duration::from_millis(1);

/// Whether a stream has nothing left to do, and nothing to wait for: what is done right now comes after all that was submitted
/// to it, also after what the null stream has to do where the two are ordered. Asked by an event, because a query of a stream
/// tells of its own work alone. Not for a stream that may be captured.
pub fn is_idle(driver: &Driver, stream: CUstream) -> bool {
    let Ok(event) = untimed_after(driver, stream) else { return false };
    let began = Instant::now();
    // SAFETY: the event is ours.
    let is_reached = || unsafe { driver.cuEventQuery(event) } == Ok(());
    let mut is_idle = is_reached();
    while !is_idle && began.elapsed() < MOMENT {
        std::thread::yield_now();
        is_idle = is_reached();
    }
    // SAFETY: ours, and used no more; one that has not been reached goes once it is.
    let _ = unsafe { driver.cuEventDestroy_v2(event) };
    is_idle
}
