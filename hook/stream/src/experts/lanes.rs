//! Which launches over experts may still be running.
//!
//! Before an expert slot gets another expert, every launch that may have read the table while it named the expert slot has to be over. Launches
//! that are submitted later read the table later, and do not know the expert slot any more. So each stream that such launches are
//! submitted to has an event after the last one; whoever wants to know what was submitted so far keeps that event (the stream goes
//! on with another one) and waits for it.

use greenboost_cuda::abi::{CUcontext, CUdeviceptr, CUevent, CUfunction, CUstream, NOT_READY, Status};
use greenboost_cuda::{Driver, event as events};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// What one stream has been given.
#[derive(Debug)]
pub struct Lane {
    stream: usize,
    context: usize,
    /// The id kernel, in the stream's context.
    pub function: Function,
    /// Where its launches write ids.
    pub out: CUdeviceptr,
    started: AtomicU64,
    is_gone: AtomicBool,
    recorded: Mutex<Recorded>,
}

/// A kernel's handle, which any thread may use.
#[derive(Debug, Clone, Copy)]
pub struct Function(pub CUfunction);

// SAFETY: a name that the driver gives; it is only passed back to it.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

#[derive(Debug)]
struct Recorded {
    finished: u64,
    events: [Event; 2],
    /// How many launches each is after.
    after: [u64; 2],
    current: usize,
    has_failed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Event(CUevent);

// SAFETY: as of a function.
unsafe impl Send for Event {}

impl Lane {
    /// A queue of launches of a stream of the current context.
    ///
    /// # Errors
    /// The driver's status.
    pub fn new(
        driver: &Driver,
        (context, stream): (CUcontext, CUstream),
        function: CUfunction,
        out: CUdeviceptr,
    ) -> Result<Self, Status> {
        let events = [Event(events::untimed(driver, stream)?), Event(events::untimed(driver, stream)?)];
        let recorded = Recorded { finished: 0, events, after: [0; 2], current: 0, has_failed: false };
        Ok(Self {
            stream: stream as usize,
            context: context as usize,
            function: Function(function),
            out,
            started: AtomicU64::new(0),
            is_gone: AtomicBool::new(false),
            recorded: Mutex::new(recorded),
        })
    }

    /// A launch is about to be submitted.
    pub fn begins(&self) {
        self.started.fetch_add(1, SeqCst);
    }

    /// It has been submitted.
    pub fn submitted(&self, driver: &Driver) {
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.finished += 1;
        if recorded.finished == self.started.load(SeqCst) {
            let current = recorded.current;
            recorded.after[current] = recorded.finished;
            let event = recorded.events[current].0;
            recorded.has_failed |= events::record(driver, event, self.stream as CUstream).is_err();
        }
    }

    /// What is submitted to `stream` next follows what this queue of launches has.
    pub fn comes_before(&self, driver: &Driver, stream: CUstream) {
        let recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        if recorded.finished > 0 {
            // The later one: the other may have been left alone since a wait for it began.
            let last = usize::from(recorded.after[1] > recorded.after[0]);
            let _ = events::wait(driver, stream, recorded.events[last].0);
        }
    }

