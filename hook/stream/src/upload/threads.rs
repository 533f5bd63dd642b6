//! The threads that copy.
//!
//! A program uploads tensor after tensor and waits for each: a thread that slept in between would take as long to wake as it
//! has work (in a virtual machine a tenth of a millisecond and more). So they look for work a while before they sleep.

use crossbeam_channel::{Receiver, RecvError, Sender, unbounded};
use greenboost_contract::settings::ENOUGH_UPLOAD_THREADS;
use greenboost_intercept::process::without_signals;
use std::collections::VecDeque;
use std::hint::spin_loop;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// How long a thread without work looks for some.
const LOOK: Duration = Duration::from_millis(1);

/// How long whoever waits for its jobs waits before it does one by itself. All threads may be with another's, whose pages come
/// from a file, or from a thread of the program that waits for this one.
const STALL: Duration = Duration::from_millis(20);

type Work = Box<dyn FnOnce() + Send>;

/// What is to be done once, by whoever comes first.
#[derive(Clone)]
struct Job(Arc<Mutex<Option<Work>>>);

impl Job {
    fn lock(&self) -> MutexGuard<'_, Option<Work>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does it; false when somebody has done it, or does.
    fn run(&self) -> bool {
        let work = self.lock().take();
        work.map(|work| work()).is_some()
    }
}

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
}

/// What somebody has the threads do, each job ending with something sent.
pub struct Jobs<'a, T> {
    threads: &'a Threads,
    /// Those that nobody may have begun.
    own: VecDeque<Job>,
    sender: Sender<T>,
    done: Receiver<T>,
}

impl<'a, T: Send + 'static> Jobs<'a, T> {
    /// None yet.
    pub fn new(threads: &'a Threads) -> Self {
        let (sender, done) = unbounded();
        Self { threads, own: VecDeque::new(), sender, done }
    }

    /// Has a thread do it.
    pub fn run(&mut self, work: impl FnOnce() -> T + Send + 'static) {
        let sender = self.sender.clone();
        let job = Job(Arc::new(Mutex::new(Some(Box::new(move || {
            let _ = sender.send(work());
        })))));
        while self.own.front().is_some_and(|job| job.lock().is_none()) {
            self.own.pop_front();
        }
        self.own.push_back(job.clone());
        // They live as long as the process: there is always one that receives.
        let _ = self.threads.jobs.send(job);
    }

    /// What has been done by now.
    pub fn done(&self) -> Option<T> {
        self.done.try_recv().ok()
    }

    /// What is done next; there is something under way.
    pub fn next(&mut self) -> T {
        let began = Instant::now();
        loop {
            match self.done.try_recv() {
                Ok(it) => return it,
                Err(_) if began.elapsed() < LOOK => spin_loop(),
                Err(_) => match self.done.recv_timeout(STALL) {
                    Ok(it) => return it,
                    Err(_) => while self.own.pop_front().is_some_and(|job| !job.run()) {},
                },
            }
        }
    }
}

/// What comes next; looked for a while before it is slept for.
///
/// # Errors
/// There is nobody who would send anything.
fn next<T>(from: &Receiver<T>) -> Result<T, RecvError> {
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
        job.run();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_does_its_own_jobs_where_all_threads_are_with_anothers() {
        let threads = Threads::new(2).expect("two threads");
        let (open, closed) = unbounded::<()>();
        let mut stuck = Jobs::new(&threads);
        for _ in 0..2 {
            let closed = closed.clone();
            stuck.run(move || closed.recv());
        }
        let mut jobs = Jobs::new(&threads);
        (0..5).for_each(|number| jobs.run(move || number));
        let mut done: Vec<_> = (0..5).map(|_| jobs.next()).collect();
        done.sort_unstable();
        assert_eq!(done, [0, 1, 2, 3, 4]);
        drop(open);
        assert!(stuck.next().is_err() && stuck.next().is_err() && stuck.done().is_none());
    }
}
