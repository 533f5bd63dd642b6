//! Pinned memory in pieces, each with an event after the last copy that used it.

use super::threads::{Jobs, Threads};
use greenboost_cuda::Driver;
use greenboost_cuda::abi::*;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of a piece: 40 microseconds of the link, which an asynchronous copy costs a tenth of.
pub const BYTES: usize = 2 << 20;
/// How long a piece is waited for: some thousand times what its copy takes. What takes longer is not the link.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long it is looked for without sleeping: some times what a copy takes.
const AT_ONCE: Duration = Duration::from_micros(200);
/// `CU_MEMHOSTALLOC_PORTABLE`.
const PORTABLE: u32 = 1;
/// `CU_EVENT_DISABLE_TIMING`.
const NO_TIMING: u32 = 2;

/// What looks at bytes: where they are in all that is read, and they.
pub type Look = dyn Fn(usize, &[u8]) + Send + Sync;

/// A piece, owned by whoever has it.
#[derive(Debug)]
struct Piece {
    at: *mut u8,
    event: CUevent,
    /// Whether the event has been recorded.
    is_used: bool,
}

// SAFETY: memory and an event that one thread at a time works with.
unsafe impl Send for Piece {}

impl Piece {
    /// Its first bytes.
    ///
    /// # Safety
    /// No copy is using the piece.
    unsafe fn bytes(&mut self, count: usize) -> &mut [u8] {
        debug_assert!(count <= BYTES);
        // SAFETY: so many bytes, of which this is the only use.
        unsafe { std::slice::from_raw_parts_mut(self.at, count) }
    }

    /// Copies, one side being the piece.
    ///
    /// # Safety
    /// As the driver's copy.
    unsafe fn copy(
        &mut self,
        driver: &Driver,
        dst: CUdeviceptr,
        src: CUdeviceptr,
        bytes: usize,
        on: CUstream,
    ) -> Result<(), Status> {
        // SAFETY: the caller's promise; the event is ours.
        unsafe {
            driver.cuMemcpyAsync(dst, src, bytes, on)?;
            self.is_used = true;
            driver.cuEventRecord(self.event, on)
        }
    }

    /// Waits for the last copy. `CUDA_ERROR_NOT_READY`: what comes before it in its stream takes long.
    fn wait(&self, driver: &Driver) -> Result<(), Status> {
        if !self.is_used {
            return Ok(());
        }
        let began = Instant::now();
        loop {
            // SAFETY: an event of ours.
            let asked = unsafe { driver.cuEventQuery(self.event) };
            match began.elapsed() {
                waited if asked != Err(NOT_READY) || waited > PATIENCE => return asked,
                waited if waited > AT_ONCE => std::thread::sleep(AT_ONCE),
                _ => std::thread::yield_now(),
            }
        }
    }
}

/// All pieces of a context, the one that was used longest ago in front.
#[derive(Debug)]
pub struct Pieces {
    memory: *mut c_void,
    free: VecDeque<Piece>,
}

// SAFETY: as of a piece.
unsafe impl Send for Pieces {}

/// What is left to do: offset and bytes of parts of at most a piece.
fn parts(bytes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..bytes).step_by(BYTES).map(move |at| (at, BYTES.min(bytes - at)))
}

impl Pieces {
    /// Makes `count` pieces, in the current context.
    ///
    /// # Errors
    /// The driver's status.
    pub fn new(driver: &Driver, count: usize) -> Result<Self, Status> {
        let mut memory = null_mut();
        // SAFETY: writes an address to a live local.
        unsafe { driver.cuMemHostAlloc(&mut memory, count * BYTES, PORTABLE) }?;
        let mut pieces = Self { memory, free: VecDeque::with_capacity(count) };
        for index in 0..count {
            let mut event = null_mut();
            // SAFETY: writes a handle to a live local.
            if let Err(status) = unsafe { driver.cuEventCreate(&mut event, NO_TIMING) } {
                pieces.release(driver);
                return Err(status);
            }
            // SAFETY: inside the memory.
            let at = unsafe { memory.cast::<u8>().add(index * BYTES) };
            pieces.free.push_back(Piece { at, event, is_used: false });
        }
        Ok(pieces)
    }

