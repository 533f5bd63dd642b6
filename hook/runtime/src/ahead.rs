//! Work of ours that a thread does ahead of the call that needs it, once in a process.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most that somebody waits for its end. Longer than a probe takes; whoever waits within the loader, whose lock the
/// driver may want for the probe's kernel, goes on after it.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct Ahead {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// In the process of this number: a forked one has no such thread.
    Running(u32),
    Over,
}

impl Ahead {
    /// Not begun.
    pub const fn new() -> Self {
        Self { state: Mutex::new(State::Open), ended: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is the caller who does it.
    pub fn begin(&self) -> bool {
        let mut state = self.state();
        let is_first = *state == State::Open;
        if is_first {
            *state = State::Running(std::process::id());
        }
        is_first
    }

    /// It is done, or will never be.
    pub fn end(&self) {
        *self.state() = State::Over;
        self.ended.notify_all();
    }

    /// Waits for it where it is being done, for [`PATIENCE`] at the most.
    pub fn settle(&self) {
        let here = State::Running(std::process::id());
        let state = self.state();
        if *state == here {
            drop(self.ended.wait_timeout_while(state, PATIENCE, |state| *state == here));
        }
    }
}
