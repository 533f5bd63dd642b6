//! A buffer in this process.

use crate::{Buffer, CHUNK, Error, Result};
use std::ptr::{self, NonNull};

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading: all that a sealed buffer allows.
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

impl Mapping {
    pub(crate) fn of(buffer: &Buffer, access: Access) -> Result<Self> {
        let len = usize::try_from(buffer.bytes()).map_err(|_| Error::NoMemory)?;
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
            let mapped = buffer.map_fixed(address, 0, len, access).map(|()| address);
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
