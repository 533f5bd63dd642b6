//! Contexts: what a thread works in, what a sticky error poisons, what dies with a reset.

use crate::accounting;
use crate::driver;
use crate::env::options;
use crate::errors::{Error, Result};
use crate::handles::Handles;
use std::cell::RefCell;
use std::collections::HashSet;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// A context.
pub struct Context {
    /// Its `CUcontext`.
    pub handle: usize,
    ordinal: usize,
    flags: u32,
    version: u32,
    primary: bool,
    error: AtomicU32,
    destroyed: AtomicBool,
    peers: Mutex<HashSet<usize>>,
    order: Mutex<()>,
}

/// The live contexts.
pub static CONTEXTS: Handles<Context> = Handles::new(1, Error::INVALID_CONTEXT);

thread_local! {
    static STACK: ManuallyDrop<RefCell<Vec<Arc<Context>>>> = const { ManuallyDrop::new(RefCell::new(Vec::new())) };
    static END: End = const { End };
}

/// The end of a thread, with which its stack goes. The main thread has its own until the process has ended: what runs
/// at its exit, after thread-local variables have gone, may still use the driver.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        // SAFETY: plain system calls.
        if unsafe { libc::gettid() != libc::getpid() } {
            let _ = STACK.try_with(|stack| stack.try_borrow_mut().map(|mut stack| std::mem::take(&mut *stack)));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Changes the calling thread's stack of contexts.
pub fn with_stack<R>(change: impl FnOnce(&mut Vec<Arc<Context>>) -> R) -> Result<R> {
    let _ = END.try_with(|_| ());
    STACK.try_with(|stack| change(&mut stack.borrow_mut())).map_err(|_| Error::INVALID_CONTEXT)
}

/// The calling thread's context.
pub fn current() -> Option<Arc<Context>> {
    with_stack(|stack| stack.last().cloned()).ok().flatten()
}

impl Context {
    /// Makes a context; it takes its overhead of VRAM.
    pub fn create(ordinal: usize, flags: u32, version: u32, primary: bool) -> Result<Arc<Context>> {
        driver::devices()[ordinal].charge(options().context_overhead)?;
        Ok(CONTEXTS.insert(|handle| Context {
            handle,
            ordinal,
            flags,
            version,
            primary,
            error: AtomicU32::new(0),
            destroyed: AtomicBool::new(false),
            peers: Mutex::default(),
            order: Mutex::default(),
        }))
    }

    /// Its device.
    pub fn device(&self) -> &'static crate::device::Device {
        &driver::devices()[self.ordinal]
    }

    /// The device's ordinal.
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// What it was created with.
    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// The API version it was created for.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Whether it is a device's primary context.
    pub fn primary(&self) -> bool {
        self.primary
    }

    /// Opens or closes the ordinary memory of another device.
    pub fn set_peer(&self, device: usize, on: bool) -> Result {
        let mut peers = lock(&self.peers);
        match (on, peers.contains(&device)) {
            (true, true) => return Err(Error::PEER_ACCESS_ALREADY_ENABLED),
            (false, false) => return Err(Error::PEER_ACCESS_NOT_ENABLED),
            (true, false) => peers.insert(device),
            (false, true) => peers.remove(&device),
        };
        Ok(())
    }

    /// Fails once the context is destroyed or an earlier operation left a sticky error.
    pub fn healthy(&self) -> Result {
        if self.destroyed.load(Ordering::Acquire) {
            return Err(Error::CONTEXT_IS_DESTROYED);
        }
        match self.error.load(Ordering::Acquire) {
            0 => Ok(()),
            code => Err(Error(code)),
        }
    }

    /// Poisons the context: the first error stays.
    pub fn fail(&self, error: Error) {
        let _ = self.error.compare_exchange(0, error.0, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Whether kernels of this context may touch another device's ordinary memory.
    pub fn reaches(&self, device: usize) -> bool {
        device == self.ordinal || lock(&self.peers).contains(&device)
    }

    /// Held while work is submitted, so that the legacy stream's mutual waits see one order.
    pub fn order(&self) -> MutexGuard<'_, ()> {
        lock(&self.order)
    }

    /// Ends the context: `false` when it has ended before.
    pub fn end(&self) -> bool {
        !self.destroyed.swap(true, Ordering::AcqRel)
    }

    /// Frees what belongs to a context that has ended.
    pub fn release(&self) {
        accounting::release_context(self.handle);
        self.device().uncharge(options().context_overhead);
        let _ = CONTEXTS.remove(self.handle);
    }
}
