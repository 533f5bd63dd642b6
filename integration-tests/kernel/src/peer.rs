//! The tiny module that plays GPU: pins memory and imports DMA-BUFs (`peer/peer.c`).

use crate::machine::{counter, errno};
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};

/// An open `/dev/gb_peer`. What it pins and imports ends with it.
pub struct Peer(File);

#[repr(C)]
#[derive(Default)]
pub struct Pin {
    address: u64,
    bytes: u64,
    write: u32,
    /// Aligned and contiguous 2 MiB runs.
    pub huge: u32,
    /// The first 8 bytes, as the kernel sees them.
    pub first: u64,
    /// What pinning alone took.
    pub ns: u64,
    locked: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Default)]
pub struct Import {
    fd: i32,
    direction: u32,
    pub segments: u32,
    pub huge_segments: u32,
    pub bytes: u64,
    /// Of all 8-byte words.
    pub sum: u64,
    poke: u64,
}

/// What the module can be made to do wrong.
#[derive(Clone, Copy)]
pub enum Fault {
    Warning = 0,
    Kasan = 1,
    Lockdep = 2,
    Kmemleak = 3,
    Atomic = 4,
    Ubsan = 5,
}

/// Directions of DMA.
pub const BIDIRECTIONAL: u32 = 0;
pub const TO_DEVICE: u32 = 1;

const fn ioc(direction: u64, size: usize, number: u64) -> u64 {
    direction << 30 | (size as u64) << 16 | (b'P' as u64) << 8 | number
}

impl Peer {
    pub fn open() -> Self {
        Self(File::options().read(true).write(true).open("/dev/gb_peer").expect("the peer is loaded"))
    }

    /// `pin_user_pages_fast(FOLL_LONGTERM)`, which walks the page tables without a lock where it can.
    pub fn pin(&self, address: *const u8, bytes: usize, write: bool) -> Result<Pin, i32> {
        let pin = Pin { address: address as u64, bytes: bytes as u64, write: write.into(), ..Default::default() };
        self.call(ioc(3, size_of::<Pin>(), 0), pin)
    }

    /// `pin_user_pages(FOLL_WRITE | FOLL_LONGTERM)`, exactly as NVIDIA's driver does it.
    pub fn pin_as_nvidia(&self, address: *const u8, bytes: usize) -> Result<Pin, i32> {
        let pin = Pin { address: address as u64, bytes: bytes as u64, write: 1, locked: 1, ..Default::default() };
        self.call(ioc(3, size_of::<Pin>(), 0), pin)
    }

    pub fn unpin(&self) {
        self.call(ioc(0, 0, 1), ()).expect("unpinning");
    }

    /// Attaches, maps for DMA, sums through vmap, and writes a word there unless it is 0.
    pub fn import(&self, fd: BorrowedFd<'_>, direction: u32, poke: u64) -> Result<Import, i32> {
        let import = Import { fd: fd.as_raw_fd(), direction, poke, ..Default::default() };
        self.call(ioc(3, size_of::<Import>(), 2), import)
    }

    pub fn release(&self) {
        self.call(ioc(0, 0, 3), ()).expect("releasing");
    }

    /// Fragments the free memory: until this is closed, no piece reaches 2 MiB and nothing can join them.
    pub fn fragment(&self) -> Result<(), i32> {
        self.call(ioc(0, 0, 5), ())
    }

    /// Whether the filesystem `gb_slow` keeps its answers to itself.
    pub fn hang(&self, hangs: bool) {
        // SAFETY: a number, by value.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), ioc(0, 0, 6) as _, libc::c_ulong::from(hangs)) };
        assert_eq!(done, 0, "hanging");
    }

    /// Has the module do something it should not, to see whether anybody notices.
    pub fn inject(&self, what: Fault) {
        // SAFETY: a number, by value.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), ioc(0, 0, 4) as _, what as libc::c_ulong) };
        assert_eq!(done, 0, "injecting a fault");
    }

    fn call<T>(&self, request: u64, mut argument: T) -> Result<T, i32> {
        // SAFETY: the structs are the module's, sizes included.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, &raw mut argument) };
        if done == 0 { Ok(argument) } else { Err(errno()) }
    }
}

/// Pages that are pinned for long in the whole machine.
pub fn pinned_bytes() -> u64 {
    // The counts are kept per processor, and added up now and then.
    std::fs::write("/proc/sys/vm/stat_refresh", "1").expect("proc is mounted");
    let count = |name| counter("/proc/vmstat", name);
    (count("nr_foll_pin_acquired") - count("nr_foll_pin_released")) * 4096
}
