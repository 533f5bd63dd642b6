//! A buffer in a process and at a device: the bytes are the same everywhere, in 2 MiB pieces.

use crate::machine::{Marks, SPILL, errno, eventually, set, smaps, value};
use crate::peer::{self, Peer};
use crate::test::Test;
use greenboost_kmod::{Access, Buffer, CHUNK, Device, Mapping, Request};
use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

pub const TESTS: &[Test] = &[
    ("mapping: a new buffer is zero, and mapped 2 MiB at once", zero_and_huge),
    ("mapping: a long-term pin for writing works and sees 2 MiB runs", long_term_pin),
    ("mapping: an importer gets 2 MiB segments and sees the same bytes", importer),
    ("mapping: 4 KiB pages only where the address is not congruent", incongruent),
    ("mapping: private, over-long and out-of-range mappings are refused", refused_mappings),
    ("mapping: a part unmapped splits nothing but the mapping", partial_unmap),
    ("mapping: O_DIRECT to and from the disk goes straight through it", o_direct),
    ("mapping: in fragmented memory the reserve still serves, and the rest is refused as the pool's want", in_pieces),
];

pub fn device() -> Device {
    Device::open().expect("the device opens")
}

pub fn buffer(chunks: usize) -> (Buffer, Mapping) {
    let buffer = device().alloc(&Request::new((chunks * CHUNK) as u64)).expect("memory");
    let mapping = buffer.map(Access::ReadWrite).expect("a mapping");
    (buffer, mapping)
}

#[allow(clippy::mut_from_ref)] // memory that other processes and devices write too: the tests take turns by hand
pub fn words(mapping: &Mapping) -> &mut [u64] {
    // SAFETY: as long as the mapping, and tests do not use two slices at once.
    unsafe { std::slice::from_raw_parts_mut(mapping.as_ptr().cast(), mapping.len() / 8) }
}

