//! What it costs, next to what else one could do. An emulated processor says nothing in absolute terms; ratios in one
//! run do. `cargo xtask bench pool` asks for more rounds of more memory, and makes a table of the samples.

use crate::machine::{Marks, counter, eventually, option, set, value};
use crate::mapping::device;
use crate::peer::{self, Peer};
use crate::test::Test;
use greenboost_kmod::{Access, Buffer, CHUNK, Mapping, Request};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::time::Instant;

pub const TESTS: &[Test] = &[("figures: the reserve, fresh pages, memfd, hugetlb, pins", figures)];

const SHMEM_HUGE: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
const HUGETLB: &str = "/proc/sys/vm/nr_hugepages";
/// Pins of each kind in a round, in alternation.
const PINS: usize = 6;

/// Milliseconds by what was timed, one entry a round.
type Samples = BTreeMap<&'static str, Vec<f64>>;

fn figures() {
    let number = |name, otherwise| option(name).and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let size = number("gb.mib", 512usize) << 20;
    let _marks = Marks::new(1 << 20, 1 << 20);
    let mut samples = Samples::new();
    for round in 0..number("gb.rounds", 1) {
        println!("gb-round {round}");
        let mut ms = Times(&mut samples);
        let pool = pool(&mut ms, size);
        let huge = hugetlb(&mut ms, size);
        pins(&mut ms, size, [("pool.pin", pool.1.as_ptr()), ("hugetlb.pin", huge.0.cast())], Peer::pin_as_nvidia);
        let fast = |peer: &Peer, at, len| peer.pin(at, len, true);
        pins(&mut ms, size, [("pool.pin_fast", pool.1.as_ptr()), ("hugetlb.pin_fast", huge.0.cast())], fast);
        drop((pool, huge));
        fs::write(HUGETLB, "0").expect("hugetlb");
        fresh(&mut ms, size);
        ms.time("memfd.present_locked", || locked(size, 0));
        ms.time("memfd.pinned", || {
            let mapping = shared_mapping(size, 0).expect("a memfd");
            (pinned(mapping.0.cast(), size), mapping)
        });
        if fs::write(SHMEM_HUGE, "always").is_ok() {
            ms.time("memfd_thp.present_locked", || locked(size, 0));
            fs::write(SHMEM_HUGE, "never").expect("as it was");
        }
    }
    for (name, values) in &samples {
        let values: Vec<_> = values.iter().map(|value| format!("{value:.4}")).collect();
        println!("gb-figure {name} {}", values.join(" "));
    }
    let best = |name| samples[name].iter().copied().fold(f64::INFINITY, f64::min);
    let ratio = best("memfd.present_locked") / best("pool.present");
    assert!(ratio > 20.0, "the reserve is only {ratio:.1} times faster than memfd, prefault and mlock");
}

/// Where times go.
struct Times<'a>(&'a mut Samples);

impl Times<'_> {
    fn add(&mut self, name: &'static str, value: f64) {
        self.0.entry(name).or_default().push(value);
    }

    fn time<T>(&mut self, name: &'static str, body: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let value = body();
        self.add(name, start.elapsed().as_secs_f64() * 1e3);
        value
    }
}

/// Mapped, and every page in the page table: what a program has after prefaulting anything else.
fn present(buffer: &Buffer) -> Mapping {
    let mapping = buffer.map(Access::ReadWrite).expect("a mapping");
    populate(mapping.as_ptr().cast(), mapping.len());
    mapping
}

/// Pinned without having been touched, as a program registers it.
fn pinned(at: *const u8, len: usize) -> Peer {
    let peer = Peer::open();
    peer.pin_as_nvidia(at, len).expect("a pin");
    peer
}

