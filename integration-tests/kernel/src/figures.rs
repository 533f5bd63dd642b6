//! What it costs, next to what else one could do. An emulated processor says nothing in absolute terms; ratios in one
//! run do.

use crate::Test;
use crate::machine::{Setting, counter, eventually, set, value};
use crate::mapping::device;
use crate::peer::Peer;
use greenboost_kmod::{Access, CHUNK, Request};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[("figures: the reserve, fresh pages, memfd, pins", figures)];

const SIZE: usize = 512 << 20;

fn timed<T>(body: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let value = body();
    (value, start.elapsed())
}

fn figures() {
    let _limits = [Setting::new("low_mark", 1 << 20), Setting::new("critical_mark", 1 << 20)];
    let device = device();
    set("reserve", SIZE);
    eventually("the reserve is full", 60, || value("reserve_ready") == SIZE as u64);
    let request = Request::new(SIZE as u64, "figures");
    let (ready, from_reserve) = timed(|| device.alloc(&request).expect("memory"));
    assert_eq!(ready.ready_bytes(), SIZE as u64);
    let (mapping, mapped) = timed(|| ready.map(Access::ReadWrite).expect("a mapping"));
    let peer = Peer::open();
    populate(mapping.as_ptr().cast(), SIZE);
    let (pin, pinned) = timed(|| peer.pin(mapping.as_ptr(), mapping.len(), true).expect("a pin"));
    assert_eq!(pin.huge as usize, SIZE / CHUNK);
    let segments = peer.import(ready.as_fd(), crate::peer::BIDIRECTIONAL, 0).expect("an import");
    assert_eq!((segments.huge_segments as usize, segments.segments as usize), (SIZE / CHUNK, SIZE / CHUNK));
    drop(peer);
    set("reserve", 0);
    drop((mapping, ready));
    let (fresh, from_buddy) = timed(|| device.alloc(&request).expect("memory"));
    assert_eq!(fresh.ready_bytes(), 0);
    drop(fresh);
    let (plain, memfd) = timed(|| locked_memfd(SIZE));
    drop(plain);
    let (huge, hugetlb) = hugetlb_pin();
    let ratio = memfd.as_secs_f64() / from_reserve.as_secs_f64();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("gb-figure size_mib {}", SIZE >> 20);
    println!("gb-figure alloc_from_reserve_ms {:.3}", ms(from_reserve));
    println!("gb-figure alloc_fresh_ms {:.1}", ms(from_buddy));
    println!("gb-figure memfd_prefault_mlock_ms {:.1}", ms(memfd));
    println!("gb-figure reserve_against_memfd {ratio:.0}");
    println!("gb-figure map_ms {:.3}", ms(mapped));
    println!("gb-figure pin_ms {:.2}", ms(pinned));
    println!("gb-figure hugetlb_pin_ms {:.2} of {} MiB", ms(hugetlb), huge >> 20);
    let pin_ratio = pinned.as_secs_f64() / SIZE as f64 / (hugetlb.as_secs_f64() / huge as f64);
    println!("gb-figure pin_against_hugetlb {pin_ratio:.2}");
    assert!(ratio > 20.0, "the reserve is only {ratio:.1} times faster than memfd, prefault and mlock");
}

/// Anonymous shared memory, present and locked. Unmapped when dropped.
struct Locked(*mut libc::c_void, usize);

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: our own mapping.
        unsafe { libc::munmap(self.0, self.1) };
    }
}

fn shared_mapping(len: usize, flags: u32) -> Option<Locked> {
    // SAFETY: a new file and a new mapping of it.
    unsafe {
        let fd = libc::memfd_create(c"figures".as_ptr(), flags);
        if fd < 0 || libc::ftruncate(fd, len as i64) != 0 {
            return None;
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let got = libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, fd, 0);
        libc::close(fd);
        (got != libc::MAP_FAILED).then_some(Locked(got, len))
    }
}

fn locked_memfd(len: usize) -> Locked {
    let mapping = shared_mapping(len, 0).expect("a memfd");
    populate(mapping.0, len);
    // SAFETY: the mapping just made.
    assert_eq!(unsafe { libc::mlock(mapping.0, len) }, 0);
    mapping
}

/// Every page present, so that what comes next is timed alone.
fn populate(address: *mut libc::c_void, len: usize) {
    // SAFETY: changes no byte.
    assert_eq!(unsafe { libc::madvise(address, len, libc::MADV_POPULATE_WRITE) }, 0);
}

/// The same pin on hugetlb pages.
fn hugetlb_pin() -> (usize, Duration) {
    std::fs::write("/proc/sys/vm/nr_hugepages", (SIZE / CHUNK).to_string()).expect("hugetlb");
    let len = counter("/proc/meminfo", "HugePages_Total") as usize * CHUNK;
    let mapping = shared_mapping(len, libc::MFD_HUGETLB).expect("hugetlb pages");
    populate(mapping.0, len);
    let peer = Peer::open();
    let (_, first) = timed(|| peer.pin(mapping.0.cast(), len, true).expect("a pin"));
    drop((peer, mapping));
    std::fs::write("/proc/sys/vm/nr_hugepages", "0").expect("hugetlb");
    (len, first)
}
