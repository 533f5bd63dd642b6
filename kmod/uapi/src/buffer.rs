//! Memory of the pool, as a DMA-BUF.

use crate::{Access, Error, Mapping, Result, abi, mapping};
use std::ffi::c_void;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What to allocate.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// How much; a multiple of `CHUNK`.
    pub bytes: u64,
    /// All of it from this NUMA node, else from wherever it is nearest.
    pub node: Option<u32>,
    /// Shown in the statistics: up to 31 printable ASCII characters without blanks; what does not fit is left out.
    pub label: &'a str,
    /// Take 4 KiB pages where 2 MiB pages run out, instead of failing.
    pub mixed: bool,
}

impl<'a> Request<'a> {
    /// So many bytes, rounded up to chunks, from anywhere.
    pub fn new(bytes: u64, label: &'a str) -> Self {
        Self { bytes: bytes.next_multiple_of(abi::CHUNK_SIZE), node: None, label, mixed: false }
    }

    pub(crate) fn raw(&self) -> abi::Alloc {
        let mut label = [0; abi::LABEL_LEN];
        let shown = self.label.bytes().filter(u8::is_ascii_graphic);
        label[..abi::LABEL_LEN - 1].iter_mut().zip(shown).for_each(|(to, from)| *to = from);
        abi::Alloc {
            bytes: self.bytes,
            flags: if self.mixed { abi::ALLOC_MIXED } else { 0 },
            node: self.node.map_or(-1, |node| i32::try_from(node).unwrap_or(i32::MAX)),
            label,
            ..Default::default()
        }
    }
}

/// A DMA-BUF of the pool. Its memory is freed with its last descriptor and mapping.
#[derive(Debug)]
pub struct Buffer {
    fd: OwnedFd,
    id: u64,
    bytes: u64,
    small_bytes: u64,
    ready_bytes: u64,
}

impl Buffer {
    pub(crate) fn new(fd: OwnedFd, id: u64, bytes: u64, small_bytes: u64, ready_bytes: u64) -> Self {
        Self { fd, id, bytes, small_bytes, ready_bytes }
    }

    /// The module's number for it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How much of it, at its end, is 4 KiB pages (only where the request allowed that).
    pub fn small_bytes(&self) -> u64 {
        self.small_bytes
    }

    /// How much of it was ready in the reserve.
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
    /// EPERM or EACCES for writing to what is sealed.
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
    fn a_label_that_does_not_fit_is_cut_and_stays_terminated() {
        let raw = Request::new(1, "blk.17.ffn_gate exps\n\u{e9}.weight-and-more-than-fits").raw();
        assert_eq!(raw.label[..20], *b"blk.17.ffn_gateexps.");
        assert_eq!(raw.label[abi::LABEL_LEN - 1], 0);
        assert_eq!(raw.bytes, abi::CHUNK_SIZE);
    }
}
