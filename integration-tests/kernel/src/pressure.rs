//! The watchdog: a memory hog and a filling disk each drive ok, low, critical, ok; whoever listens hears it.

use crate::Test;
use crate::machine::{SPILL, Setting, counter, eventually, oom_kills, set, shown, value};
use crate::mapping::{buffer, device, pattern, words};
use crate::process::Child;
use greenboost_kmod::{CHUNK, Causes, Device, Error, Key, Level, Request, abi};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("pressure: a memory hog drives ok, low, critical, ok", hog),
    ("pressure: a filling disk does so for the file that spills there", filling_disk),
    ("pressure: a spill folder that is gone is critical", spill_gone),
    ("pressure: a nearly full pool is low, not critical", full_pool),
    ("pressure: a level is told once, also to who comes late", told_once),
    ("pressure: listeners that close while being told are no trouble", closing_listeners),
];

fn eventfd() -> OwnedFd {
    // SAFETY: a new descriptor.
    unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)) }
}

/// How often it was signalled since last asked.
fn signals(eventfd: &OwnedFd) -> u64 {
    let mut count = 0u64;
    // SAFETY: eight bytes, as eventfd wants.
    let got = unsafe { libc::read(eventfd.as_raw_fd(), (&raw mut count).cast(), 8) };
    if got == 8 { count } else { 0 }
}

/// Waits for a level by listening, not by looking.
#[track_caller]
fn hear(device: &Device, level: Level, seconds: u64) -> Causes {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds) {
        if let Some(event) = device.next_event(Some(Duration::from_millis(500))).expect("an answer")
            && event.level == level
        {
            return event.causes;
        }
    }
    panic!("no event says {level:?} within {seconds} s; the level is {}", shown("level"));
}

fn hog() {
    let available = value("available");
    let low = Setting::new("low_mark", available - (640 << 20));
    let critical = Setting::new("critical_mark", available - (960 << 20));
    let kills = oom_kills();
    let (device, eventfd) = (device(), eventfd());
    device.set_eventfd(Some(eventfd.as_fd())).expect("an eventfd");
    let (mine, mapping) = buffer(8);
    let sum = pattern(words(&mapping));
    let (shared, unused) = buffer(4);
    drop(unused);
    device.seal(&shared).expect("sealing");
    device.publish(&shared, &Key::default(), None).expect("publishing");
    drop(shared);
    set("reserve", 32 << 20);
    eventually("the reserve is full", || value("reserve_ready") == 32 << 20);
    let counts = || ["became_low", "became_critical", "became_ok"].map(value);
    let before = counts();
    assert_eq!(signals(&eventfd), 0);

    let mut hog = Child::run(|parent| {
        let mut held = Vec::new();
        for mark in ["low_mark", "critical_mark"] {
            while value("available") + (24 << 20) > value(mark) {
                held.push(vec![1u8; 8 << 20]);
                std::thread::sleep(Duration::from_millis(20));
            }
            parent.reached();
            parent.wait();
        }
    });
    hog.until_reached();
    let causes = hear(&device, Level::Low, 5);
    assert!(causes.0 & (abi::CAUSE_MEMORY | abi::CAUSE_DECLINE) != 0, "{:?}", causes.words());
    assert!(signals(&eventfd) >= 1);
    eventually("the reserve went", || value("reserve_ready") == 0);
    eventually("the unused object went", || value("cache_used") == 0);
    drop(device.alloc(&Request::new(CHUNK as u64, "small")).expect("low refuses nothing"));

    hog.go_on();
    hog.until_reached();
    hear(&device, Level::Critical, 5);
    assert!(signals(&eventfd) >= 1);
    let refused = value("refused");
    assert!(matches!(device.alloc(&Request::new(CHUNK as u64, "small")), Err(Error::Pressure)));
    assert_eq!(value("refused"), refused + 1);
    assert_eq!(words(&mapping).iter().fold(0u64, |sum, word| sum.wrapping_add(*word)), sum, "in use, so untouched");

    hog.go_on();
    assert!(hog.ended_well());
    hear(&device, Level::Ok, 10);
    assert!(signals(&eventfd) >= 1);
    drop(device.alloc(&Request::new(CHUNK as u64, "small")).expect("it works again"));
    eventually("the reserve is back", || value("reserve_ready") == 32 << 20);
    let after = counts();
    assert!(after.iter().zip(before).all(|(after, before)| *after > before), "{before:?} {after:?}");
    assert_eq!(oom_kills(), kills);
    set("reserve", 0);
    drop((mine, low, critical));
}

