//! Host memory that the device uses at the same address: mapped from a file into a reservation, and registered.

use crate::abi::{CUdeviceptr, NOT_SUPPORTED, Status};
use crate::driver::Driver;
use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP`.
const READ_WRITE: u32 = 1 | 2;
/// The same, and `CU_MEMHOSTREGISTER_READ_ONLY`.
const READ_ONLY: u32 = READ_WRITE | 8;

/// What may be done with a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading: all that pages of somebody's file allow.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// Maps a part of a file over a range, shared: the processor sees there what the file has from `offset` on.
///
/// # Safety
/// The range is nobody else's.
///
/// # Errors
/// The system's.
pub unsafe fn map_over(
    file: BorrowedFd<'_>,
    at: CUdeviceptr,
    bytes: u64,
    offset: u64,
    access: Access,
) -> io::Result<()> {
    let (host, length) = (at as *mut c_void, bytes as usize);
    let rights = match access {
        Access::Read => libc::PROT_READ,
        Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
    };
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    // SAFETY: the caller's promise; advice on what was mapped just now changes nothing where it cannot be followed.
    unsafe {
        if libc::mmap(host, length, rights, flags, file.as_raw_fd(), offset as libc::off_t) == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        if access == Access::ReadWrite {
            libc::madvise(host, length, libc::MADV_HUGEPAGE);
        }
        // A forked child has no use for it, and must not share what the device uses.
        libc::madvise(host, length, libc::MADV_DONTFORK);
    }
    Ok(())
}

/// Makes a range what the driver's reservation was: addresses that nobody else can be given.
///
/// # Safety
/// The range is a part of a reservation of ours, and nothing uses what is mapped there.
pub unsafe fn restore_reservation(at: CUdeviceptr, bytes: u64) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the caller's promise.
    let restored = unsafe { libc::mmap(at as *mut c_void, bytes as usize, libc::PROT_NONE, flags, -1, 0) };
    if restored == libc::MAP_FAILED {
        log::error!("the reservation at {at:#x} could not be restored: {}", io::Error::last_os_error());
    }
}

/// Registers a mapping, in the current context, at the same address for the device.
///
/// # Safety
/// The range is mapped with these rights, and stays so until [`unregister`].
///
/// # Errors
/// `CUDA_ERROR_NOT_SUPPORTED` where the device sees it at another address, which is of no use: the program has this one. Else
/// the driver's status.
pub unsafe fn register(driver: &Driver, at: CUdeviceptr, bytes: u64, access: Access) -> Result<(), Status> {
    let (host, mut seen) = (at as *mut c_void, 0);
    let flags = if access == Access::Read { READ_ONLY } else { READ_WRITE };
    // SAFETY: the caller's promise; the result goes to a live local.
    unsafe {
        driver.cuMemHostRegister_v2(host, bytes as usize, flags)?;
        let is_same = driver.cuMemHostGetDevicePointer_v2(&mut seen, host, 0).is_ok() && seen == at;
        if is_same { Ok(()) } else { driver.cuMemHostUnregister(host).and(Err(NOT_SUPPORTED)) }
    }
}

/// Undoes [`register`]. Waits for the whole device.
///
/// # Safety
/// Registered by us, and in use by nobody.
///
/// # Errors
/// The driver's status.
pub unsafe fn unregister(driver: &Driver, at: CUdeviceptr) -> Result<(), Status> {
    // SAFETY: the caller's promise.
    unsafe { driver.cuMemHostUnregister(at as *mut c_void) }
}
