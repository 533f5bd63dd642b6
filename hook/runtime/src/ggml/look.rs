//! Looking at a call of ggml's without ever disturbing the program, and what this thread is in the middle of.

use greenboost_intercept::guard;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static ALLOCATING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside ggml's allocation of a tensor, whose padding it clears.
pub fn is_allocating_tensor() -> bool {
    ALLOCATING.get()
}

/// Makes ggml's own call of that allocation.
pub fn allocating<T>(call: impl FnOnce() -> T) -> T {
    let before = ALLOCATING.replace(true);
    let result = call();
    ALLOCATING.set(before);
    result
}

/// Looks without ever disturbing the program.
pub fn look(work: impl FnOnce()) {
    if guard::is_active() {
        // A panic has been logged by the hook of `activate`; the program goes on either way.
        let _ = catch_unwind(AssertUnwindSafe(work));
    }
}
