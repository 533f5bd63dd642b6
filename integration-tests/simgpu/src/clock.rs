//! Modelled time: when an operation is over on a GPU of the set speeds.
//!
//! Every operation has a clock. It starts when the operation could begin: when it was submitted, when what it depends
//! on ended by *its* clock, and when the engine it needs was free. Work moves the clock on, and the thread that does
//! the work sleeps up to it. So a delay of the machine does not pass on to the next operation, and errors do
//! not add up.

use crate::env::options;
use std::cell::Cell;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How far the clock may run ahead of the bytes: a copy and a kernel that share the link meet there piece by piece.
const AHEAD: Duration = Duration::from_millis(1);

/// The time of an operation.
pub struct Clock {
    now: Cell<Instant>,
}

impl Clock {
    /// A clock that begins then.
    pub fn start(at: Instant) -> Clock {
        Clock { now: Cell::new(at) }
    }

    /// What it shows.
    pub fn now(&self) -> Instant {
        self.now.get()
    }

    /// Moves it on to a time, never back.
    pub fn not_before(&self, at: Instant) {
        self.now.set(self.now.get().max(at));
    }

    /// Moves it on, as far as the thread may run ahead.
    pub fn take(&self, time: Duration) {
        self.now.set(self.now.get() + time);
        self.keep_pace();
    }

    /// Sleeps if the bytes are too far ahead of the clock.
    pub fn keep_pace(&self) {
        if self.now.get().saturating_duration_since(Instant::now()) > AHEAD {
            self.settle();
        }
    }

    /// Sleeps up to the time it shows.
    pub fn settle(&self) {
        let left = self.now.get().saturating_duration_since(Instant::now());
        if left > Duration::ZERO {
            std::thread::sleep(left);
        }
    }

    /// Takes over what the world's clock shows, after work whose time is real.
    pub fn catch_up(&self) {
        self.not_before(Instant::now());
    }
}

/// The time that some bytes take at this many GB/s; none without a rate.
pub fn seconds(bytes: u64, gbps: Option<f64>) -> Duration {
    gbps.map_or(Duration::ZERO, |gbps| Duration::from_secs_f64(bytes as f64 / (gbps * 1e9)))
}

/// Whether operations take modelled time.
pub fn modelled() -> bool {
    options().link_gbps.is_some() || options().vram_gbps.is_some()
}

/// The multiprocessors: kernels that access memory run one after the other.
#[derive(Default)]
pub struct Compute {
    free_at: Mutex<Option<Instant>>,
}

/// They belong to a kernel.
pub struct Busy<'a>(MutexGuard<'a, Option<Instant>>);

impl Compute {
    /// Waits for them, and moves the kernel's clock on to when they were free.
    pub fn begin(&self, clock: &Clock) -> Busy<'_> {
        let free_at = self.free_at.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(at) = *free_at {
            clock.not_before(at);
        }
        Busy(free_at)
    }
}

impl Busy<'_> {
    /// Gives them up at the kernel's time.
    pub fn end(mut self, clock: &Clock) {
        clock.settle();
        *self.0 = Some(clock.now());
    }
}
