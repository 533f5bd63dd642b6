//! Stream captures in progress. While there is one, nothing is moved: moving waits for the device, and a wait
//! during capture fails it.

use greenboost_cuda::Driver;
use greenboost_cuda::abi::{CUstream, STREAM_LEGACY, STREAM_PER_THREAD};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

/// The streams that are capturing, as far as was seen.
#[derive(Debug, Default)]
pub struct Captures {
    count: AtomicUsize,
    streams: Mutex<Vec<usize>>,
    /// Captures that are about to begin and are not counted yet.
    beginning: AtomicUsize,
}

/// The legacy stream cannot capture: a null stream that does is the per-thread one, named so by a `_ptsz` function.
/// Under its own name the driver would be asked about the legacy stream.
fn name(stream: CUstream) -> usize {
    if stream.is_null() { STREAM_PER_THREAD as usize } else { stream as usize }
}

/// Whether a stream is capturing, validly or not, as the driver says to this thread.
pub fn is_capturing(driver: &Driver, stream: CUstream) -> Option<bool> {
    let mut state = 0;
    // SAFETY: the stream is the program's; writes to a live local.
    let asked = unsafe { driver.cuStreamIsCapturing(name(stream) as CUstream, &mut state) };
    asked.is_ok().then_some(state != 0)
}

impl Captures {
    /// Whether what is submitted to a stream is captured, or may be. The legacy stream cannot capture, nor be asked while
    /// another stream does.
    pub fn takes(&self, driver: &Driver, stream: CUstream) -> bool {
        self.may_be_any_soon() && stream != STREAM_LEGACY && is_capturing(driver, stream) != Some(false)
    }

    /// None.
    pub const fn new() -> Self {
        Self { count: AtomicUsize::new(0), streams: Mutex::new(Vec::new()), beginning: AtomicUsize::new(0) }
    }

    /// A capture is about to begin; [`Captures::is_decided`] says that it has, or has not.
    pub fn about_to_begin(&self) {
        self.beginning.fetch_add(1, SeqCst);
    }

    /// Whether a capture that was about to begin has done so, and is counted, is known.
    pub fn is_decided(&self) {
        self.beginning.fetch_sub(1, SeqCst);
    }

    /// Whether any capture is going on or about to begin, as far as a cheap look tells: never wrong about there being none.
    #[inline]
    pub fn may_be_any_soon(&self) -> bool {
        self.beginning.load(SeqCst) != 0 || self.maybe_any()
    }

    /// A capture has begun on a stream.
    pub fn begun(&self, stream: CUstream) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.push(name(stream));
        self.count.store(streams.len(), SeqCst);
    }

    /// A stream captures no more: ended, failed, or destroyed.
    pub fn ended(&self, stream: CUstream) {
        if self.count.load(SeqCst) == 0 {
            return;
        }
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = streams.iter().position(|known| *known == name(stream)) {
            streams.swap_remove(at);
        }
        self.count.store(streams.len(), SeqCst);
    }

    /// Whether a capture may be going on: a cheap look that is never wrong about there being none.
    #[inline]
    pub fn maybe_any(&self) -> bool {
        self.count.load(SeqCst) != 0
    }

    /// Whether any stream is capturing. Asks the driver about those that should be, because a capture also ends
    /// when something invalid happens in it.
    pub fn any(&self, driver: &Driver) -> bool {
        if self.count.load(SeqCst) == 0 {
            return false;
        }
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|stream| {
            let mut state = 0;
            // SAFETY: the stream exists (its destruction is seen too); writes to a live local.
            let asked = unsafe { driver.cuStreamIsCapturing(*stream as CUstream, &mut state) };
            // The per-thread one is of whoever asks, so it can only be counted.
            *stream == STREAM_PER_THREAD as usize || asked.is_err() || state != 0
        });
        self.count.store(streams.len(), SeqCst);
        !streams.is_empty()
    }
}
