//! What is so for the whole process, whatever it runs.

/// Starts threads with what they are to inherit: the program's signals are for the program's threads.
pub fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    // SAFETY: signal sets are plain data, for which zeroes are a value, and the mask is this thread's own.
    unsafe {
        let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let started = start();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        started
    }
}
