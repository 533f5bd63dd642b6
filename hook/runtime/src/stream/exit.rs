//! The end of the program: few programs end their context, so that what streaming did is reported, and its trace
//! closed, when they leave `main`. Registered after the driver has been used, this runs before the driver's own end.

use super::engine;
use crate::memory;
use greenboost_cuda::Current;
use greenboost_cuda::abi::SUCCESS;
use greenboost_intercept::guard;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static IS_OVER: AtomicBool = AtomicBool::new(false);

/// Has engines reported at the program's end.
pub fn watch() {
    static ONCE: Once = Once::new();
    // SAFETY: the function stays where it is: this library is never unloaded.
    ONCE.call_once(|| unsafe {
        libc::atexit(over);
    });
}

/// Whether the program has ended, and everything was reported.
pub fn is_over() -> bool {
    IS_OVER.load(Relaxed)
}

extern "C" fn over() {
    // Nothing in a forked child, whose CUDA is dead.
    let _ = guard::enter(|| {
        let memory = memory::get()?;
        IS_OVER.store(true, Relaxed);
        engine::each_now(|device, engine| {
            let Ok(device) = memory.device(device) else { return };
            let measured = engine.trace().take().and_then(|trace| {
                // Nothing is waited for: what has not been done is not in the trace.
                let current = Current::push(memory.driver, engine.context());
                trace.finish(current.is_ok().then_some(memory.driver), device.record)
            });
            super::report(device, measured.as_deref());
        });
        Ok(SUCCESS)
    });
}
