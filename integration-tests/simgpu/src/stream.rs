//! Streams: a queue and a worker thread each, so that whatever the program forgot to order really runs in another
//! order. Before every operation a worker waits a little, by a seeded random number.

use crate::capture::{self, Capture};
use crate::clock::Clock;
use crate::context::Context;
use crate::driver;
use crate::edge::Form;
use crate::env::options;
use crate::errors::{Error, Result};
use crate::gpu::{NO_DEPENDENCIES, Turn};
use crate::handles::Handles;
use crate::work::Work;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

/// The stream handles with a fixed meaning.
const LEGACY: usize = 1;
const PER_THREAD: usize = 2;
/// `CU_STREAM_NON_BLOCKING`
pub const NON_BLOCKING: u32 = 1;

/// Which of the streams it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The legacy default stream.
    Legacy,
    /// A thread's default stream.
    PerThread,
    /// The program made it.
    Created,
}

/// A stream.
pub struct Stream {
    /// Its `CUstream`.
    pub handle: usize,
    /// Unique over the life of the process.
    pub id: u64,
    /// Which it is.
    pub kind: Kind,
    /// `CUstream_flags`.
    pub flags: u32,
    /// Kept, without effect.
    pub priority: i32,
    context: Weak<Context>,
    queue: Mutex<Queue>,
    /// Signals both new work and finished work.
    changed: Condvar,
    capture: Mutex<Option<Arc<Capture>>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Operation>,
    submitted: u64,
    /// The last operation that has begun.
    begun: u64,
    /// Every operation up to this one is done.
    completed: u64,
    /// What is done beyond that: a programmatic launch may end before the kernel in front of it.
    overtaking: BTreeSet<u64>,
    /// When the latest ones ended, in modelled time.
    ends: BTreeMap<u64, Instant>,
    /// Whether the last operation submitted is a kernel.
    kernel_last: bool,
    started: bool,
    closing: bool,
}

impl Queue {
    fn done(&self, ticket: u64) -> bool {
        self.completed >= ticket || self.overtaking.contains(&ticket)
    }

    /// When everything up to a ticket had ended, unless that is long ago.
    fn end_of(&self, ticket: u64) -> Option<Instant> {
        self.ends.get(&ticket).copied()
    }

    fn finish(&mut self, ticket: u64, end: Instant) {
        let last = self.ends.last_key_value().map_or(end, |(_, last)| end.max(*last));
        self.ends.insert(ticket, last);
        if self.ends.len() > REMEMBERED {
            self.ends.pop_first();
        }
        self.overtaking.insert(ticket);
        while self.overtaking.remove(&(self.completed + 1)) {
            self.completed += 1;
        }
    }
}

/// Ends of operations that a stream remembers: who waits for an older one is not held up by it any more.
const REMEMBERED: usize = 4096;

struct Operation {
    ticket: u64,
    submitted: Instant,
    after: Vec<Fence>,
    work: Work,
}

/// A point in a stream.
#[derive(Clone)]
pub struct Fence {
    stream: Arc<Stream>,
    ticket: u64,
}

impl Fence {
    /// Whether everything before the point is done.
    pub fn done(&self) -> bool {
        self.stream.queue().completed >= self.ticket
    }

    /// Waits for the point; says when that was in modelled time, unless it is long ago.
    pub fn wait(&self) -> Option<Instant> {
        self.stream.until(|queue| queue.completed >= self.ticket).end_of(self.ticket)
    }
}

/// The streams the program made.
pub static STREAMS: Handles<Stream> = Handles::new(2, Error::INVALID_HANDLE);
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The stream a handle means.
pub fn resolve(context: &Arc<Context>, handle: usize, form: Form) -> Result<Arc<Stream>> {
    match (handle, form) {
        (LEGACY, _) | (0, Form::Legacy) => Ok(context.legacy_stream()),
        (PER_THREAD, _) | (0, Form::PerThread) => Ok(context.per_thread_stream()),
        _ => STREAMS.get(handle),
    }
}

