//! Sealed buffers under the name of their content, which outlive a process and are shared by the next.

use crate::Test;
use crate::machine::{Marks, Setting, between_ticks, eventually, reload, value};
use crate::mapping::{buffer, device, pattern, words};
use crate::peer::{self, Peer};
use crate::process::elsewhere;
use greenboost_kmod::{Access, Buffer, CHUNK, Error, Key, Request};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("sharing: nothing seals that something could still write", seal_refused),
    ("sharing: after sealing nothing can write, everything can read", sealed),
    ("sharing: the next process finds it, after the first has died", outlives),
    ("sharing: it is kept for its time after its last use", time_to_live),
    ("sharing: asking about it is no use of it", asked_about),
    ("sharing: unused objects keep within the cache budget, oldest out first", cache_budget),
    ("sharing: unused objects make room for an allocation", makes_room),
    ("sharing: where memory is short, unused objects make room", makes_room_in_memory),
    ("sharing: at low unused objects go, used ones stay", goes_when_low),
];

const C: u64 = CHUNK as u64;

fn key(number: u64) -> Key {
    Key { ino: number, bytes: C, ..Key::default() }
}

fn errno<T: std::fmt::Debug>(result: greenboost_kmod::Result<T>) -> Option<i32> {
    result.expect_err("it is refused").errno()
}

/// Publishes so many chunks of a pattern, and gives its sum.
fn publish(number: u64, chunks: usize, ttl: Option<Duration>) -> u64 {
    let (buffer, mapping) = buffer(chunks);
    let sum = pattern(words(&mapping));
    drop(mapping);
    let device = device();
    device.seal(&buffer).expect("sealing");
    device.publish(&buffer, &key(number), ttl).expect("publishing");
    sum
}

fn published(number: u64) -> Option<Buffer> {
    device().open_shared(&key(number)).expect("an answer")
}

fn seal_refused() {
    let device = device();
    let (buffer, mapping) = buffer(2);
    let seal = || errno(device.seal(&buffer));
    assert_eq!(seal(), Some(libc::EBUSY), "a writable mapping");
    let peer = Peer::open();
    peer.pin(mapping.as_ptr(), mapping.len(), true).expect("a pin");
    drop(mapping);
    assert_eq!(seal(), Some(libc::EBUSY), "a pin, though the mapping is gone");
    peer.unpin();
    let reading = buffer.map(Access::Read).expect("a mapping");
    assert_eq!(seal(), Some(libc::EBUSY), "a mapping that mprotect could make writable");
    drop(reading);
    peer.import(buffer.as_fd(), peer::BIDIRECTIONAL, 0).expect("an import");
    assert_eq!(seal(), Some(libc::EBUSY), "an importer");
    peer.release();
    device.seal(&buffer).expect("nothing could write any more");
}

fn sealed() {
    let device = device();
    let (buffer, mapping) = buffer(2);
    let sum = pattern(words(&mapping));
    drop(mapping);
    device.seal(&buffer).expect("sealing");
    assert_eq!(errno(buffer.map(Access::ReadWrite)), Some(libc::EPERM));
    let mapping = buffer.map(Access::Read).expect("reading is allowed");
    assert_eq!(words(&mapping).iter().fold(0u64, |sum, word| sum.wrapping_add(*word)), sum);
    // SAFETY: it must fail.
    let opened = unsafe { libc::mprotect(mapping.as_ptr().cast(), mapping.len(), libc::PROT_READ | libc::PROT_WRITE) };
    assert_eq!((opened, crate::machine::errno()), (-1, libc::EACCES));
    let peer = Peer::open();
    assert_eq!(peer.pin(mapping.as_ptr(), mapping.len(), true).err(), Some(libc::EFAULT), "pinned for writing");
    let pin = peer.pin(mapping.as_ptr(), mapping.len(), false).expect("pinned for reading");
    assert_eq!(pin.huge, 2);
    assert_eq!(peer.import(buffer.as_fd(), peer::BIDIRECTIONAL, 0).err(), Some(libc::EPERM));
    assert_eq!(peer.import(buffer.as_fd(), peer::TO_DEVICE, 0).expect("for reading").sum, sum);
}

fn outlives() {
    elsewhere(|| {
        publish(1, 4, None);
    });
    assert_eq!((value("pool_used"), value("cache_used")), (4 * C, 4 * C));
    elsewhere(|| {
        let shared = published(1).expect("the dead process left it");
        assert_eq!(value("cache_used"), 0, "it is in use");
        assert_eq!(shared.bytes(), 4 * C);
        assert_eq!(errno(shared.map(Access::ReadWrite)), Some(libc::EACCES));
        let mapping = shared.map(Access::Read).expect("a mapping");
        let mut expected = vec![0; mapping.len() / 8];
        pattern(&mut expected);
        assert_eq!(words(&mapping), expected);
        assert_eq!(crate::machine::smaps(mapping.as_ptr(), "FilePmdMapped:"), 4 * C);
        let pin = Peer::open().pin(mapping.as_ptr(), mapping.len(), false).expect("pinned for reading");
        assert_eq!(pin.huge, 4);
        // SAFETY: no memory involved.
        assert_eq!(unsafe { libc::fcntl(shared.as_fd().as_raw_fd(), libc::F_GETFD) }, libc::FD_CLOEXEC);
        let state = device().query(shared.id()).expect("its state");
        assert!(state.sealed && state.shared);
    });
    assert!(published(2).is_none(), "another key");
    let held = published(1).expect("still there");
    device().withdraw(&key(1)).expect("ours");
    assert!(published(1).is_none());
    assert_eq!(value("pool_used"), 4 * C, "who has it keeps it");
    drop(held);
    assert_eq!(value("pool_used"), 0);
}

