//! The end of the program: few programs end their context, so that what streaming did is reported, and its trace
//! closed, when they leave `main`, and no thread of ours is inside the driver when that ends. Registered after the driver has been used, this runs before the driver's own end.

use crate::runtime::{RUNTIME, core};
use greenboost_cuda::abi::SUCCESS;
use greenboost_intercept::guard;

/// Has streaming reported at the program's end, and what runs ahead waited for.
pub fn watch() {
    // SAFETY: the function stays where it is: this library is never unloaded.
    RUNTIME.awaits_exit.call_once(|| unsafe {
        libc::atexit(over);
    });
}

extern "C" fn over() {
    // Nothing in a forked child, whose CUDA is dead.
    let _ = guard::enter(|| {
        RUNTIME.ahead.settle();
        core()?.streaming.program_ends();
        Ok(SUCCESS)
    });
}