/// Different in every word, and its sum is known.
pub fn pattern(words: &mut [u64]) -> u64 {
    let mut sum = 0u64;
    for (index, word) in words.iter_mut().enumerate() {
        *word = (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        sum = sum.wrapping_add(*word);
    }
    sum
}

fn zero_and_huge() {
    let (buffer, mapping) = buffer(8);
    assert_eq!(mapping.as_ptr() as usize % CHUNK, 0);
    assert!(words(&mapping).iter().all(|word| *word == 0));
    assert_eq!(smaps(mapping.as_ptr(), "FilePmdMapped:"), buffer.bytes());
    assert_eq!(smaps(mapping.as_ptr(), "Rss:"), buffer.bytes());
}

fn long_term_pin() {
    let (buffer, mapping) = buffer(8);
    words(&mapping)[0] = 42;
    let before = peer::pinned_bytes();
    let peer = Peer::open();
    let pin = peer.pin(mapping.as_ptr(), mapping.len(), true).expect("FOLL_WRITE | FOLL_LONGTERM");
    assert_eq!((pin.huge, pin.first), (8, 42));
    assert_eq!(peer::pinned_bytes() - before, buffer.bytes());
    peer.unpin();
    let pin = peer.pin_as_nvidia(mapping.as_ptr(), mapping.len()).expect("the same under the lock");
    assert_eq!((pin.huge, pin.first), (8, 42));
    peer.unpin();
    assert_eq!(peer::pinned_bytes(), before);
    // Not touched before: the pin itself faults it in, as a registration does.
    let fresh = buffer.map(Access::ReadWrite).expect("a mapping");
    assert_eq!(peer.pin(fresh.as_ptr(), fresh.len(), true).expect("a pin that faults").huge, 8);
    assert_eq!(smaps(fresh.as_ptr(), "FilePmdMapped:"), buffer.bytes());
}

fn importer() {
    let (buffer, mapping) = buffer(8);
    let sum = pattern(words(&mapping));
    let peer = Peer::open();
    let seen = peer.import(buffer.as_fd(), peer::BIDIRECTIONAL, 77).expect("an import");
    assert_eq!((seen.huge_segments, seen.bytes), (seen.segments, buffer.bytes()));
    assert_eq!(seen.sum, sum);
    assert_eq!(words(&mapping)[0], 77, "what the importer wrote");
    peer.release();
}

fn incongruent() {
    let (buffer, _mapping) = buffer(2);
    let (_other, room) = self::buffer(4);
    let address = room.as_ptr().wrapping_add(4096).cast();
    // SAFETY: inside a mapping that is used for nothing else.
    let refused = unsafe { buffer.map_fixed(address, 0, CHUNK, Access::ReadWrite) };
    assert!(matches!(refused, Err(greenboost_kmod::Error::Incongruent)));
    // What the helper prevents: the kernel itself allows it, in small pages.
    // SAFETY: as above.
    let got = unsafe { raw_map(address, CHUNK, libc::MAP_SHARED | libc::MAP_FIXED, &buffer, 0) }.expect("a mapping");
    // SAFETY: just mapped.
    unsafe { got.cast::<u8>().write(1) };
    assert_eq!(smaps(got.cast(), "FilePmdMapped:"), 0);
    // A congruent part in the middle is mapped huge.
    let inside = room.as_ptr().wrapping_add(2 * CHUNK).cast();
    // SAFETY: as above.
    unsafe { buffer.map_fixed(inside, CHUNK as u64, CHUNK, Access::ReadWrite) }.expect("congruent");
    // SAFETY: just mapped.
    unsafe { inside.cast::<u8>().write(1) };
    assert_eq!(smaps(inside.cast(), "FilePmdMapped:"), CHUNK as u64);
}

unsafe fn raw_map(
    at: *mut libc::c_void,
    len: usize,
    flags: i32,
    buffer: &Buffer,
    offset: i64,
) -> Result<*mut libc::c_void, i32> {
    let fd = buffer.as_fd().as_raw_fd();
    // SAFETY: the caller's.
    let got = unsafe { libc::mmap(at, len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset) };
    if got == libc::MAP_FAILED { Err(errno()) } else { Ok(got) }
}

fn refused_mappings() {
    let (buffer, mapping) = buffer(2);
    let map = |len, flags, offset| {
        // SAFETY: a new mapping, wherever there is room.
        unsafe { raw_map(std::ptr::null_mut(), len, flags, &buffer, offset) }
    };
    assert_eq!(map(CHUNK, libc::MAP_PRIVATE, 0), Err(libc::EINVAL), "private");
    assert_eq!(map(3 * CHUNK, libc::MAP_SHARED, 0), Err(libc::EINVAL), "too long");
    assert_eq!(map(4096, libc::MAP_SHARED, 2 * CHUNK as i64), Err(libc::EINVAL), "behind the end");
    assert_eq!(map(CHUNK, libc::MAP_SHARED, i64::MAX & !4095), Err(libc::EINVAL), "far behind the end");
    // SAFETY: our mapping, which stays as it is.
    let grown =
        unsafe { libc::mremap(mapping.as_ptr().cast(), mapping.len(), 2 * mapping.len(), libc::MREMAP_MAYMOVE) };
    assert_eq!((grown, errno()), (libc::MAP_FAILED, libc::EFAULT), "growing");
}

fn partial_unmap() {
    let (buffer, mapping) = buffer(4);
    let sum = pattern(words(&mapping));
    // SAFETY: a page in the middle of a chunk, and nothing looks there before it is mapped again.
    unsafe {
        let hole = mapping.as_ptr().add(CHUNK + 40960).cast();
        assert_eq!(libc::munmap(hole, 4096), 0);
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        raw_map(hole, 4096, flags, &buffer, CHUNK as i64 + 40960).expect("the hole is filled");
    }
    let again: u64 = words(&mapping).iter().fold(0, |sum, word| sum.wrapping_add(*word));
    assert_eq!(again, sum);
    let whole = buffer.map(Access::ReadWrite).expect("a mapping");
    let third: u64 = words(&whole).iter().fold(0, |sum, word| sum.wrapping_add(*word));
    assert_eq!(third, sum);
    assert_eq!(smaps(whole.as_ptr(), "FilePmdMapped:"), buffer.bytes(), "the pages are whole");
}

fn o_direct() {
    let path = format!("{SPILL}/direct");
    let (buffer, mapping) = buffer(4);
    let sum = pattern(words(&mapping));
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT).open(&path);
    let file = file.expect("O_DIRECT on the disk");
    // SAFETY: the mapping's bytes; the disk reads them while nobody writes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(mapping.as_ptr(), mapping.len()) };
    file.write_all_at(bytes, 0).expect("written");
    bytes.fill(0);
    file.read_exact_at(bytes, 0).expect("read");
    assert_eq!(words(&mapping).iter().fold(0u64, |sum, word| sum.wrapping_add(*word)), sum);
    let peer = Peer::open().import(buffer.as_fd(), peer::TO_DEVICE, 0).expect("an import");
    assert_eq!(peer.sum, sum, "the disk wrote where the device reads");
    drop(file);
    fs::remove_file(path).expect("removed");
}

/// With the machine's free memory in pieces: what the reserve is for.
fn in_pieces() {
    let marks = Marks::new(0, 0);
    set("reserve_bytes", (4 * CHUNK).to_string());
    let is_full = || value("reserve_ready_bytes") == 4 * CHUNK as u64;
    eventually("the reserve is full", is_full);
    let device = device();
    // While memory is being cut, whatever else runs may bring the kernel to the point of killing somebody, and then the
    // reserve goes, as it should. That is another test's matter: again.
    let peer = (0..5).find_map(|_| {
        eventually("the reserve is full", is_full);
        let peer = Peer::open();
        peer.fragment().expect("the machine's memory is cut in pieces");
        is_full().then_some(peer)
    });
    let peer = peer.expect("once in five times the reserve is there");
    let ready = device.alloc(&Request::new(4 * CHUNK as u64)).expect("the reserve does not care");
    assert_eq!(ready.ready_bytes(), ready.bytes());
    // More than moving what can be moved could put together again. There is memory for it, in smaller pages.
    let refused = device.alloc(&Request::new(96 * CHUNK as u64));
    assert!(matches!(refused, Err(greenboost_kmod::Error::PoolFull)), "another backing may serve: {refused:?}");
    drop((marks, peer, ready));
    set("reserve_bytes", "0");
}
