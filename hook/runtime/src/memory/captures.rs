//! Stream captures in progress. While there is one, nothing is moved: moving waits for the device, and a wait
//! during capture fails it.

use greenboost_cuda::Driver;
use greenboost_cuda::abi::{CUstream, STREAM_PER_THREAD};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

static COUNT: AtomicUsize = AtomicUsize::new(0);
static STREAMS: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// The legacy stream cannot capture: a null stream that does is the per-thread one, named so by a `_ptsz` function.
/// Under its own name the driver would be asked about the legacy stream.
fn name(stream: CUstream) -> usize {
    if stream.is_null() { STREAM_PER_THREAD as usize } else { stream as usize }
}

/// A capture has begun on a stream.
pub fn begun(stream: CUstream) {
    let mut streams = STREAMS.lock().unwrap_or_else(PoisonError::into_inner);
    streams.push(name(stream));
    COUNT.store(streams.len(), SeqCst);
}

/// A stream captures no more: ended, failed, or destroyed.
pub fn ended(stream: CUstream) {
    if COUNT.load(SeqCst) == 0 {
        return;
    }
    let mut streams = STREAMS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(at) = streams.iter().position(|known| *known == name(stream)) {
        streams.swap_remove(at);
    }
    COUNT.store(streams.len(), SeqCst);
}

/// Whether a capture may be going on: a cheap look that is never wrong about there being none.
#[inline]
pub fn maybe_any() -> bool {
    COUNT.load(SeqCst) != 0
}

/// Whether a stream is capturing, validly or not, as the driver says to this thread.
pub fn is_capturing(driver: &Driver, stream: CUstream) -> Option<bool> {
    let mut state = 0;
    // SAFETY: the stream is the program's; writes to a live local.
    let asked = unsafe { driver.cuStreamIsCapturing(name(stream) as CUstream, &mut state) };
    asked.is_ok().then_some(state != 0)
}

/// Whether any stream is capturing. Asks the driver about those that should be, because a capture also ends
/// when something invalid happens in it.
pub fn any(driver: &Driver) -> bool {
    if COUNT.load(SeqCst) == 0 {
        return false;
    }
    let mut streams = STREAMS.lock().unwrap_or_else(PoisonError::into_inner);
    streams.retain(|stream| {
        let mut state = 0;
        // SAFETY: the stream exists (its destruction is seen too); writes to a live local.
        let asked = unsafe { driver.cuStreamIsCapturing(*stream as CUstream, &mut state) };
        // The per-thread one is of whoever asks, so it can only be counted.
        *stream == STREAM_PER_THREAD as usize || asked.is_err() || state != 0
    });
    COUNT.store(streams.len(), SeqCst);
    !streams.is_empty()
}
