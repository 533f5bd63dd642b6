//! Streams: a queue and a worker thread each, so that whatever the program forgot to order really runs in another
//! order. Before every operation a worker waits a little, by a seeded random number.

use crate::capture::{self, Capture, Member};
use crate::clock::Clock;
use crate::context::Context;
use crate::env::options;
use crate::errors::{Error, Result};
use crate::fence::{Fence, Timeline};
use crate::gpu::{NO_DEPENDENCIES, Turn};
use crate::handles::Handles;
use crate::queue::{Operation, Queue};
use crate::random::Random;
use crate::work::Work;
use crate::worker::spawn;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::Instant;

/// The stream handles with a fixed meaning.
const LEGACY: usize = 1;
const PER_THREAD: usize = 2;
/// `CU_STREAM_NON_BLOCKING`
pub const NON_BLOCKING: u32 = 1;

/// Which stream a zero handle means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// The legacy default stream.
    Legacy,
    /// The per-thread default stream (`_ptds`, `_ptsz`).
    PerThread,
}

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

/// The streams the program made.
pub static STREAMS: Handles<Stream> = Handles::new(2, Error::INVALID_HANDLE);
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The streams of a context.
#[derive(Default)]
struct Streams {
    legacy: Option<Arc<Stream>>,
    per_thread: HashMap<i32, Arc<Stream>>,
    all: Vec<Arc<Stream>>,
    retired: Vec<Arc<Stream>>,
}

/// By the context's handle.
static OF_CONTEXT: Mutex<BTreeMap<usize, Streams>> = Mutex::new(BTreeMap::new());

fn of_all() -> MutexGuard<'static, BTreeMap<usize, Streams>> {
    OF_CONTEXT.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Every stream of a context, the implicit ones included.
pub fn of(context: &Context) -> Vec<Arc<Stream>> {
    let all = of_all();
    let streams = all.get(&context.handle);
    streams.into_iter().flat_map(|streams| streams.all.iter().chain(&streams.retired)).cloned().collect()
}

/// Adds a stream of the program's.
pub fn adopt(context: &Context, stream: Arc<Stream>) {
    of_all().entry(context.handle).or_default().all.push(stream);
}

/// Forgets a stream.
pub fn disown(context: &Context, stream: &Arc<Stream>) {
    of_all().entry(context.handle).or_default().all.retain(|other| !Arc::ptr_eq(other, stream));
}

/// Keeps a destroyed stream until its work is done: the device is not idle before.
pub fn retire(context: &Context, stream: Arc<Stream>) {
    let mut all = of_all();
    let streams = all.entry(context.handle).or_default();
    streams.all.retain(|other| !Arc::ptr_eq(other, &stream));
    streams.retired.retain(|other| !other.idle());
    streams.retired.push(stream);
}

/// The legacy default stream.
fn legacy(context: &Arc<Context>) -> Arc<Stream> {
    let mut all = of_all();
    let streams = all.entry(context.handle).or_default();
    if let Some(stream) = &streams.legacy {
        return stream.clone();
    }
    let stream = Stream::create(context, Kind::Legacy, 0, 0);
    streams.all.push(stream.clone());
    streams.legacy = Some(stream.clone());
    stream
}

/// The legacy stream if anything ever used it.
fn legacy_if_used(context: &Context) -> Option<Arc<Stream>> {
    of_all().get(&context.handle)?.legacy.clone()
}

/// The calling thread's default stream.
fn per_thread(context: &Arc<Context>) -> Arc<Stream> {
    // SAFETY: gettid has no preconditions.
    let thread = unsafe { libc::gettid() };
    let mut all = of_all();
    let streams = all.entry(context.handle).or_default();
    if let Some(stream) = streams.per_thread.get(&thread) {
        return stream.clone();
    }
    let stream = Stream::create(context, Kind::PerThread, 0, 0);
    streams.all.push(stream.clone());
    streams.per_thread.insert(thread, stream.clone());
    stream
}

/// Forgets a context with all its streams.
pub fn forget(context: &Context) {
    let streams = of_all().remove(&context.handle);
    // Outside the lock.
    drop(streams);
}

/// Refuses the use of a context's legacy stream while a blocking stream of it is capturing.
pub fn forbid_legacy(context: &Context) -> Result {
    if !capture::any() {
        return Ok(());
    }
    let mut implied = false;
    for stream in of(context).iter().filter(|stream| stream.blocking()) {
        if let Some(capture) = stream.capture() {
            capture.invalidate();
            implied = true;
        }
    }
    if implied { Err(Error::STREAM_CAPTURE_IMPLICIT) } else { Ok(()) }
}

impl Timeline for Stream {
    fn has_reached(&self, ticket: u64) -> bool {
        self.queue().completed >= ticket
    }

    fn wait_for(&self, ticket: u64) -> Option<Instant> {
        self.until(|queue| queue.completed >= ticket).end_of(ticket)
    }
}

impl Member for Stream {
    fn id(&self) -> u64 {
        self.id
    }

    fn is_legacy(&self) -> bool {
        self.kind == Kind::Legacy
    }

    fn capture(&self) -> Option<Arc<Capture>> {
        self.capture.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    fn set_capture(&self, capture: Option<Arc<Capture>>) {
        *self.capture.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = capture;
    }
}

/// The stream a handle means.
pub fn resolve(context: &Arc<Context>, handle: usize, form: Form) -> Result<Arc<Stream>> {
    match (handle, form) {
        (LEGACY, _) | (0, Form::Legacy) => Ok(legacy(context)),
        (PER_THREAD, _) | (0, Form::PerThread) => Ok(per_thread(context)),
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

    /// For calls that no capturing stream allows: the attempt spoils the capture.
    pub fn forbid_capturing(&self) -> Result {
        if self.kind == Kind::Legacy {
            return forbid_legacy(&*self.context()?);
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
            capture.record(self.id, work)?;
            return Ok(None);
        }
        if self.kind == Kind::Legacy {
            forbid_legacy(&*self.context()?)?;
        }
        self.submit(work, Vec::new()).map(Some)
    }

    /// Runs work in the stream after some fences.
    pub fn submit(self: &Arc<Stream>, work: Work, mut after: Vec<Fence>) -> Result<Fence> {
        let context = self.context()?;
        let _order = context.order();
        if self.kind == Kind::Legacy {
            let others = of(&context).into_iter().filter(|other| other.blocking() && other.id != self.id);
            after.extend(others.map(|other| other.last()));
        } else if self.blocking() {
            after.extend(legacy_if_used(&context).map(|legacy| legacy.last()));
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
            return Ok(Fence::new(self.clone(), ticket));
        }
        queue.waiting.push_back(Operation { ticket, submitted: Instant::now(), after, work });
        if !queue.started {
            queue.started = true;
            self.start(&context);
        }
        self.changed.notify_all();
        Ok(Fence::new(self.clone(), ticket))
    }

    /// The point after everything submitted so far.
    pub fn last(self: &Arc<Stream>) -> Fence {
        Fence::new(self.clone(), self.queue().submitted)
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
