//! What the system says of itself.

/// Bytes of a page.
pub fn page_size() -> usize {
    // SAFETY: asks for a constant, which the C library has at hand.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// The program's `errno`, which our own work must not change.
pub mod errno {
    /// Reads it.
    pub fn save() -> i32 {
        // SAFETY: the thread's own variable.
        unsafe { *libc::__errno_location() }
    }

    /// Puts it back.
    pub fn restore(value: i32) {
        // SAFETY: the thread's own variable.
        unsafe { *libc::__errno_location() = value }
    }
}
