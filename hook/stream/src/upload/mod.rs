//! Uploads of weights: copied into pinned memory by several threads, and from there by the device.
//!
//! ```text
//!   the program's pages          pinned pieces (2 MiB)               device
//!   ┌────────────────┐ thread 1 ─▶ ┌──┐
//!   │ A A A A A A A A│ thread 2 ─▶ ┌──┐ ──▶ cuMemcpyAsync on the    ┌────────┐
//!   │ A A A A A A A A│ thread 3 ─▶ ┌──┐     program's own stream ──▶ │ A A A  │
//!   └────────────────┘   ...       └──┘ ◀── free when its event is   └────────┘
//! ```
//!
//! The driver does the same with one thread, at the 8 to 9 GB/s that one thread copies; the link takes 55. For the program
//! nothing changes: when the call returns its bytes have been read, and what it submits to the stream next runs after
//! their copy. On any doubt the program's own call is made; so it is where the stream does not come on, since the
//! driver may then return long before we would.

mod pieces;
mod threads;

use greenboost_cuda::abi::*;
use greenboost_cuda::{Current, Driver, RelaxedCapture, event};
use greenboost_memory::Memory;
use greenboost_memory::allocation::Chunk;
use greenboost_memory::ram::FLOOR;
use pieces::{Look, Pieces};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use threads::Threads;

/// Smaller copies gain nothing.
const LEAST: usize = 4 << 20;
/// Bytes of a file that are compared at once: they stay in a processor's cache.
const READ: usize = 32 << 10;

/// What uploads are made with.
#[derive(Default)]
pub struct Uploads {
    /// Pinned pieces by context.
    pieces: Mutex<Vec<(usize, Place)>>,
    /// Made at the first upload; `None`: there are to be none.
    threads: OnceLock<Option<Threads>>,
}

/// Where the pieces of a context are. Who works with them has taken them out, since a copy may have to wait for the GPU: another
/// thread's copies are the driver's meanwhile.
enum Place {
    /// Here, for whoever comes.
    Free(Pieces),
    /// With a thread that works with them, or makes them.
    Taken,
    /// The driver has refused them.
    Refused,
}

impl Uploads {
    /// The process's threads. `None`: it is to have none.
    fn threads(&self, memory: &Memory) -> Option<&Threads> {
        let threads = self.threads.get_or_init(|| Threads::new(threads::count(memory.settings.upload_threads)));
        // A forked child has none of them.
        threads.as_ref().filter(|threads| threads.is_here())
    }

    /// Does a copy from the host into memory of ours in the program's place, `on` a stream; with `wait`, it is complete on return.
    /// `None`: it is the program's to make.
    ///
    /// The source is read at once. So does the driver where nobody waits; a copy that is waited for it reads when the stream
    /// has come that far, since something in it may write there first: such a copy is ours on an idle stream alone.
    ///
    /// # Safety
    /// The arguments of a copy that the program makes; inside the gate.
    pub unsafe fn copy(
        &self,
        memory: &Memory,
        dst: CUdeviceptr,
        src: *const u8,
        bytes: usize,
        on: CUstream,
        wait: bool,
    ) -> Option<Status> {
        if bytes < LEAST || memory.captures.maybe_any() || !is_pageable(memory.driver, src as u64, bytes) {
            return None;
        }
        let ordinal = memory.table().find(dst).map(|allocation| allocation.device)?;
        let threads = self.threads(memory)?;
        if wait && !event::is_idle(memory.driver, on) {
            return None;
        }
        let _relaxed = RelaxedCapture::enter(memory.driver);
        let copied = self.with_pieces(memory, threads, |pieces| {
            // SAFETY: the program's own copy, which the driver would make just so.
            unsafe { pieces.upload(memory.driver, threads, dst, src, bytes, on) }
        })?;
        // What was copied so far is copied once more.
        copied.ok()?;
        if let Ok(device) = memory.device(ordinal) {
            device.record.uploaded.fetch_add(bytes as u64, Relaxed);
        }
        if !wait {
            return Some(SUCCESS);
        }
        // SAFETY: the program's own stream.
        Some(unsafe { memory.driver.cuStreamSynchronize(on) }.err().unwrap_or(SUCCESS))
    }