fn filling_disk() {
    let (device, other, eventfd) = (device(), device(), eventfd());
    let dir = File::open(SPILL).expect("the disk is mounted");
    device.set_eventfd(Some(eventfd.as_fd())).expect("an eventfd");
    device.watch_spill(dir.as_fd(), 96 << 20, 32 << 20).expect("a folder");
    eventually("its free space is known", || device.info().expect("info").spill_free > 96 << 20);
    assert_eq!(device.info().expect("info").level(), Level::Ok);

    let path = format!("{SPILL}/filling");
    let file = File::create(&path).expect("a file");
    let (block, mut written) = (vec![7u8; 1 << 20], 0);
    let mut fill_until = |free: u64| {
        while device.info().expect("info").spill_free > free {
            file.write_all_at(&block, written).expect("there is room");
            written += block.len() as u64;
            if written % (8 << 20) == 0 {
                file.sync_data().expect("synced");
                std::thread::sleep(Duration::from_millis(120));
            }
        }
    };
    fill_until(90 << 20);
    assert_eq!(hear(&device, Level::Low, 5).0, abi::CAUSE_SPILL);
    fill_until(28 << 20);
    assert_eq!(hear(&device, Level::Critical, 5).0, abi::CAUSE_SPILL);
    assert!(signals(&eventfd) >= 2);
    assert!(matches!(device.alloc(&Request::new(1, "spill")), Err(Error::Pressure)));
    assert_eq!(shown("level"), "ok", "one program's disk is not everybody's");
    drop(other.alloc(&Request::new(1, "other")).expect("nor is its refusal"));
    fs::remove_file(&path).expect("removed");
    drop(file);
    assert_eq!(hear(&device, Level::Ok, 10).0, 0);
    drop(device.alloc(&Request::new(1, "spill")).expect("it works again"));
    device.forget_spill().expect("forgotten");
    assert_eq!(device.info().expect("info").spill_free, 0);
}

fn spill_gone() {
    let device = device();
    let path = format!("{SPILL}/folder");
    fs::create_dir(&path).expect("a folder");
    device.watch_spill(File::open(&path).expect("open").as_fd(), 1, 1).expect("a folder");
    eventually("its free space is known", || device.info().expect("info").spill_free > 0);
    fs::remove_dir(&path).expect("removed");
    assert_eq!(hear(&device, Level::Critical, 3).0, abi::CAUSE_SPILL_GONE);
    assert!(matches!(device.alloc(&Request::new(1, "spill")), Err(Error::Pressure)));
    device.forget_spill().expect("forgotten");
    hear(&device, Level::Ok, 3);
}

fn full_pool() {
    let limit = Setting::new("pool_limit", 32 * CHUNK as u64);
    let device = device();
    let held = device.alloc(&Request::new(31 * CHUNK as u64, "full")).expect("memory");
    assert_eq!(hear(&device, Level::Low, 3).0, abi::CAUSE_POOL);
    drop(device.alloc(&Request::new(1, "full")).expect("the limit is not reached"));
    drop(held);
    hear(&device, Level::Ok, 5);
    drop(limit);
}

fn told_once() {
    let early = device();
    let low = Setting::new("low_mark", value("available") + (512 << 20));
    hear(&early, Level::Low, 3);
    assert!(early.next_event(Some(Duration::from_millis(300))).expect("an answer").is_none(), "told already");
    let (late, eventfd) = (device(), eventfd());
    assert_eq!(late.next_event(None).expect("an answer").expect("news to it").level, Level::Low);
    late.set_eventfd(Some(eventfd.as_fd())).expect("an eventfd");
    assert_eq!(signals(&eventfd), 1, "the level is news for a new eventfd");
    late.set_eventfd(None).expect("no eventfd");
    drop(low);
    hear(&early, Level::Ok, 5);
    hear(&late, Level::Ok, 5);
    assert_eq!(signals(&eventfd), 0, "it was taken back");
}

fn closing_listeners() {
    let end = Instant::now() + Duration::from_secs(2);
    let listeners: Vec<_> = (0..3)
        .map(|_| {
            Child::run(move |_| {
                while Instant::now() < end {
                    let (device, eventfd) = (device(), eventfd());
                    device.set_eventfd(Some(eventfd.as_fd())).expect("an eventfd");
                    let dir = File::open("/tmp").expect("a folder");
                    device.watch_spill(dir.as_fd(), 1 << 60, 1 << 59).expect("a folder");
                    drop(eventfd);
                    let _ = device.next_event(Some(Duration::from_millis(5)));
                }
            })
        })
        .collect();
    let available = counter("/proc/meminfo", "MemAvailable") * 1024;
    while Instant::now() < end {
        let low = Setting::new("low_mark", available * 2);
        std::thread::sleep(Duration::from_millis(120));
        drop(low);
        std::thread::sleep(Duration::from_millis(120));
    }
    for listener in listeners {
        assert!(listener.ended_well());
    }
}
