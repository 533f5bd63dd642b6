//! Freeing: after what a stream has been given, or after everything; and what waits for room in VRAM meanwhile.

use crate::pending::{Due, Pending};
use crate::runtime::Core;
use greenboost_contract::format_size;
use greenboost_contract::settings::GRANULE;
use greenboost_cuda::abi::{CUcontext, CUdevice, CUdeviceptr, CUevent, CUstream, OUT_OF_MEMORY, Status};
use greenboost_cuda::{RelaxedCapture, event};
use greenboost_memory::allocation::Allocation;
use greenboost_memory::device::Device;
use greenboost_memory::streams::StreamOrder;
use greenboost_memory::submitted::Submitted;
use std::time::{Duration, Instant};

/// How long frees are waited for by whom nothing else serves.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The same by whom RAM serves. A stream that is waited for may itself wait for what the program does next.
pub const SHORT_PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at whether a stream has come that far.
const LOOK_AGAIN: Duration = Duration::from_micros(50);

impl Core {
    /// Frees what is at `base`, if it is ours, when a stream has done everything submitted to it so far. Whether it was.
    ///
    /// # Errors
    /// The driver's status, when nothing can be submitted to the stream: nothing is freed.
    pub fn free_in_order(&self, base: u64, stream: CUstream) -> Result<bool, Status> {
        let driver = self.memory.driver;
        let event = match event::untimed_after(driver, stream) {
            Ok(event) => Some(event),
            Err(OUT_OF_MEMORY) => None,
            Err(status) => return Err(status),
        };
        let order = self.memory.order_of(stream).ok();
        let Some(allocation) = self.detach(base) else {
            event.into_iter().for_each(|event| event::destroy(driver, event));
            return Ok(false);
        };
        self.streaming.forget(allocation.base, allocation.span, Some(stream));
        let device = allocation.device;
        // After the copies of it, too, that the stream has just been made to wait for.
        let recorded = event.filter(|event| event::record(driver, *event, stream).is_ok());
        let event = recorded.map(|event| event as usize);
        self.pending.lock().push(Pending { allocation, event, marks: None, order: order.filter(|_| event.is_some()) });
        self.reap(Due::Now(device));
        Ok(true)
    }

