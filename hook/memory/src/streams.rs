//! What a stream says of where work is, and of its order: it is asked of the stream that was passed, not of the context that
//! happens to be current.

// Streams are names of the driver's; their types are pointers that nobody here follows.
#![allow(clippy::not_unsafe_ptr_arg_deref)]

use crate::Memory;
use crate::device::Device;
use greenboost_cuda::Current;
use greenboost_cuda::abi::{CUcontext, CUdevice, CUstream, has_name};
use greenboost_intercept::guard::Bypass;

/// The order of a stream: what is submitted in it comes after all that was submitted in it before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOrder {
    stream: usize,
    /// The context and the thread that make up the name of a stream which has none of its own.
    of: Option<(usize, i32)>,
}

impl StreamOrder {
    fn new(stream: CUstream, context: CUcontext) -> Self {
        // SAFETY: it has no preconditions.
        let of = (!has_name(stream)).then(|| (context as usize, unsafe { libc::gettid() }));
        Self { stream: stream as usize, of }
    }

    /// Whether it is the order of a stream with a name.
    pub fn is_of(&self, stream: CUstream) -> bool {
        self.of.is_none() && self.stream == stream as usize
    }
}

impl Memory {
    /// The context of a stream: its own, or the current one where it has no name.
    ///
    /// # Errors
    /// [`Bypass`] when there is none: the driver has the right error for it.
    pub fn context_of(&self, stream: CUstream) -> Result<CUcontext, Bypass> {
        match self.driver.context_of(stream) {
            Ok(Some(context)) => Ok(context),
            Ok(None) => self.current_context(),
            Err(_) => Err(Bypass::BadArguments),
        }
    }

    /// The order of a stream.
    ///
    /// # Errors
    /// As of [`Memory::context_of`].
    pub fn order_of(&self, stream: CUstream) -> Result<StreamOrder, Bypass> {
        Ok(StreamOrder::new(stream, if has_name(stream) { std::ptr::null_mut() } else { self.current_context()? }))
    }

    /// The device of a context.
    ///
    /// # Errors
    /// [`Bypass`] when it is not usable.
    pub fn device_of(&self, context: CUcontext) -> Result<&Device, Bypass> {
        let _current = Current::enter(self.driver, context).map_err(|_| Bypass::NoContext)?;
        self.current_device()
    }

    /// A context of a device: the current one if it is, else one that memory was made in, else the primary one.
    pub fn any_context_of(&self, device: CUdevice) -> Option<CUcontext> {
        let is_current = || self.current_device().is_ok_and(|current| current.ordinal == device);
        if let Ok(current) = self.current_context()
            && is_current()
        {
            return Some(current);
        }
        let made_in =
            self.devices().find(|known| known.ordinal == device).and_then(|it| it.contexts().first().copied());
        made_in.or_else(|| self.driver.primary_context(device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use greenboost_cuda::abi::{STREAM_LEGACY, STREAM_PER_THREAD};

    #[test]
    fn streams_without_a_name_have_one_order_for_each_context_and_thread() {
        let context = |number: usize| number as CUcontext;
        let order = StreamOrder::new;
        assert_eq!(order(STREAM_LEGACY, context(8)), order(STREAM_LEGACY, context(8)));
        assert_ne!(order(STREAM_LEGACY, context(8)), order(STREAM_LEGACY, context(16)));
        assert_ne!(order(STREAM_LEGACY, context(8)), order(STREAM_PER_THREAD, context(8)));
        let mine = order(STREAM_PER_THREAD, context(8));
        std::thread::scope(|scope| {
            scope.spawn(|| assert_ne!(order(STREAM_PER_THREAD, context(8)), mine));
        });
        let named = 4096 as CUstream;
        assert_eq!(order(named, context(8)), order(named, context(16)));
        assert!(order(named, context(8)).is_of(named) && !mine.is_of(STREAM_PER_THREAD));
    }
}
