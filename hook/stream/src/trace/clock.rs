//! The GPU's time: events that keep it, read back when they have happened and never waited for.
//!
//! The driver tells the time between two events in milliseconds as a `f32`, which after ten minutes is coarser than a
//! short kernel. So there is a new base every second; a mark is measured against the base that had been reached when
//! the mark was made, so that no time is negative.

use greenboost_cuda::Driver;
use greenboost_cuda::abi::{CUevent, CUstream, Status};
use greenboost_cuda::event as events;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How old a base may become.
const OLDEST: Duration = Duration::from_secs(1);

/// What times are measured from.
#[derive(Debug)]
pub struct Base {
    event: CUevent,
    /// Its own time, in microseconds of the trace.
    at: f64,
}

// SAFETY: an event's handle is a name that any thread may use.
unsafe impl Send for Base {}
// SAFETY: as above; nothing changes.
unsafe impl Sync for Base {}

/// Makes marks and reads them.
#[derive(Debug)]
pub struct Clock {
    stream: CUstream,
    base: Arc<Base>,
    since: Instant,
    next: Option<CUevent>,
    old: Vec<Arc<Base>>,
    spare: Vec<CUevent>,
}

impl Clock {
    /// A clock that says `at` microseconds for now. `stream` is idle, and lives as long as the clock.
    ///
    /// # Errors
    /// The driver's status.
    pub fn start(driver: &Driver, stream: CUstream, at: f64) -> Result<Self, Status> {
        let event = recorded(driver, &mut Vec::new(), stream)?;
        let base = Arc::new(Base { event, at });
        Ok(Self { stream, base, since: Instant::now(), next: None, old: Vec::new(), spare: Vec::new() })
    }

    /// A mark after everything submitted to a stream so far. Not for a stream that is captured.
    ///
    /// # Errors
    /// The driver's status.
    pub fn mark(&mut self, driver: &Driver, stream: CUstream) -> Result<CUevent, Status> {
        recorded(driver, &mut self.spare, stream)
    }

    /// What a mark that is made now is to be measured from.
    pub fn base(&self) -> Arc<Base> {
        self.base.clone()
    }

    /// Takes back a mark that is not needed any more.
    pub fn give(&mut self, mark: CUevent) {
        self.spare.push(mark);
    }

    /// Sees to a young base.
    ///
    /// # Errors
    /// The driver's status.
    pub fn advance(&mut self, driver: &Driver) -> Result<(), Status> {
        if let Some(event) = self.next {
            if let Some(at) = time(driver, &self.base, event)? {
                let old = std::mem::replace(&mut self.base, Arc::new(Base { event, at }));
                self.old.push(old);
                (self.next, self.since) = (None, Instant::now());
            }
        } else if self.since.elapsed() > OLDEST {
            self.next = Some(self.mark(driver, self.stream)?);
        }
        let unused = self.old.extract_if(.., |base| Arc::strong_count(base) == 1);
        self.spare.extend(unused.map(|base| base.event));
        Ok(())
    }
}

fn recorded(driver: &Driver, spare: &mut Vec<CUevent>, stream: CUstream) -> Result<CUevent, Status> {
    let Some(event) = spare.pop() else { return events::timed_behind(driver, stream) };
    events::record(driver, event, stream)?;
    Ok(event)
}

/// When a mark was reached, in microseconds of the trace; `None`: not yet.
///
/// # Errors
/// The driver's status.
pub fn time(driver: &Driver, base: &Base, mark: CUevent) -> Result<Option<f64>, Status> {
    let since = events::milliseconds(driver, base.event, mark)?;
    Ok(since.map(|milliseconds| base.at + milliseconds * 1e3))
}
