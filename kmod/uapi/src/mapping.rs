//! A buffer in this process.

use crate::{CHUNK, Error, Result};
use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    ReadWrite,
}

impl Access {
    pub(crate) fn protection(self) -> i32 {
        match self {
            Self::Read => libc::PROT_READ,
            Self::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        }
    }
}

/// All of a buffer, at an address that is a multiple of 2 MiB. Unmapped when dropped.
///
/// The kernel maps 2 MiB at once only where address and offset agree modulo 2 MiB, and it chooses no such address by
/// itself: so more is reserved than needed, and the buffer is put at the right place inside.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    len: usize,
}

// SAFETY: an address range; who shares the bytes is the users' affair, since they are reached by raw pointers only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// Maps `len` bytes of a buffer's descriptor, from `offset` on, over what is mapped at an address. Works for any file
/// whose pages are 2 MiB, such as a memfd of huge pages.
///
/// # Errors
/// [`Error::Incongruent`] where address and offset disagree modulo 2 MiB, and the kernel's own.
///
/// # Safety
/// What is mapped there is replaced, so it must be the caller's, and in nobody's use.
pub unsafe fn map_fixed(
    fd: BorrowedFd<'_>,
    address: *mut c_void,
    offset: u64,
    len: usize,
    access: Access,
) -> Result<()> {
    if !(address as usize as u64).wrapping_sub(offset).is_multiple_of(CHUNK as u64) {
        return Err(Error::Incongruent);
    }
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    let offset = libc::off_t::try_from(offset).map_err(|_| Error::Incongruent)?;
    // SAFETY: the caller's promise.
    let got = unsafe { libc::mmap(address, len, access.protection(), flags, fd.as_raw_fd(), offset) };
    if got == libc::MAP_FAILED { Err(Error::last("mmap")) } else { Ok(()) }
}

impl Mapping {
    /// Maps the first `len` bytes of a buffer's descriptor (or, as [`map_fixed`], of another file).
    ///
    /// # Errors
    /// The kernel's own.
    pub fn of_file(fd: BorrowedFd<'_>, len: usize, access: Access) -> Result<Self> {
        let (none, reserve) = (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: a new mapping, wherever there is room.
        let room = unsafe { libc::mmap(ptr::null_mut(), len + CHUNK, none, reserve, -1, 0) };
        if room == libc::MAP_FAILED {
            return Err(Error::last("mmap"));
        }
        let before = room.align_offset(CHUNK);
        // SAFETY: inside the reservation just made, as are the two ends given back.
        let mapped = unsafe {
            let address = room.byte_add(before);
            let mapped = map_fixed(fd, address, 0, len, access).map(|()| address);
            match mapped {
                Ok(_) => {
                    unmap(room, before);
                    unmap(address.byte_add(len), CHUNK - before);
                }
                Err(_) => unmap(room, len + CHUNK),
            }
            mapped
        }?;
        Ok(Self { address: NonNull::new(mapped.cast()).expect("the kernel maps nothing at 0 unasked"), len })
    }

    /// Where it begins.
    pub fn as_ptr(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// How long it is.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a buffer has at least one chunk.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and whoever has pointers into it was told that it ends with us.
        unsafe { unmap(self.as_ptr().cast(), self.len) };
    }
}

unsafe fn unmap(address: *mut libc::c_void, len: usize) {
    if len > 0 {
        // SAFETY: the caller's.
        unsafe { libc::munmap(address, len) };
    }
}
