//! The threads that copy.

use crate::memory::pressure::without_signals;
use greenboost_contract::Settings;
use rayon::{Scope, ThreadPool, ThreadPoolBuilder};
use std::sync::OnceLock;

/// More copy no faster than the link: eight reached 52 of its 55 GB/s.
const MOST: usize = 8;

/// Threads of ours, which sleep when there is nothing to copy.
pub struct Threads {
    pool: ThreadPool,
    process: u32,
}

/// The process's threads, made at the first call. `None`: it is to have none.
pub fn get(settings: &Settings) -> Option<&'static Threads> {
    static THREADS: OnceLock<Option<Threads>> = OnceLock::new();
    let threads = THREADS.get_or_init(|| Threads::new(count(settings.upload_threads)));
    // A forked child has none of them.
    threads.as_ref().filter(|threads| threads.process == std::process::id())
}

/// How many: what the settings say, else half of the processors, and two where there are few.
fn count(wanted: Option<u32>) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    wanted.map_or((processors / 2).clamp(processors.min(2), MOST), |wanted| wanted as usize)
}

impl Threads {
    /// One copies no faster than the driver does.
    fn new(count: usize) -> Option<Self> {
        if count < 2 {
            return None;
        }
        let builder = ThreadPoolBuilder::new().num_threads(count).spawn_handler(|thread| {
            let named = std::thread::Builder::new().name("gb-upload".to_owned()).stack_size(256 << 10);
            without_signals(|| named.spawn(|| thread.run())).map(drop)
        });
        let pool = builder.build().inspect_err(|error| log::warn!("uploads are the driver's: no threads: {error}"));
        Some(Self { pool: pool.ok()?, process: std::process::id() })
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `work` here, and what it spawns on the threads; all of that has ended on return.
    pub fn scope<'a, T: Send>(&self, work: impl FnOnce(&Scope<'a>) -> T) -> T {
        self.pool.in_place_scope(work)
    }
}
