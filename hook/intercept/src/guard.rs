//! The border between a program's call and our code: on or off, not twice, no panic.

use greenboost_contract::record::BYPASS_NAMES;
use greenboost_cuda::abi::Status;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

/// What a handler answers: a result for the program, or "call the original as if we were not there".
pub type Handled = Result<Status, Bypass>;

/// Why the original is to be called with the program's own arguments. A handler must answer this only before it
/// has called the original itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Bypass {
    /// GreenBoost stands aside in this process.
    NotActive,
    /// The call comes from inside a handler: ours, or the driver calling itself.
    Nested,
    /// The driver is not there, or lacks what we need.
    NoDriver,
    /// No context is current, or its device is not one that we know.
    NoContext,
    /// It is about something that we leave to the driver.
    NotOurs,
    /// It is about memory that is not a spanning allocation.
    NotOurAllocation,
    /// A stream is being captured.
    Capturing,
    /// The driver has the right error for these arguments.
    BadArguments,
    /// Something failed in us; the log says what.
    Internal,
}

impl Bypass {
    /// In words.
    pub fn name(self) -> &'static str {
        BYPASS_NAMES[self as usize]
    }
}

/// The border's state: atomics, which every call reads or counts up, each right by itself.
struct Guard {
    /// Whether handlers run.
    on: AtomicBool,
    /// Calls that went to their originals, by reason, as long as nobody else keeps them.
    counts: [AtomicU64; BYPASS_NAMES.len()],
    /// Panics of ours so far, each counted before its call's original is called and again after.
    failures: AtomicU64,
    /// Where they are counted instead: in the status record, once there is one.
    kept: AtomicPtr<[AtomicU64; BYPASS_NAMES.len()]>,
}

static GUARD: Guard = Guard {
    on: AtomicBool::new(false),
    counts: [const { AtomicU64::new(0) }; BYPASS_NAMES.len()],
    failures: AtomicU64::new(0),
    kept: AtomicPtr::new(std::ptr::null_mut()),
};

fn counts() -> &'static [AtomicU64; BYPASS_NAMES.len()] {
    // SAFETY: null, or what was handed over for ever.
    unsafe { GUARD.kept.load(Ordering::Acquire).as_ref() }.unwrap_or(&GUARD.counts)
}

#[cold]
fn count(reason: Bypass) {
    counts()[reason as usize].fetch_add(1, Ordering::Relaxed);
}

/// Counts in `kept` from now on, and adds what was counted so far.
pub(crate) fn count_in(kept: &'static [AtomicU64; BYPASS_NAMES.len()]) {
    GUARD.kept.store(std::ptr::from_ref(kept).cast_mut(), Ordering::Release);
    for (total, early) in kept.iter().zip(&GUARD.counts) {
        total.fetch_add(early.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// How many calls went to their originals, by reason, in words; empty when none did.
pub fn bypasses() -> String {
    greenboost_contract::record::bypasses(counts())
}

/// What a thread is in the middle of. Its own, so nothing protects it.
pub(crate) struct Thread {
    /// A handler: what it calls goes to the originals.
    handles: Cell<bool>,
    /// A question to the loader.
    pub(crate) answers: Cell<bool>,
    /// A call whose handler has panicked, and whose original is being called.
    has_failed: Cell<bool>,
}

thread_local! {
    pub(crate) static THREAD: Thread =
        const { Thread { handles: Cell::new(false), answers: Cell::new(false), has_failed: Cell::new(false) } };
}

/// Lets handlers run. Before this, and after [`stand_aside`], every call goes to its original.
pub fn activate() {
    GUARD.on.store(true, Ordering::Release);
}

/// From now on every call goes to its original: in a forked child, where CUDA is dead and our locks may be
/// held by a thread that does not exist, or after an internal failure that left our tables unsure.
pub fn stand_aside() {
    GUARD.on.store(false, Ordering::Release);
    // A forked child has its parent's record before it.
    GUARD.kept.store(std::ptr::null_mut(), Ordering::Release);
}

/// Whether handlers run.
#[inline]
pub fn is_active() -> bool {
    GUARD.on.load(Ordering::Acquire)
}

/// Runs a handler, unless this thread is inside one already (the driver calling itself through a symbol we
/// interposed). `None`: the caller is to call the original.
#[inline]
pub fn enter(handler: impl FnOnce() -> Handled) -> Option<Status> {
    if !is_active() {
        count(Bypass::NotActive);
        return None;
    }
    if THREAD.with(|thread| thread.handles.replace(true)) {
        // The mark is the outer call's, which takes it away.
        count(Bypass::Nested);
        return None;
    }
    let answer = catch_unwind(AssertUnwindSafe(handler));
    THREAD.with(|thread| thread.handles.set(false));
    match answer {
        Ok(Ok(status)) => return Some(status),
        Ok(Err(reason)) => count(reason),
        Err(_) => {
            GUARD.failures.fetch_add(1, Ordering::AcqRel);
            THREAD.with(|thread| thread.has_failed.set(true));
            log::error!("internal failure in a handler; the program's call goes to the driver as it is");
            count(Bypass::Internal);
        }
    }
    None
}

/// The original of a call that no handler has answered has been called.
#[inline]
pub fn called_original() {
    THREAD.with(|thread| {
        if thread.has_failed.replace(false) {
            GUARD.failures.fetch_add(1, Ordering::AcqRel);
        }
    });
}

/// A number that changes with every panic of ours, before its call's original is called and once more after. A call that
/// changed something may have gone unnoticed then: what was derived from the program's memory before is not to be trusted.
#[inline]
pub fn failures() -> u64 {
    GUARD.failures.load(Ordering::Acquire)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_calls_panics_and_bypasses_end_in_the_original_and_are_counted() {
        activate();
        let (some, other) = (Status(7), Status(9));
        assert_eq!(enter(|| Ok(some)), Some(some));
        assert_eq!(enter(|| Err(Bypass::NotOurs)), None);
        assert_eq!(enter(|| Ok(enter(|| Ok(some)).unwrap_or(other))), Some(other));
        let quiet = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let trusted = failures();
        assert_eq!(enter(|| panic!("planted")), None);
        let during = failures();
        called_original();
        called_original();
        assert!(during != trusted && failures() == during + 1, "what is seen during the call is not trusted after it");
        std::panic::set_hook(quiet);
        assert_eq!(enter(|| Ok(some)), Some(some), "a panic must not leave the thread marked");
        assert_eq!(bypasses(), "inside another call 1, left to the driver 1, internal failure 1");
        static KEPT: [AtomicU64; BYPASS_NAMES.len()] = [const { AtomicU64::new(0) }; BYPASS_NAMES.len()];
        count_in(&KEPT);
        assert_eq!(enter(|| Err(Bypass::Capturing)), None);
        assert_eq!(bypasses(), "inside another call 1, left to the driver 1, during a capture 1, internal failure 1");
        assert_eq!(KEPT[Bypass::Internal as usize].load(Ordering::Relaxed), 1);
        stand_aside();
        assert_eq!(enter(|| Ok(some)), None);
        assert_eq!(bypasses(), "not active 1", "what a child does is not its parent's");
        assert_eq!(KEPT[Bypass::NotActive as usize].load(Ordering::Relaxed), 0);
        assert_eq!(Bypass::Internal as usize + 1, BYPASS_NAMES.len());
    }
}
