//! Kernels that no rule names: one launch of each is timed in place, and compared with how long a copy of what it was
//! given takes.
//!
//! In place, a kernel moves what it touches while everything behind it waits; a copy moves the whole tensor, but hides
//! behind other kernels. So a kernel that touches a small part is quicker in place, and one that reads everything, or reads
//! it several times, is not. Until that is known, launches have copies: those are never far from right.

use greenboost_cuda::Driver;
use greenboost_cuda::abi::{CUevent, CUstream};
use greenboost_cuda::event as events;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// In place has to be quicker than this share of the copy's time.
const WORTH_IT: f64 = 0.8;

/// What is known of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// A launch of it is being timed.
    Waiting,
    /// It reads in place, or not.
    InPlace(bool),
}

/// Something submitted between two events.
#[derive(Debug)]
struct Timed {
    from: CUevent,
    to: CUevent,
    bytes: u64,
}

// SAFETY: an event's handle is a name that any thread may use.
unsafe impl Send for Timed {}

#[derive(Debug, Default)]
struct Choices {
    kernels: HashMap<Arc<str>, Known>,
    open: Vec<(Arc<str>, Timed)>,
    copy: Option<Timed>,
    /// Bytes a millisecond of a copy into a slot.
    rate: Option<f64>,
}

/// Whether a copy is to be timed: a cheap look.
static WANTS_COPY: AtomicBool = AtomicBool::new(false);
static CHOICES: LazyLock<Mutex<Choices>> = LazyLock::new(Mutex::default);

fn choices() -> MutexGuard<'static, Choices> {
    CHOICES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a launch of a kernel is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Have a copy.
    Slot,
    /// Read in place.
    InPlace,
    /// Read in place between [`begins`] and [`ends`].
    Time,
}

/// What a launch of `kernel` outside of captures is to do; `decided` remembers it once that is settled. A kernel without a
/// name has its copies.
pub fn advice(driver: &Driver, kernel: &Arc<str>, decided: &Cell<Option<Advice>>) -> Advice {
    if let Some(advice) = decided.get() {
        return advice;
    }
    if kernel.is_empty() {
        return Advice::Slot;
    }
    let mut choices = choices();
    choices.look(driver);
    match choices.kernels.get(kernel) {
        Some(Known::InPlace(in_place)) => {
            let advice = if *in_place { Advice::InPlace } else { Advice::Slot };
            decided.set(Some(advice));
            advice
        }
        Some(Known::Waiting) => Advice::Slot,
        None => {
            choices.kernels.insert(kernel.clone(), Known::Waiting);
            Advice::Time
        }
    }
}

/// What is being timed: its begin, and how many bytes it was given.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    from: CUevent,
    bytes: u64,
}

/// What was given tensors of so many bytes is about to be submitted. `None`: it cannot be timed.
pub fn begins(driver: &Driver, stream: CUstream, bytes: u64) -> Option<Timing> {
    Some(Timing { from: events::timed_behind(driver, stream).ok()?, bytes })
}

impl Timing {
    /// It has been submitted.
    fn end(self, driver: &Driver, stream: CUstream) -> Option<Timed> {
        Some(Timed { from: self.from, to: events::timed_behind(driver, stream).ok()?, bytes: self.bytes })
    }
}

/// The launch of `kernel` that was to be timed has been issued.
pub fn ends(driver: &Driver, kernel: &Arc<str>, stream: CUstream, timing: Option<Timing>) {
    let timed = timing.and_then(|timing| timing.end(driver, stream));
    let mut choices = choices();
    match timed {
        Some(timed) => {
            choices.open.push((kernel.clone(), timed));
            WANTS_COPY.store(choices.rate.is_none() && choices.copy.is_none(), Relaxed);
        }
        // What cannot be measured has copies.
        None => {
            choices.kernels.insert(kernel.clone(), Known::InPlace(false));
        }
    }
}

/// This launch of `kernel` cannot be timed after all, and another may be.
pub fn give_up(kernel: &Arc<str>) {
    choices().kernels.remove(kernel);
}

/// The first copy into a slot is timed, too: what is about to be submitted to `stream` is one.
pub fn copy_begins(driver: &Driver, stream: CUstream, bytes: u64) -> Option<Timing> {
    let is_wanted = WANTS_COPY.load(Relaxed) && WANTS_COPY.swap(false, Relaxed);
    if is_wanted { begins(driver, stream, bytes) } else { None }
}

/// And has been.
pub fn copy_ends(driver: &Driver, stream: CUstream, timing: Timing) {
    if let Some(timed) = timing.end(driver, stream) {
        choices().copy = Some(timed);
    }
}

/// A context is gone, and its events with it: what was being timed has copies.
pub fn forget() {
    let mut choices = choices();
    choices.copy = None;
    let open = std::mem::take(&mut choices.open);
    choices.kernels.extend(open.into_iter().map(|(kernel, _)| (kernel, Known::InPlace(false))));
}

impl Choices {
    /// Looks at what has been done meanwhile.
    fn look(&mut self, driver: &Driver) {
        if let Some(copy) = self.copy.take_if(|copy| copy.is_done(driver)) {
            self.rate = copy.milliseconds(driver).map(|milliseconds| copy.bytes as f64 / milliseconds.max(1e-3));
            copy.destroy(driver);
        }
        let Some(rate) = self.rate else { return };
        for (kernel, timed) in self.open.extract_if(.., |(_, timed)| timed.is_done(driver)) {
            let (milliseconds, copy) = (timed.milliseconds(driver), timed.bytes as f64 / rate);
            let in_place = milliseconds.is_some_and(|milliseconds| is_worth_it(milliseconds, copy));
            log::info!(
                "{kernel}: {} ms in place, {copy:.3} ms to copy: {}",
                milliseconds.map_or_else(|| "?".to_owned(), |milliseconds| format!("{milliseconds:.3}")),
                if in_place { "read in place" } else { "streamed" }
            );
            self.kernels.insert(kernel, Known::InPlace(in_place));
            timed.destroy(driver);
        }
    }
}

fn is_worth_it(in_place: f64, copy: f64) -> bool {
    in_place < copy * WORTH_IT
}

impl Timed {
    /// Whether there is nothing to wait for.
    fn is_done(&self, driver: &Driver) -> bool {
        events::milliseconds(driver, self.from, self.to) != Ok(None)
    }

    /// How long it took, if it is done and the driver tells.
    fn milliseconds(&self, driver: &Driver) -> Option<f64> {
        events::milliseconds(driver, self.from, self.to).ok().flatten()
    }

    /// Gives its events back.
    fn destroy(&self, driver: &Driver) {
        [self.from, self.to].into_iter().for_each(|event| {
            // SAFETY: ours, and used no more.
            let _ = unsafe { driver.cuEventDestroy_v2(event) };
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_touches_a_part_is_quicker_in_place_and_one_that_reads_all_is_not() {
        // A tensor that takes 10 ms to copy; in place the link gives less.
        assert!(is_worth_it(10.0 * 0.1 * 1.25, 10.0));
        assert!(!is_worth_it(10.0 * 1.25, 10.0));
        assert!(!is_worth_it(10.0 * 8.0, 10.0), "a product with a large batch reads it again and again");
    }
}