impl Stream {
    /// Makes a stream; its worker starts with the first operation.
    pub fn create(context: &Arc<Context>, kind: Kind, flags: u32, priority: i32) -> Arc<Stream> {
        let make = |handle| Stream {
            handle,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            kind,
            flags,
            priority,
            context: Arc::downgrade(context),
            queue: Mutex::default(),
            changed: Condvar::new(),
            capture: Mutex::default(),
        };
        match kind {
            Kind::Legacy => Arc::new(make(LEGACY)),
            Kind::PerThread => Arc::new(make(PER_THREAD)),
            Kind::Created => STREAMS.insert(make),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn until(&self, holds: impl Fn(&Queue) -> bool) -> MutexGuard<'_, Queue> {
        let mut queue = self.queue();
        while !holds(&queue) {
            queue = self.changed.wait(queue).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        queue
    }

    /// The stream's context.
    pub fn context(&self) -> Result<Arc<Context>> {
        self.context.upgrade().ok_or(Error::CONTEXT_IS_DESTROYED)
    }

    /// Whether it orders itself with the legacy stream.
    pub fn blocking(&self) -> bool {
        self.flags & NON_BLOCKING == 0
    }

    /// The capture it takes part in.
    pub fn capture(&self) -> Option<Arc<Capture>> {
        self.capture.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Enters or leaves a capture.
    pub fn set_capture(&self, capture: Option<Arc<Capture>>) {
        *self.capture.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = capture;
    }

    /// For calls that no capturing stream allows: the attempt spoils the capture.
    pub fn forbid_capturing(&self) -> Result {
        if self.kind == Kind::Legacy {
            return capture::forbid_legacy(&*self.context()?);
        }
        match self.capture() {
            Some(capture) => {
                capture.invalidate();
                Err(Error::STREAM_CAPTURE_UNSUPPORTED)
            }
            None => Ok(()),
        }
    }

    /// Runs work in the stream, or records it if the stream is capturing (then there is no fence).
    pub fn enqueue(self: &Arc<Stream>, work: Work) -> Result<Option<Fence>> {
        if let Some(capture) = self.capture() {
            capture.record(self, work)?;
            return Ok(None);
        }
        if self.kind == Kind::Legacy {
            capture::forbid_legacy(&*self.context()?)?;
        }
        self.submit(work, Vec::new()).map(Some)
    }

    /// Runs work in the stream behind some fences.
    pub fn submit(self: &Arc<Stream>, work: Work, mut after: Vec<Fence>) -> Result<Fence> {
        let context = self.context()?;
        let _order = context.order();
        if self.kind == Kind::Legacy {
            let others = context.streams().into_iter().filter(|other| other.blocking() && other.id != self.id);
            after.extend(others.map(|other| other.last()));
        } else if self.blocking() {
            after.extend(context.legacy_if_used().map(|legacy| legacy.last()));
        }
        after.retain(|fence| !fence.done());
        let mut queue = self.queue();
        if queue.closing {
            return Err(Error::CONTEXT_IS_DESTROYED);
        }
        queue.submitted += 1;
        let ticket = queue.submitted;
        // Anything between two kernels, a wait for an event too, keeps the second behind the first.
        let kernel_in_front = std::mem::replace(&mut queue.kernel_last, matches!(work, Work::Kernel(_)));
        if work.programmatic() && kernel_in_front && after.is_empty() && self.overlap(&context, ticket, &work) {
            return Ok(Fence { stream: self.clone(), ticket });
        }
        queue.waiting.push_back(Operation { ticket, submitted: Instant::now(), after, work });
        if !queue.started {
            queue.started = true;
            self.start(&context);
        }
        self.changed.notify_all();
        Ok(Fence { stream: self.clone(), ticket })
    }

    /// The point behind everything submitted so far.
    pub fn last(self: &Arc<Stream>) -> Fence {
        Fence { stream: self.clone(), ticket: self.queue().submitted }
    }

    /// Waits for everything submitted so far.
    pub fn wait_all(self: &Arc<Stream>) {
        self.last().wait();
    }

    /// Lets the worker end once the queue is empty.
    pub fn close(&self) {
        self.queue().closing = true;
        self.changed.notify_all();
    }

    fn start(self: &Arc<Stream>, context: &Arc<Context>) {
        let (stream, context) = (self.clone(), context.clone());
        spawn(move || stream.work(&context));
    }

    /// Runs a kernel beside the one in front of it, as soon as that one has begun.
    fn overlap(self: &Arc<Stream>, context: &Arc<Context>, ticket: u64, work: &Work) -> bool {
        let (stream, context, work) = (self.clone(), context.clone(), work.clone());
        let clock = Instant::now();
        spawn(move || {
            stream.until(|queue| queue.begun >= ticket - 1).begun = ticket;
            stream.changed.notify_all();
            let clock = Clock::start(clock);
            let in_front = || {
                if let Some(ended) = stream.until(|queue| queue.done(ticket - 1)).end_of(ticket - 1) {
                    clock.not_before(ended);
                }
                Ok(())
            };
            let turn = Turn { context: &context, clock: &clock, dependencies: &in_front };
            stream.run(&turn, work, &mut stream.random(ticket));
            stream.finish(ticket, &clock);
        })
    }

    fn random(&self, ticket: u64) -> Random {
        Random::new(options().seed ^ (self.id ^ ticket << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn run(&self, turn: &Turn, work: Work, random: &mut Random) {
        random.delay();
        if turn.context.healthy().is_ok()
            && let Err(error) = work.run(turn, random)
        {
            turn.context.fail(error);
        }
    }

    fn finish(&self, ticket: u64, clock: &Clock) {
        clock.settle();
        self.queue().finish(ticket, clock.now());
        self.changed.notify_all();
    }

    fn work(self: Arc<Stream>, context: &Arc<Context>) {
        let mut random = self.random(0);
        loop {
            let operation = {
                let mut queue = self.queue();
                loop {
                    if let Some(operation) = queue.waiting.pop_front() {
                        break operation;
                    }
                    if queue.closing {
                        return;
                    }
                    queue = self.changed.wait(queue).unwrap_or_else(|poisoned| poisoned.into_inner());
                }
            };
            let Operation { ticket, submitted, after, work } = operation;
            let clock = Clock::start(submitted);
            after.iter().filter_map(Fence::wait).for_each(|ended| clock.not_before(ended));
            let mut queue = self.until(|queue| queue.completed == ticket - 1);
            queue.end_of(ticket - 1).into_iter().for_each(|ended| clock.not_before(ended));
            queue.begun = ticket;
            drop(queue);
            self.changed.notify_all();
            self.run(&Turn { context, clock: &clock, dependencies: NO_DEPENDENCIES }, work, &mut random);
            self.finish(ticket, &clock);
        }
    }

    /// Whether everything submitted is done.
    pub fn idle(&self) -> bool {
        let queue = self.queue();
        queue.completed == queue.submitted
    }
}

/// Starts a thread; a worker must not run the program's signal handlers.
fn spawn(run: impl FnOnce() + Send + 'static) -> bool {
    // SAFETY: the masks are initialised by sigfillset and by the call that saves the old one.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let builder = std::thread::Builder::new().name("simgpu-stream".to_string()).stack_size(1 << 20);
        let spawned = builder.spawn(|| {
            // Modelled time is slept to: without slack, to some microseconds.
            libc::prctl(libc::PR_SET_TIMERSLACK, 1usize);
            run();
        });
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        spawned.is_ok()
    }
}

/// A small random generator (splitmix64): the same seed gives the same delays.
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Waits up to `SIMGPU_DELAY_US`.
    pub fn delay(&mut self) {
        let most = options().delay_us;
        if most > 0 && !driver::forked() {
            std::thread::sleep(Duration::from_micros(self.number() % (most + 1)));
        }
    }
}
