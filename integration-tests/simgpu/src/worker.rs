//! The threads that do the work of streams.

/// Starts a thread; a worker must not run the program's signal handlers.
pub fn spawn(run: impl FnOnce() + Send + 'static) -> bool {
    // SAFETY: the masks are initialised by sigfillset and by the call that saves the old one.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let builder = std::thread::Builder::new().name("simgpu-stream".to_string()).stack_size(1 << 20);
        let spawned = builder.spawn(|| {
            // Modelled time is slept to: without slack, to some microseconds.
            libc::prctl(libc::PR_SET_TIMERSLACK, 1usize);
            run();
        });
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        spawned.is_ok()
    }
}