fn time_to_live() {
    publish(1, 1, Some(Duration::from_secs(2)));
    publish(2, 1, Some(Duration::from_secs(3600)));
    let held = published(1).expect("just published");
    std::thread::sleep(Duration::from_millis(2600));
    drop(held);
    assert!(published(1).is_some(), "time runs from the last use");
    eventually("its time is over", || value("cache_used") == C);
    assert!(published(1).is_none());
    device().withdraw(&key(2)).expect("it has time left");
}

/// With a watchdog that looks often: each look is a chance to find somebody asking.
fn asked_about() {
    reload("watchdog_ms=10");
    let (buffer, mapping) = buffer(1);
    drop(mapping);
    let (device, id) = (device(), buffer.id());
    device.seal(&buffer).expect("sealing");
    device.publish(&buffer, &key(1), Some(Duration::from_secs(6))).expect("publishing");
    drop(buffer);
    let there = || device.query(id).is_ok();
    let asking: Vec<_> = (0..3)
        .map(|_| {
            crate::process::Child::run(|_| {
                let device = self::device();
                loop {
                    let _ = device.query(id);
                }
            })
        })
        .collect();
    // Its time, and some more for a watchdog that comes late.
    let start = Instant::now();
    while there() && start.elapsed() < Duration::from_secs(25) {
        std::thread::sleep(Duration::from_millis(50));
    }
    asking.into_iter().for_each(crate::process::Child::kill);
    assert!(!there(), "whoever asks about it keeps it");
    drop(device);
    reload("");
}

/// The level is ok all the time, and what is wanted is more than the marks leave.
fn makes_room_in_memory() {
    between_ticks(|| {
        let device = device();
        for number in 1..4 {
            let buffer = device.alloc(&Request::new(32 * C, "unused")).expect("memory");
            device.seal(&buffer).expect("sealing");
            device.publish(&buffer, &key(number), None).expect("publishing");
        }
        let _used = published(3).expect("just published");
        let room = value("available") - 16 * C;
        let _marks = Marks::new(room, room);
        let refused = device.alloc(&Request::new(128 * C, "room"));
        assert!(matches!(refused, Err(Error::NoMemory)), "not even with all that is unused: {refused:?}");
        assert_eq!(value("cache_used"), 64 * C, "and nothing goes for what cannot be");
        let _held = device.alloc(&Request::new(32 * C, "room")).expect("the oldest unused object makes room");
        assert!(published(1).is_none() && published(2).is_some());
    });
}

fn cache_budget() {
    publish(1, 8, None);
    let held = published(1).expect("just published");
    // Only now: what is larger than the budget would go between the two calls.
    let _limit = Setting::new("cache_limit", 4 * C);
    for number in 2..8 {
        publish(number, 1, None);
    }
    eventually("the cache keeps within its budget", || value("cache_used") == 4 * C);
    let left: Vec<_> = (1..8).filter(|number| published(*number).is_some()).collect();
    assert_eq!(left, [1, 4, 5, 6, 7], "what is used, and the newest");
    drop(held);
    // It is oldest by use; looking for it would make it the newest.
    eventually("what is larger than the budget goes when unused", || value("pool_used") == 4 * C);
    assert!(published(1).is_none());
    for number in 4..8 {
        device().withdraw(&key(number)).expect("still there");
    }
}

fn makes_room() {
    let _limit = Setting::new("pool_limit", 32 * C);
    publish(1, 12, None);
    publish(2, 12, None);
    let _used = published(2).expect("just published");
    let device = device();
    assert!(device.alloc(&Request::new(33 * C, "room")).is_err(), "more than the pool");
    assert_eq!(value("cache_used"), 12 * C, "and nothing goes for what cannot be");
    let held = device.alloc(&Request::new(20 * C, "room")).expect("the unused object makes room");
    assert!(published(1).is_none() && published(2).is_some());
    assert!(device.alloc(&Request::new(12 * C, "room")).is_err(), "the used one does not");
    drop(held);
    device.withdraw(&key(2)).expect("still there");
}

fn goes_when_low() {
    publish(1, 2, None);
    publish(2, 2, None);
    let used = published(2).expect("just published");
    let low = Setting::new("low_mark", value("available") + (512 << 20));
    eventually("the unused object is gone", || published(1).is_none());
    assert!(published(2).is_some());
    drop((low, used));
    let _ = device().withdraw(&key(2));
}
