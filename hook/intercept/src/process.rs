//! What is so for the whole process, whatever it runs.

use std::ffi::c_int;

/// Signals that a thread raises by what it does itself. Where they are blocked the kernel ends the process at once; else the
/// program's handler is called, as it is when the driver reads the same bytes.
const OF_FAULTS: [c_int; 6] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];

/// Starts threads with what they are to inherit: the program's signals are for the program's threads, all but those that
/// stand for a fault of the thread itself.
pub fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    // SAFETY: signal sets are plain data, for which zeroes are a value, and the mask is this thread's own.
    unsafe {
        let (mut others, mut before) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&mut others);
        for signal in OF_FAULTS {
            libc::sigdelset(&mut others, signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &others, &mut before);
        let started = start();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        started
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether signals are blocked on this thread.
    fn blocked<const N: usize>(signals: [c_int; N]) -> [bool; N] {
        // SAFETY: asks for this thread's mask.
        unsafe {
            let mut mask = std::mem::zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut mask);
            signals.map(|signal| libc::sigismember(&mask, signal) == 1)
        }
    }

    #[test]
    fn threads_take_no_signals_but_those_of_their_own_faults() {
        const OTHERS: [c_int; 4] = [libc::SIGUSR1, libc::SIGINT, libc::SIGCHLD, libc::SIGALRM];
        let before = blocked(OTHERS);
        let started = without_signals(|| std::thread::spawn(|| (blocked(OTHERS), blocked(OF_FAULTS))));
        assert_eq!(started.join().expect("it looks"), ([true; 4], [false; 6]));
        assert_eq!(blocked(OTHERS), before, "the program's own thread is as it was");
    }
}
