//! What a thread has set for its calls: the current context, and how they behave beside a stream capture.

use crate::abi::{CUcontext, Status};
use crate::driver::Driver;
use std::ffi::c_uint;

/// While it lives, calls of this thread do not disturb a stream capture going on elsewhere in the process.
pub struct RelaxedCapture<'a> {
    driver: &'a Driver,
    before: c_uint,
}

impl<'a> RelaxedCapture<'a> {
    /// Switches this thread to `CU_STREAM_CAPTURE_MODE_RELAXED`.
    pub fn enter(driver: &'a Driver) -> Self {
        let mut mode = 2;
        // SAFETY: exchanges a thread-local mode; the pointer is to a live local.
        let _ = unsafe { driver.cuThreadExchangeStreamCaptureMode(&mut mode) };
        Self { driver, before: mode }
    }
}

impl Drop for RelaxedCapture<'_> {
    fn drop(&mut self) {
        // SAFETY: as in `enter`.
        let _ = unsafe { self.driver.cuThreadExchangeStreamCaptureMode(&mut self.before) };
    }
}

/// Makes a context current for a while.
pub struct Current<'a>(&'a Driver);

impl<'a> Current<'a> {
    /// Pushes `context`.
    ///
    /// # Errors
    /// The driver's status when the context is not usable any more.
    pub fn push(driver: &'a Driver, context: CUcontext) -> Result<Self, Status> {
        // SAFETY: an unusable context is answered with an error.
        unsafe { driver.cuCtxPushCurrent_v2(context) }.map(|()| Self(driver))
    }

    /// Pushes `context`, unless it is current anyhow.
    ///
    /// # Errors
    /// As of [`Current::push`].
    pub fn enter(driver: &'a Driver, context: CUcontext) -> Result<Option<Self>, Status> {
        let mut current = std::ptr::null_mut();
        // SAFETY: writes one pointer to a live local.
        unsafe { driver.cuCtxGetCurrent(&mut current) }?;
        if current == context { Ok(None) } else { Self::push(driver, context).map(Some) }
    }
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        let mut popped = std::ptr::null_mut();
        // SAFETY: pops what `push` pushed.
        let _ = unsafe { self.0.cuCtxPopCurrent_v2(&mut popped) };
    }
}
