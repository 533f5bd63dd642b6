//! All that was submitted to some contexts, to be asked whether it is done.
//!
//! A driver of CUDA 12.5 or later marks the work of a context with an event. An older one can only wait for it, without an
//! end; a thread of ours does that there.

use greenboost_cuda::abi::{CUcontext, CUevent, Status};
use greenboost_cuda::{Current, Driver, RelaxedCapture, event};
use greenboost_intercept::process::without_signals;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;

/// Threads that wait, by context: one that does not come back is not joined by another.
#[derive(Default)]
pub struct Waiters(Mutex<Vec<(usize, Arc<AtomicBool>)>>);

/// Marks in the work of contexts.
#[derive(Default)]
pub struct Submitted(Vec<Mark>);

enum Mark {
    /// An event after all work.
    Event(&'static Driver, CUevent),
    /// Set once a thread has waited for all work.
    Waited(Arc<AtomicBool>),
    /// A thread waits for work that was there before: what came after it could not be marked.
    Older(Arc<AtomicBool>),
}

impl Submitted {
    /// Marks what was submitted to a context so far; it is pushed for that. No stream may be capturing.
    ///
    /// # Errors
    /// The driver's status: nothing is known of its work.
    pub fn mark(&mut self, driver: &'static Driver, waiters: &Waiters, context: CUcontext) -> Result<(), Status> {
        let mark = match event::after_context(driver, context) {
            Some(event) => Mark::Event(driver, event?),
            None => waiters.send(driver, context),
        };
        self.0.push(mark);
        Ok(())
    }

    /// Whether all of it is done.
    pub fn is_done(&self) -> bool {
        self.all(false)
    }

    /// Whether it is worth while to mark anew: what was marked is done.
    pub fn is_worth_another_look(&self) -> bool {
        self.all(true)
    }

    fn all(&self, older: bool) -> bool {
        self.0.iter().all(|mark| match mark {
            Mark::Event(driver, event) => event::is_done(driver, *event),
            Mark::Waited(done) => done.load(SeqCst),
            Mark::Older(done) => older && done.load(SeqCst),
        })
    }
}

// SAFETY: an event is a name that any thread may use.
unsafe impl Send for Submitted {}

impl Drop for Submitted {
    fn drop(&mut self) {
        for mark in self.0.drain(..) {
            if let Mark::Event(driver, event) = mark {
                event::destroy(driver, event);
            }
        }
    }
}

impl Waiters {
    fn send(&self, driver: &'static Driver, context: CUcontext) -> Mark {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|(_, done)| !done.load(SeqCst));
        if let Some((_, done)) = waiting.iter().find(|(of, _)| *of == context as usize) {
            return Mark::Older(done.clone());
        }
        let (done, context) = (Arc::new(AtomicBool::new(false)), context as usize);
        let reached = done.clone();
        let wait = move || {
            let _relaxed = RelaxedCapture::enter(driver);
            if let Ok(_current) = Current::push(driver, context as CUcontext) {
                // SAFETY: nothing was capturing when the mover asked; a context that is gone is answered with an error.
                let _ = unsafe { driver.cuCtxSynchronize() };
            }
            reached.store(true, SeqCst);
        };
        match without_signals(|| Builder::new().name("gb-wait".to_owned()).stack_size(256 << 10).spawn(wait)) {
            Ok(_) => waiting.push((context, done.clone())),
            Err(error) => log::warn!("no thread to wait for a device with: {error}"),
        }
        Mark::Waited(done)
    }
}
