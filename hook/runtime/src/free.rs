//! Freeing: after what a stream has been given, or after everything; and what waits for room in VRAM meanwhile.

use crate::pending::{Due, Pending};
use crate::runtime::Core;
use greenboost_cuda::abi::{CUevent, CUstream, NOT_READY};
use greenboost_cuda::{Current, RelaxedCapture, event};
use greenboost_memory::allocation::Allocation;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// How long frees that another thread is waiting for are waited for here.
const PATIENCE: Duration = Duration::from_secs(10);

impl Core {
    /// Frees an allocation when `stream` has done everything submitted to it so far. `None` for the stream:
    /// when the whole device has.
    pub fn free_after(&self, allocation: Allocation, stream: Option<CUstream>) {
        self.streaming.forget(allocation.base, allocation.span, stream);
        let recorded = stream.and_then(|stream| event::untimed_after(self.memory.driver, stream).ok());
        let event = recorded.map(|event| event as usize);
        self.pending.lock().push(Pending { allocation, event });
        self.reap(Due::Now);
    }

    /// Releases what is due. Returns the bytes of VRAM that came free.
    pub fn reap(&self, due: Due) -> u64 {
        let memory = self.memory;
        // Before the driver is asked about captures: that needs a driver call for each stream that was seen capturing.
        let idle = self.pending.lock().is_empty() && self.pending.waiting.load(SeqCst) == 0;
        if idle || memory.captures.any(memory.driver) {
            return 0;
        }
        // Taken out under the lock, and waited for without it: another thread's free does not wait for ours.
        let taken = {
            let mut frees = self.pending.lock();
            if frees.is_empty() {
                drop(frees);
                return self.wait_for_others(due);
            }
            self.pending.waiting.fetch_add(1, SeqCst);
            std::mem::take(&mut *frees)
        };
        let _relaxed = RelaxedCapture::enter(memory.driver);
        let (gone, not_yet): (Vec<_>, Vec<_>) = taken.into_iter().partition(|free| self.is_due(free, due));
        self.pending.lock().extend(not_yet);
        let freed = gone.iter().map(|free| free.allocation.in_vram()).sum();
        for free in gone {
            if let Some(event) = free.event {
                // SAFETY: made by `free_after`, used no more.
                let _ = unsafe { memory.driver.cuEventDestroy_v2(event as CUevent) };
            }
            self.release(free.allocation);
        }
        self.pending.waiting.fetch_sub(1, SeqCst);
        freed
    }

    /// Nothing is pending, but others may be about to release something: whoever needs room waits for that, holding nothing.
    /// Returns 1 if they have, so that the budget is looked at again.
    fn wait_for_others(&self, due: Due) -> u64 {
        if due == Due::Now || self.pending.waiting.load(SeqCst) == 0 {
            return 0;
        }
        let began = Instant::now();
        while self.pending.waiting.load(SeqCst) > 0 {
            if began.elapsed() > PATIENCE {
                return 0;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        1
    }

    fn is_due(&self, free: &Pending, due: Due) -> bool {
        let driver = self.memory.driver;
        let Ok(_current) = Current::push(driver, free.allocation.context) else {
            // The context is gone, and all its work with it.
            return true;
        };
        let waits = due.waits_for(free.allocation.device);
        // SAFETY: the event was made by `free_after`; waiting is allowed because nothing is capturing.
        unsafe {
            match free.event {
                Some(event) if waits => driver.cuEventSynchronize(event as CUevent) != Err(NOT_READY),
                Some(event) => driver.cuEventQuery(event as CUevent) != Err(NOT_READY),
                None => driver.cuCtxSynchronize() != Err(NOT_READY),
            }
        }
    }
}
