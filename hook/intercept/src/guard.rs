//! The border between a program's call and our code: on or off, not twice, no panic.

use greenboost_cuda::abi::Status;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

/// What a handler answers: a result for the program, or "call the original as if we were not there".
pub type Handled = Result<Status, Bypass>;

/// The original is to be called with the program's own arguments. A handler must answer this only before it
/// has called the original itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bypass;

/// Whether handlers run. An atomic that every call reads.
static ON: AtomicBool = AtomicBool::new(false);

/// What a thread is in the middle of. Its own, so nothing protects it.
pub(crate) struct Thread {
    /// A handler: what it calls goes to the originals.
    handles: Cell<bool>,
    /// A question to the loader.
    pub(crate) answers: Cell<bool>,
}

thread_local! {
    pub(crate) static THREAD: Thread = const { Thread { handles: Cell::new(false), answers: Cell::new(false) } };
}

/// Lets handlers run. Before this, and after [`stand_aside`], every call goes to its original.
pub fn activate() {
    ON.store(true, Ordering::Release);
}

/// From now on every call goes to its original: in a forked child, where CUDA is dead and our locks may be
/// held by a thread that does not exist, or after an internal failure that left our tables unsure.
pub fn stand_aside() {
    ON.store(false, Ordering::Release);
}

/// Whether handlers run.
#[inline]
pub fn is_active() -> bool {
    ON.load(Ordering::Acquire)
}

/// Runs a handler, unless this thread is inside one already (the driver calling itself through a symbol we
/// interposed). `None`: the caller is to call the original.
#[inline]
pub fn enter(handler: impl FnOnce() -> Handled) -> Option<Status> {
    if !is_active() || THREAD.with(|thread| thread.handles.replace(true)) {
        // A nested call must not clear the mark of the outer one, and an inactive one never reads it.
        return None;
    }
    let answer = catch_unwind(AssertUnwindSafe(handler));
    THREAD.with(|thread| thread.handles.set(false));
    match answer {
        Ok(Ok(status)) => Some(status),
        Ok(Err(Bypass)) => None,
        Err(_) => {
            log::error!("internal failure in a handler; the program's call goes to the driver as it is");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_calls_panics_and_bypasses_end_in_the_original() {
        activate();
        let (some, other) = (Status(7), Status(9));
        assert_eq!(enter(|| Ok(some)), Some(some));
        assert_eq!(enter(|| Err(Bypass)), None);
        assert_eq!(enter(|| Ok(enter(|| Ok(some)).unwrap_or(other))), Some(other));
        let quiet = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        assert_eq!(enter(|| panic!("planted")), None);
        std::panic::set_hook(quiet);
        assert_eq!(enter(|| Ok(some)), Some(some), "a panic must not leave the thread marked");
    }
}
