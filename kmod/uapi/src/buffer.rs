//! Memory of the pool, as a DMA-BUF.

use crate::{Access, Error, Mapping, Result, abi, mapping};
use std::ffi::c_void;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What to allocate.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// How much; a multiple of `CHUNK`.
    pub bytes: u64,
    /// All of it from this NUMA node, else from wherever it is nearest.
    pub node: Option<u32>,
}

impl Request {
    /// This many bytes, rounded up to chunks, from anywhere.
    pub fn new(bytes: u64) -> Self {
        Self { bytes: bytes.next_multiple_of(abi::CHUNK_BYTES), node: None }
    }

    pub(crate) fn raw(&self) -> abi::Alloc {
        abi::Alloc {
            bytes: self.bytes,
            node: self.node.map_or(-1, |node| i32::try_from(node).unwrap_or(i32::MAX)),
            ..Default::default()
        }
    }
}

/// A DMA-BUF of the pool. Its memory is freed with its last descriptor and mapping.
#[derive(Debug)]
pub struct Buffer {
    fd: OwnedFd,
    bytes: u64,
    ready_bytes: u64,
}

impl Buffer {
    pub(crate) fn new(fd: OwnedFd, bytes: u64, ready_bytes: u64) -> Self {
        Self { fd, bytes, ready_bytes }
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How much of it came from the reserve.
    pub fn ready_bytes(&self) -> u64 {
        self.ready_bytes
    }

    /// The descriptor alone, for who keeps it himself.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Maps all of it where 2 MiB are mapped at once.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn map(&self, access: Access) -> Result<Mapping> {
        let len = usize::try_from(self.bytes).map_err(|_| Error::NoMemory)?;
        Mapping::of_file(self.as_fd(), len, access)
    }

    /// Maps a part of it over what is mapped at an address: into a reservation.
    ///
    /// # Errors
    /// [`Error::Incongruent`] where address and offset disagree modulo 2 MiB, and the kernel's own.
    ///
    /// # Safety
    /// What is mapped there is replaced, so it must be the caller's, and in nobody's use.
    pub unsafe fn map_fixed(&self, address: *mut c_void, offset: u64, len: usize, access: Access) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { mapping::map_fixed(self.as_fd(), address, offset, len, access) }
    }
}

impl AsFd for Buffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_whole_chunks_from_anywhere() {
        let raw = Request::new(1).raw();
        assert_eq!((raw.bytes, raw.node, raw.flags), (abi::CHUNK_BYTES, -1, 0));
        assert_eq!(Request { node: Some(3), ..Request::new(1) }.raw().node, 3);
    }
}
