//! The threads that copy.
//!
//! A program uploads tensor after tensor and waits for each: a thread that slept in between would take as long to wake as it
//! has work (in a virtual machine a tenth of a millisecond and more). So they look for work a while before they sleep.

use crossbeam_channel::{Receiver, RecvError, Sender, unbounded};
use greenboost_contract::settings::ENOUGH_UPLOAD_THREADS;
use greenboost_intercept::process::without_signals;
use std::hint::spin_loop;
use std::thread::Builder;
use std::time::{Duration, Instant};

/// How long a thread without work looks for some.
const LOOK: Duration = Duration::from_millis(1);

type Job = Box<dyn FnOnce() + Send>;

/// Threads of ours.
pub struct Threads {
    jobs: Sender<Job>,
    count: usize,
    process: u32,
}

/// How many: what the settings say, else half of the processors, and two where there are few.
pub fn count(wanted: Option<u32>) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    wanted.map_or((processors / 2).clamp(processors.min(2), ENOUGH_UPLOAD_THREADS), |wanted| wanted as usize)
}

impl Threads {
    /// One copies no faster than the driver does.
    pub fn new(wanted: usize) -> Option<Self> {
        if wanted < 2 {
            return None;
        }
        let (jobs, todo) = unbounded();
        let start = |todo: Receiver<Job>| {
            let named = Builder::new().name("gb-upload".to_owned()).stack_size(256 << 10);
            without_signals(|| named.spawn(move || work(&todo)))
        };
        let started = (0..wanted).map_while(|_| {
            start(todo.clone()).inspect_err(|error| log::warn!("a thread less for uploads: {error}")).ok()
        });
        let count = started.count();
        (count > 1).then(|| Self { jobs, count, process: std::process::id() })
    }

    /// Whether they run in this process, and not in the one that it was forked from.
    pub fn is_here(&self) -> bool {
        self.process == std::process::id()
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Has a thread do it.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        // They live as long as the process: there is always one that receives.
        let _ = self.jobs.send(Box::new(job));
    }
}

/// What comes next; looked for a while before it is slept for.
///
/// # Errors
/// There is nobody who would send anything.
pub fn next<T>(from: &Receiver<T>) -> Result<T, RecvError> {
    let began = Instant::now();
    loop {
        match from.try_recv() {
            Ok(it) => return Ok(it),
            Err(_) if began.elapsed() < LOOK => spin_loop(),
            Err(_) => return from.recv(),
        }
    }
}

/// What a thread does for ever.
fn work(todo: &Receiver<Job>) {
    while let Ok(job) = next(todo) {
        job();
    }
}