/// A buffer out of pages that were ready, and its mapping.
fn pool(ms: &mut Times<'_>, size: usize) -> (Buffer, Mapping) {
    let device = device();
    let request = Request::new(size as u64);
    let fill = || {
        set("reserve_bytes", size);
        eventually("the reserve is full", || value("reserve_ready_bytes") == size as u64);
    };
    fill();
    ms.time("pool.pinned", || {
        let ready = device.alloc(&request).expect("memory");
        let mapping = ready.map(Access::ReadWrite).expect("a mapping");
        (pinned(mapping.as_ptr(), size), mapping)
    });
    fill();
    let start = Instant::now();
    let ready = ms.time("pool.take", || device.alloc(&request).expect("memory"));
    let mapping = present(&ready);
    ms.add("pool.present", start.elapsed().as_secs_f64() * 1e3);
    assert_eq!(ready.ready_bytes(), size as u64);
    set("reserve_bytes", 0);
    let seen = Peer::open().import(ready.as_fd(), peer::BIDIRECTIONAL, 0).expect("an import");
    assert_eq!((seen.huge_segments as usize, seen.bytes as usize), (size / CHUNK, size));
    ms.add("pool.segments", seen.segments.into());
    ms.add("pool.segments_2mib", seen.huge_segments.into());
    (ready, mapping)
}

/// What the pool costs where nothing is ready.
fn fresh(ms: &mut Times<'_>, size: usize) {
    let device = device();
    let fresh = ms.time("fresh.present", || {
        let fresh = device.alloc(&Request::new(size as u64)).expect("memory");
        (present(&fresh), fresh)
    });
    assert_eq!(fresh.1.ready_bytes(), 0);
}

/// Pins memory that is present, the one and the other by turns, so that whatever else happens meets both.
fn pins(
    ms: &mut Times<'_>,
    len: usize,
    mappings: [(&'static str, *const u8); 2],
    pin: impl Fn(&Peer, *const u8, usize) -> Result<peer::Pin, i32>,
) {
    let peer = Peer::open();
    for _ in 0..PINS {
        for (name, at) in mappings {
            let pin = pin(&peer, at, len).expect("a pin");
            assert_eq!(pin.huge as usize, len / CHUNK);
            ms.add(name, pin.ns as f64 / 1e6);
            peer.unpin();
        }
    }
}

/// The rival with pages as large, which are set aside but not zeroed.
fn hugetlb(ms: &mut Times<'_>, size: usize) -> Shared {
    fs::write("/proc/sys/vm/drop_caches", "3").expect("sysctl");
    fs::write("/proc/sys/vm/compact_memory", "1").expect("sysctl");
    fs::write(HUGETLB, (size / CHUNK).to_string()).expect("hugetlb");
    assert_eq!(counter("/proc/meminfo", "HugePages_Total") as usize * CHUNK, size, "hugetlb pages");
    ms.time("hugetlb.pinned", || {
        let mapping = shared_mapping(size, libc::MFD_HUGETLB).expect("hugetlb pages");
        (pinned(mapping.0.cast(), size), mapping)
    });
    ms.time("hugetlb.present", || {
        let mapping = shared_mapping(size, libc::MFD_HUGETLB).expect("hugetlb pages");
        populate(mapping.0, size);
        mapping
    })
}

/// Shared memory that is unmapped when dropped.
struct Shared(*mut libc::c_void, usize);

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: our own mapping.
        unsafe { libc::munmap(self.0, self.1) };
    }
}

fn shared_mapping(len: usize, flags: u32) -> Option<Shared> {
    // SAFETY: a new file and a new mapping of it.
    unsafe {
        let fd = libc::memfd_create(c"figures".as_ptr(), flags);
        if fd < 0 || libc::ftruncate(fd, len as i64) != 0 {
            return None;
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let got = libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, fd, 0);
        libc::close(fd);
        (got != libc::MAP_FAILED).then_some(Shared(got, len))
    }
}

/// memfd, prefault, mlock.
fn locked(len: usize, flags: u32) -> Shared {
    let mapping = shared_mapping(len, flags).expect("a memfd");
    populate(mapping.0, len);
    // SAFETY: the mapping just made.
    assert_eq!(unsafe { libc::mlock(mapping.0, len) }, 0);
    mapping
}

/// Every page present.
fn populate(address: *mut libc::c_void, len: usize) {
    // SAFETY: changes no byte.
    assert_eq!(unsafe { libc::madvise(address, len, libc::MADV_POPULATE_WRITE) }, 0);
}
