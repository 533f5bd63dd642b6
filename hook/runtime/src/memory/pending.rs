//! Frees that are ordered by a stream: the memory goes when the stream has come that far.

use super::Memory;
use super::allocations::Allocation;
use super::captures;
use crate::stream as streaming;
use greenboost_cuda::abi::{CUevent, CUstream, NOT_READY};
use greenboost_cuda::{Current, RelaxedCapture};
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

/// `CU_EVENT_DISABLE_TIMING`.
const NO_TIMING: u32 = 2;

struct Pending {
    allocation: Allocation,
    /// Behind the last use; none when that could not be recorded, and the whole device must be waited for.
    event: Option<usize>,
}

/// All of them.
#[derive(Default)]
pub struct PendingFrees(Mutex<Vec<Pending>>);

impl Memory {
    /// Frees an allocation when `stream` has done everything submitted to it so far. `None` for the stream:
    /// when the whole device has.
    pub fn free_behind(&self, allocation: Allocation, stream: Option<CUstream>) {
        streaming::forget(self, allocation.base, allocation.span, stream);
        let mut event: CUevent = null_mut();
        let recorded = stream.is_some_and(|stream| {
            // SAFETY: the event is ours; the stream is the one the program freed on.
            unsafe {
                self.driver.cuEventCreate(&mut event, NO_TIMING).is_ok()
                    && self.driver.cuEventRecord(event, stream).is_ok()
            }
        });
        let event = recorded.then_some(event as usize);
        self.pending.0.lock().unwrap_or_else(PoisonError::into_inner).push(Pending { allocation, event });
        self.reap(false);
    }

    /// Releases what is due. With `wait`, waits until everything is. Returns the bytes of VRAM that came free.
    pub fn reap(&self, wait: bool) -> u64 {
        let mut pending = self.pending.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.is_empty() || captures::any(self.driver) {
            return 0;
        }
        let _relaxed = RelaxedCapture::enter(self.driver);
        let (due, not_yet): (Vec<_>, Vec<_>) = pending.drain(..).partition(|free| self.is_due(free, wait));
        *pending = not_yet;
        drop(pending);
        let freed = due.iter().map(|free| free.allocation.in_vram()).sum();
        for free in due {
            if let Some(event) = free.event {
                // SAFETY: made by `free_behind`, used no more.
                let _ = unsafe { self.driver.cuEventDestroy_v2(event as CUevent) };
            }
            self.release(free.allocation);
        }
        freed
    }

    fn is_due(&self, free: &Pending, wait: bool) -> bool {
        let Ok(_current) = Current::push(self.driver, free.allocation.context) else {
            // The context is gone, and all its work with it.
            return true;
        };
        // SAFETY: the event was made by `free_behind`; waiting is allowed because nothing is capturing.
        unsafe {
            match free.event {
                Some(event) if wait => self.driver.cuEventSynchronize(event as CUevent) != Err(NOT_READY),
                Some(event) => self.driver.cuEventQuery(event as CUevent) != Err(NOT_READY),
                None => self.driver.cuCtxSynchronize() != Err(NOT_READY),
            }
        }
    }
}