    /// Gives everything back; their context is current, and no copy uses them.
    pub fn release(self, driver: &Driver) {
        for piece in self.free {
            // SAFETY: ours, and used no more.
            let _ = unsafe { driver.cuEventDestroy_v2(piece.event) };
        }
        // SAFETY: as above.
        if let Err(status) = unsafe { driver.cuMemFreeHost(self.memory) } {
            log::error!("pinned memory for uploads could not be given back: {status}");
        }
    }

    /// Copies from the program's memory to the device, `on` a stream. All bytes have been read on return.
    ///
    /// # Safety
    /// As the driver's copy.
    ///
    /// # Errors
    /// The driver's status; some of it may have been copied then.
    pub unsafe fn upload(
        &mut self,
        driver: &Driver,
        threads: &Threads,
        dst: CUdeviceptr,
        src: *const u8,
        bytes: usize,
        on: CUstream,
    ) -> Result<(), Status> {
        let src = src as usize;
        let (mut failed, mut parts) = (Ok(()), parts(bytes));
        let (mut jobs, mut under_way) = (Jobs::new(threads), 0);
        loop {
            while failed.is_ok()
                && let Some(mut piece) = self.free.pop_front()
            {
                failed = piece.wait(driver);
                let Some((at, count)) = failed.and_then(|()| parts.next().ok_or(SUCCESS)).ok() else {
                    self.free.push_front(piece);
                    break;
                };
                under_way += 1;
                jobs.run(move || {
                    // SAFETY: its last copy has been waited for; the source is the caller's, who does not return before this
                    // has been received.
                    unsafe {
                        let source = (src as *const u8).add(at);
                        std::ptr::copy_nonoverlapping(source, piece.bytes(count).as_mut_ptr(), count);
                    }
                    (piece, at, count)
                });
            }
            if under_way == 0 {
                return failed;
            }
            let (mut piece, at, count) = jobs.next();
            under_way -= 1;
            if failed.is_ok() {
                let from = piece.at as u64;
                // SAFETY: the caller's copy, out of memory that stays until the event.
                failed = unsafe { piece.copy(driver, dst + at as u64, from, count, on) };
            }
            self.free.push_back(piece);
        }
    }

    /// Has threads `look` at the bytes of the device, piece by piece: where in them a piece is, and the piece.
    ///
    /// # Safety
    /// As a copy from the device; nobody writes there.
    ///
    /// # Errors
    /// The driver's status; not everything has been looked at then.
    pub unsafe fn read(
        &mut self,
        driver: &Driver,
        threads: &Threads,
        src: CUdeviceptr,
        bytes: usize,
        look: &Arc<Look>,
    ) -> Result<(), Status> {
        let (mut failed, mut parts) = (Ok(()), parts(bytes));
        let mut jobs = Jobs::new(threads);
        let (mut arriving, mut under_way) = (VecDeque::new(), 0);
        loop {
            while failed.is_ok()
                && let Some(mut piece) = self.free.pop_front()
            {
                let Some((at, count)) = parts.next() else {
                    self.free.push_front(piece);
                    break;
                };
                let to = piece.at as u64;
                // SAFETY: the caller's promise; into memory of ours whose last copy has been waited for.
                failed = piece
                    .wait(driver)
                    .and_then(|()| unsafe { piece.copy(driver, to, src + at as u64, count, STREAM_PER_THREAD) });
                arriving.push_back((piece, at, count));
            }
            if let Some((mut piece, at, count)) = arriving.pop_front() {
                failed = failed.and_then(|()| piece.wait(driver));
                if failed.is_err() {
                    self.free.push_back(piece);
                    continue;
                }
                let look = look.clone();
                under_way += 1;
                jobs.run(move || {
                    // SAFETY: the copy has been waited for.
                    look(at, unsafe { piece.bytes(count) });
                    piece
                });
                // What is ready by now can be filled again.
                while let Some(piece) = jobs.done() {
                    under_way -= 1;
                    self.free.push_back(piece);
                }
            } else if under_way > 0 {
                let piece = jobs.next();
                under_way -= 1;
                self.free.push_back(piece);
            } else {
                return failed;
            }
        }
    }
}