    /// Frees an allocation when the whole device has done what it has been given so far. That is waited for, as the driver's
    /// own free does, and with nothing held; while a stream is capturing, it is not.
    pub fn free_after_all(&self, allocation: Allocation) {
        let (base, device) = (allocation.base, allocation.device);
        self.streaming.forget(base, allocation.span, None);
        self.pending.lock().push(Pending { allocation, event: None, marks: None, order: None });
        loop {
            self.reap(Due::Now(device));
            if !self.pending.may_have(device, base) || self.memory.captures.any(self.memory.driver) {
                return;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Releases what is due. Returns the bytes of VRAM that came free. Waits, where something is to be waited for, until some
    /// have, but not for ever; of other devices nothing is waited for, nor released: that may take its time.
    pub fn reap(&self, due: Due) -> u64 {
        match due {
            Due::Now(device) => self.reap_due(device),
            Due::Of(device, patience) => self.reap_waiting(device, due, patience),
            Due::In(_) => self.memory.devices().map(|device| self.reap_waiting(device.ordinal, due, PATIENCE)).sum(),
        }
    }

    fn reap_waiting(&self, device: CUdevice, due: Due, patience: Duration) -> u64 {
        let mut freed = self.reap_due(device);
        let began = Instant::now();
        let waits = |free: &Pending| free.allocation.device == device && due.waits_for(&free.allocation);
        while freed == 0 || matches!(due, Due::In(_)) {
            if !self.pending.lock().iter().any(waits) {
                return if freed == 0 { self.wait_for_others(device, began + patience) } else { freed };
            }
            if began.elapsed() > patience {
                log::warn!(
                    "memory that was freed on a stream is still in use after {patience:?}: it is not waited for"
                );
                return freed;
            }
            std::thread::sleep(LOOK_AGAIN);
            freed += self.reap_due(device);
        }
        freed
    }

    /// Waits, for a short time, until what was freed on streams of a device leaves `bytes` of VRAM.
    pub fn wait_for_room(&self, device: &Device, bytes: u64) {
        let began = Instant::now();
        let is_of = |free: &Pending| free.allocation.device == device.ordinal;
        while device.budget.left() < bytes && began.elapsed() < SHORT_PATIENCE {
            let is_pending = self.pending.lock().iter().any(is_of) || self.pending.is_being_released(device.ordinal);
            if !is_pending {
                return;
            }
            if self.reap_due(device.ordinal) == 0 {
                std::thread::sleep(LOOK_AGAIN);
            }
        }
    }

    /// Gives the program again what it has freed earlier in an order, as it is, where that has the right size. Not where some of
    /// it is in RAM and need not be.
    pub fn reuse_whole(
        &self,
        device: &Device,
        context: CUcontext,
        bytes: u64,
        order: StreamOrder,
    ) -> Option<CUdeviceptr> {
        // The driver has smaller pieces for what is smaller than a granule.
        if bytes < GRANULE {
            return None;
        }
        let span = bytes.checked_next_multiple_of(GRANULE)?;
        let is_as_good = |allocation: &Allocation| {
            let in_ram = allocation.span - allocation.in_vram();
            in_ram == 0 || in_ram > device.budget.left()
        };
        let fits = |allocation: &Allocation| {
            let is_same = allocation.device == device.ordinal && allocation.context == context;
            is_same && allocation.span == span && allocation.is_whole() && is_as_good(allocation)
        };
        let Pending { mut allocation, event, .. } = self.pending.take(order, fits)?;
        event.into_iter().for_each(|event| event::destroy(self.memory.driver, event as CUevent));
        self.forget_tensors(allocation.base, allocation.span);
        let hint = self.hint_of_unknown();
        allocation.chunks.iter_mut().for_each(|chunk| chunk.hint = hint);
        allocation.files = Vec::new();
        (allocation.size, allocation.serial) = (bytes, self.next_serial());
        let base = allocation.base;
        self.memory.table_mut().insert(allocation);
        log::debug!("{} at {base:#x}: what was freed on the same stream", format_size(bytes));
        self.residency_changed();
        Some(base)
    }

    /// Gives an allocation, which has no chunks yet, what comes before it in an order has freed.
    pub fn reuse(&self, device: &Device, allocation: &mut Allocation, order: StreamOrder) {
        let end = allocation.base + allocation.span;
        let hint = self.hint_of_unknown();
        while let Some(chunk) = self.pending.reuse(device.ordinal, order, end - allocation.filled_to()) {
            if let Err(status) = self.memory.adopt(device, allocation, chunk, hint) {
                log::warn!("what a stream freed could not be used again at once: {status}");
                return;
            }
        }
    }

    /// Releases what nothing has to be waited for, of a device.
    fn reap_due(&self, device: CUdevice) -> u64 {
        // Taken out under the lock, and looked at without it: another thread's free does not wait for ours.
        let Some(taken) = self.pending.take_of(device) else { return 0 };
        let _relaxed = RelaxedCapture::enter(self.memory.driver);
        let (mut gone, mut not_yet) = (Vec::new(), Vec::new());
        for mut free in taken {
            if self.is_due(&mut free) { gone.push(free) } else { not_yet.push(free) }
        }
        self.pending.lock().extend(not_yet);
        let freed = gone.iter().map(|free| free.allocation.in_vram()).sum();
        for free in gone {
            if let Some(event) = free.event {
                event::destroy(self.memory.driver, event as CUevent);
            }
            self.release(free.allocation);
        }
        self.pending.are_released(device);
        freed
    }

    /// Nothing is pending, but others may be about to release something: whoever needs room waits for that, holding nothing.
    /// Returns 1 if they have, so that the budget is looked at again.
    fn wait_for_others(&self, device: CUdevice, until: Instant) -> u64 {
        if !self.pending.is_being_released(device) {
            return 0;
        }
        while self.pending.is_being_released(device) {
            if Instant::now() > until {
                return 0;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        1
    }

    /// Whether the last use of what is freed is over.
    fn is_due(&self, free: &mut Pending) -> bool {
        let memory = self.memory;
        if free.allocation.deferred.is_some() {
            // It was never used.
            return true;
        }
        let Some(event) = free.event else {
            return self.is_idle_since(free);
        };
        event::is_done(memory.driver, event as CUevent)
    }

    /// Whether everything is done that a device was given before something was freed, by any context that reaches its memory.
    /// Nothing is waited for, so that no other device's free waits either.
    fn is_idle_since(&self, free: &mut Pending) -> bool {
        let memory = self.memory;
        if free.marks.as_ref().is_some_and(|marks| !marks.is_done() && marks.is_worth_another_look()) {
            free.marks = None;
        }
        if free.marks.is_none() {
            // Work can be marked only while nothing is captured.
            let Ok(device) = memory.device(free.allocation.device) else { return true };
            if memory.captures.any(memory.driver) {
                return false;
            }
            // A context that is broken has no work left.
            free.marks = memory.submitted_to(device).ok();
        }
        free.marks.as_ref().is_none_or(Submitted::is_done)
    }
}
