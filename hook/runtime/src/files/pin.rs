//! Page cache that the device reads: a read-only shared mapping of a file, registered with the driver.

use crate::memory::ram;
use greenboost_cuda::Driver;
use greenboost_cuda::abi::{NOT_SUPPORTED, Status};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// `CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP | CU_MEMHOSTREGISTER_READ_ONLY`.
const REGISTER_FLAGS: u32 = 1 | 2 | 8;

/// What is registered, of all files: first addresses, and bytes. It is page cache that cannot be dropped.
static RANGES: Mutex<BTreeMap<u64, u64>> = Mutex::new(BTreeMap::new());

fn ranges() -> MutexGuard<'static, BTreeMap<u64, u64>> {
    RANGES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether an address is in a mapping that we have registered.
pub fn is_ours(at: u64) -> bool {
    ranges().range(..=at).next_back().is_some_and(|(start, bytes)| at - start < *bytes)
}

/// Bytes of model files that are registered with the driver.
pub fn registered() -> u64 {
    ranges().values().sum()
}

/// Whether so much more page cache can be held.
pub fn has_room(bytes: u64) -> bool {
    ram::available() >= bytes.saturating_add(ram::FLOOR)
}

/// Maps a part of a file over a range of ours, shared and read-only. Whoever asks takes care of the range.
///
/// # Safety
/// The range is nobody else's.
///
/// # Errors
/// The system's.
pub unsafe fn map_over(file: BorrowedFd<'_>, at: u64, bytes: u64, offset: u64) -> io::Result<()> {
    let (host, flags) = (at as *mut c_void, libc::MAP_SHARED | libc::MAP_FIXED);
    // SAFETY: the caller's promise.
    unsafe {
        if libc::mmap(host, bytes as usize, libc::PROT_READ, flags, file.as_raw_fd(), offset as libc::off_t)
            == libc::MAP_FAILED
        {
            return Err(io::Error::last_os_error());
        }
        // A forked child must not share pages that the device reads.
        libc::madvise(host, bytes as usize, libc::MADV_DONTFORK);
    }
    Ok(())
}

/// Registers a range of a read-only mapping of a file, at the same address for the device, in the current context.
///
/// # Safety
/// The range is mapped so, and stays mapped until [`unpin`].
///
/// # Errors
/// The driver's status.
pub unsafe fn pin(driver: &Driver, at: u64, bytes: u64) -> Result<(), Status> {
    let (host, mut seen) = (at as *mut c_void, 0);
    // SAFETY: the caller's promise; the result goes to a live local.
    unsafe {
        driver.cuMemHostRegister_v2(host, bytes as usize, REGISTER_FLAGS)?;
        let same = driver.cuMemHostGetDevicePointer_v2(&mut seen, host, 0).is_ok() && seen == at;
        if !same {
            return driver.cuMemHostUnregister(host).and(Err(NOT_SUPPORTED));
        }
    }
    ranges().insert(at, bytes);
    Ok(())
}

/// Undoes [`pin`], which nothing may be using.
///
/// # Errors
/// The driver's status.
pub fn unpin(driver: &Driver, at: u64) -> Result<(), Status> {
    forget(at);
    // SAFETY: registered by us, in use by nobody.
    unsafe { driver.cuMemHostUnregister(at as *mut c_void) }
}

/// Counts a range no more whose registration went with its context.
pub fn forget(at: u64) {
    ranges().remove(&at);
}
