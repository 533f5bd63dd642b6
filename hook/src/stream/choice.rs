//! Kernels that no rule names: one launch of each is timed in place, and compared with how long a copy of what it was
//! given takes.
//!
//! In place, a kernel moves what it touches while everything behind it waits; a copy moves the whole tensor, but hides
//! behind other kernels. So a kernel that touches a small part is quicker in place, and one that reads everything, or reads
//! it several times, is not. Until that is known, launches have copies: those are never far from right.

use super::events;
use crate::abi::{CUevent, CUstream, NOT_READY, Status};
use crate::driver::Driver;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// `CU_EVENT_DEFAULT`: with a time.
const TIMING: u32 = 0;
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
    /// Read in place between [`begins`] and [`Timing::end`].
    Time,
}

/// What a launch of `kernel` outside of captures is to do. One without a name has its copies.
pub fn advice(driver: &Driver, kernel: &Arc<str>) -> Advice {
    let mut choices = choices();
    if kernel.is_empty() {
        return Advice::Slot;
    }
    choices.look(driver);
    match choices.kernels.get(kernel) {
        Some(Known::InPlace(true)) => Advice::InPlace,
        Some(_) => Advice::Slot,
        None => {
            choices.kernels.insert(kernel.clone(), Known::Waiting);
            Advice::Time
        }
    }
}

/// A launch that is being timed.
#[derive(Debug)]
pub struct Timing {
    kernel: Arc<str>,
    timed: Option<Timed>,
}

/// A launch of `kernel`, which was given tensors of so many bytes, is about to be issued.
pub fn begins(driver: &Driver, kernel: &Arc<str>, stream: CUstream, bytes: u64) -> Timing {
    Timing { kernel: kernel.clone(), timed: start(driver, stream, bytes).ok() }
}

impl Timing {
    /// It has been issued.
    pub fn end(self, driver: &Driver, stream: CUstream) {
        let timed = self.timed.filter(|timed| events::record(driver, timed.to, stream).is_ok());
        let mut choices = choices();
        match timed {
            Some(timed) => {
                choices.open.push((self.kernel, timed));
                WANTS_COPY.store(choices.rate.is_none() && choices.copy.is_none(), Relaxed);
            }
            // What cannot be measured has copies.
            None => {
                choices.kernels.insert(self.kernel, Known::InPlace(false));
            }
        }
    }
}

impl Timing {
    /// It cannot be timed after all, and another launch may be.
    pub fn give_up(self) {
        choices().kernels.remove(&self.kernel);
    }
}

/// The first copy into a slot is timed, too: what is about to be submitted to `stream` is one.
pub fn copy_begins(driver: &Driver, stream: CUstream, bytes: u64) -> Option<Timing> {
    if !WANTS_COPY.load(Relaxed) || !WANTS_COPY.swap(false, Relaxed) {
        return None;
    }
    let timed = start(driver, stream, bytes).ok()?;
    Some(Timing { kernel: Arc::default(), timed: Some(timed) })
}

/// And has been.
pub fn copy_ends(driver: &Driver, stream: CUstream, timing: Timing) {
    if let Some(timed) = timing.timed.filter(|timed| events::record(driver, timed.to, stream).is_ok()) {
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

fn start(driver: &Driver, stream: CUstream, bytes: u64) -> Result<Timed, Status> {
    let (mut from, mut to) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: each call writes one handle to a live local.
    unsafe {
        driver.cuEventCreate(&mut from, TIMING)?;
        driver.cuEventCreate(&mut to, TIMING)?;
    }
    events::record(driver, from, stream)?;
    Ok(Timed { from, to, bytes })
}

impl Choices {
    /// Looks at what has been done meanwhile.
    fn look(&mut self, driver: &Driver) {
        let copied = self.copy.as_ref().and_then(|copy| Some((copy.milliseconds(driver)?, copy.bytes)));
        if let Some((milliseconds, bytes)) = copied {
            self.rate = milliseconds.map(|milliseconds| bytes as f64 / milliseconds.max(1e-3));
            self.copy.take().into_iter().for_each(|copy| copy.destroy(driver));
        }
        let Some(rate) = self.rate else { return };
        let Self { kernels, open, .. } = self;
        open.retain(|(kernel, timed)| {
            let Some(milliseconds) = timed.milliseconds(driver) else { return true };
            let copy = timed.bytes as f64 / rate;
            let in_place = milliseconds.is_some_and(|milliseconds| is_worth_it(milliseconds, copy));
            log::info!(
                "{kernel}: {} ms in place, {copy:.3} ms to copy: {}",
                milliseconds.map_or_else(|| "?".to_owned(), |milliseconds| format!("{milliseconds:.3}")),
                if in_place { "read in place" } else { "streamed" }
            );
            kernels.insert(kernel.clone(), Known::InPlace(in_place));
            timed.destroy(driver);
            false
        });
    }
}

fn is_worth_it(in_place: f64, copy: f64) -> bool {
    in_place < copy * WORTH_IT
}

impl Timed {
    /// How long it took; `None`: not done yet. `Some(None)`: the driver does not tell.
    fn milliseconds(&self, driver: &Driver) -> Option<Option<f64>> {
        let mut milliseconds = 0.0;
        // SAFETY: both events are ours and have been recorded outside of captures; writes to a live local.
        match unsafe { driver.cuEventElapsedTime(&mut milliseconds, self.from, self.to) } {
            Ok(()) => Some(Some(f64::from(milliseconds))),
            Err(NOT_READY) => None,
            Err(_) => Some(None),
        }
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