    /// Whether a chunk in VRAM has the bytes of a file from `offset` on. `None`: not known, because there are no threads or no
    /// memory for it. Nobody is using the chunk.
    pub fn is_the_same(&self, memory: &Memory, chunk: &Chunk, file: &File, offset: u64) -> Option<bool> {
        let threads = self.threads(memory)?;
        let same = Arc::new(AtomicBool::new(true));
        let (same_so_far, file) = (same.clone(), file.try_clone().ok()?);
        let compare: Arc<Look> = Arc::new(move |at, piece| {
            let mut there = [0; READ];
            for (index, here) in piece.chunks(READ).enumerate() {
                let there = &mut there[..here.len()];
                let from = offset + (at + index * READ) as u64;
                if !same_so_far.load(Relaxed) || file.read_exact_at(there, from).is_err() || there != here {
                    same_so_far.store(false, Relaxed);
                    return;
                }
            }
        });
        let read = self.with_pieces(memory, threads, |pieces| {
            // SAFETY: VRAM that is mapped there.
            unsafe { pieces.read(memory.driver, threads, chunk.at, chunk.bytes as usize, &compare) }
        })?;
        read.ok().map(|()| same.load(Relaxed))
    }

    /// Works with the pieces of the current context, which are made if there are none. `None`: there are none to be had, or
    /// another thread has them.
    fn with_pieces<T>(&self, memory: &Memory, threads: &Threads, work: impl FnOnce(&mut Pieces) -> T) -> Option<T> {
        let context = memory.current_context().ok()?;
        let mut pieces = match self.take(context) {
            Some(Some(pieces)) => pieces,
            Some(None) => {
                let made = make(memory, threads);
                let Some(Ok(pieces)) = made else {
                    self.put(memory.driver, context, made.map(|_| Place::Refused));
                    return None;
                };
                pieces
            }
            None => return None,
        };
        let done = work(&mut pieces);
        self.put(memory.driver, context, Some(Place::Free(pieces)));
        Some(done)
    }

    fn all(&self) -> MutexGuard<'_, Vec<(usize, Place)>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the pieces of a context out. `Some(None)`: there are none yet, and the caller is to make them. `None`: another thread
    /// has them, or there are to be none.
    fn take(&self, context: CUcontext) -> Option<Option<Pieces>> {
        let mut all = self.all();
        let Some((_, place)) = all.iter_mut().find(|(of, _)| *of == context as usize) else {
            all.push((context as usize, Place::Taken));
            return Some(None);
        };
        match std::mem::replace(place, Place::Taken) {
            Place::Free(pieces) => Some(Some(pieces)),
            other => {
                *place = other;
                None
            }
        }
    }

    /// Ends what [`Uploads::take`] began. `None`: the next that comes is to try again.
    fn put(&self, driver: &Driver, context: CUcontext, back: Option<Place>) {
        let mut all = self.all();
        let at = all.iter().position(|(of, _)| *of == context as usize);
        match (at, back) {
            (Some(at), Some(back)) => all[at].1 = back,
            (Some(at), None) => {
                all.swap_remove(at);
            }
            (None, back) => {
                // The context has gone meanwhile.
                drop(all);
                if let (Some(Place::Free(pieces)), Ok(_current)) = (back, Current::push(driver, context)) {
                    pieces.release(driver);
                }
            }
        }
    }

    /// Whether a context has pieces.
    pub fn is_of(&self, context: CUcontext) -> bool {
        self.all().iter().any(|(of, _)| *of == context as usize)
    }

    /// A context is about to go, and its work is done; or is gone already, and what it had with it.
    pub fn context_gone(&self, driver: &Driver, context: CUcontext) {
        let gone = {
            let mut all = self.all();
            all.iter().position(|(of, _)| *of == context as usize).map(|at| all.swap_remove(at))
        };
        if let (Some((_, Place::Free(pieces))), Ok(_current)) = (gone, Current::push(driver, context)) {
            pieces.release(driver);
        }
    }
}

/// Pieces in the current context. `None`: there is not the RAM for them right now.
fn make(memory: &Memory, threads: &Threads) -> Option<Result<Pieces, Status>> {
    let count = 2 * threads.count();
    if memory.available_ram() < (count * pieces::BYTES) as u64 + FLOOR {
        return None;
    }
    let made = Pieces::new(memory.driver, count);
    Some(made.inspect_err(|status| log::warn!("uploads are the driver's: no pinned memory: {status}")))
}

/// Whether the driver knows nothing of a range of the host's memory, as far as its ends tell.
fn is_pageable(driver: &Driver, at: u64, bytes: usize) -> bool {
    let is_known = |at| driver.pointer_attribute(greenboost_cuda::PointerAttribute::MemoryType, at).is_some();
    at != 0 && !is_known(at) && !is_known(at + bytes as u64 - 1)
}