    /// An event after all launches so far, left alone until this is asked again. `Err(())`: a launch is being submitted right now.
    fn mark(&self) -> Result<Option<CUevent>, ()> {
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let started = self.started.load(SeqCst);
        if started == 0 {
            return Ok(None);
        }
        let current = recorded.current;
        let at = [current, 1 - current].into_iter().find(|at| recorded.after[*at] >= started).ok_or(())?;
        if recorded.has_failed {
            return Err(());
        }
        recorded.current = 1 - at;
        Ok(Some(recorded.events[at].0))
    }
}

/// The queues of launches of a device.
#[derive(Debug, Default)]
pub struct Lanes {
    all: RwLock<Vec<Arc<Lane>>>,
    /// Streams on which launches were captured: their graphs use what is theirs.
    captured_on: RwLock<Vec<usize>>,
    /// Whether a graph was launched on a stream on which none was captured: then no two may run at once.
    in_turn: AtomicBool,
    /// Then held from the wait for others until the launch has been submitted.
    turn: Mutex<()>,
}

/// What is waited for: an event of each queue of launches, or `None` where the queue of launches is about to have one.
pub struct Marks(Vec<(Arc<Lane>, Option<Option<Event>>)>);

impl Lanes {
    /// The queue of launches of a stream.
    pub fn of(&self, stream: CUstream) -> Option<Arc<Lane>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|lane| lane.stream == stream as usize && !lane.is_gone.load(SeqCst)).cloned()
    }

    /// Adds one.
    pub fn add(&self, lane: Lane) -> Arc<Lane> {
        let lane = Arc::new(lane);
        self.all.write().unwrap_or_else(PoisonError::into_inner).push(lane.clone());
        lane
    }

    /// A stream is about to be destroyed: what it has been given is still to be waited for.
    pub fn stream_gone(&self, stream: CUstream) {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|lane| lane.stream == stream as usize).for_each(|lane| lane.is_gone.store(true, SeqCst));
    }

    /// A context goes, and with it its streams and events; its work is done.
    pub fn context_gone(&self, context: CUcontext) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).retain(|lane| lane.context != context as usize);
    }

    /// A launch was captured on a stream.
    pub fn captured(&self, stream: CUstream) {
        let is_known = |streams: &Vec<usize>| streams.contains(&(stream as usize));
        if !is_known(&self.captured_on.read().unwrap_or_else(PoisonError::into_inner)) {
            self.captured_on.write().unwrap_or_else(PoisonError::into_inner).push(stream as usize);
        }
    }

    /// Whether any launch was captured.
    pub fn are_in_graphs(&self) -> bool {
        !self.captured_on.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// A launch is about to be submitted to a stream, a graph's or a single one's. Ids have a place for each stream, which a graph
    /// keeps: one that is launched on another stream than it was captured on must have it for itself.
    ///
    /// To be kept until the launch has been submitted.
    #[must_use]
    pub fn keep_apart(&self, driver: &Driver, stream: CUstream, is_graph: bool) -> Option<MutexGuard<'_, ()>> {
        // Nobody says which graph was captured on which stream: it is its own only where there is no other.
        let is_own = |streams: &Vec<usize>| streams.iter().all(|known| *known == stream as usize);
        let own = is_own(&self.captured_on.read().unwrap_or_else(PoisonError::into_inner));
        if is_graph && !own && !self.in_turn.swap(true, SeqCst) {
            log::info!("graphs were captured on several streams: what they and others launch takes turns");
        }
        let in_turn = self.in_turn.load(SeqCst);
        let turn = in_turn.then(|| self.turn.lock().unwrap_or_else(PoisonError::into_inner));
        if in_turn {
            let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
            all.iter().filter(|lane| lane.stream != stream as usize).for_each(|lane| lane.comes_before(driver, stream));
        }
        turn
    }

    /// Begins to wait for all that was submitted so far.
    pub fn marks(&self) -> Marks {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        Marks(all.iter().map(|lane| (lane.clone(), None)).collect())
    }

    /// Forgets queues of launches of streams that are gone, after what they had is over.
    pub fn forget_gone(&self) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).retain(|lane| !lane.is_gone.load(SeqCst));
    }
}

impl Marks {
    /// Whether all of it is over. To be asked again while it is not.
    pub fn are_over(&mut self, driver: &Driver) -> bool {
        for (lane, mark) in &mut self.0 {
            if mark.is_none() {
                *mark = lane.mark().ok().map(|event| event.map(Event));
            }
        }
        let is_over = |mark: &Option<Option<Event>>| match mark {
            None => false,
            Some(None) => true,
            // SAFETY: an event of ours. One that cannot be asked tells nothing.
            Some(Some(event)) => match unsafe { driver.cuEventQuery(event.0) } {
                Ok(()) => true,
                Err(NOT_READY) => false,
                Err(_) => false,
            },
        };
        self.0.iter().all(|(_, mark)| is_over(mark))
    }
}
