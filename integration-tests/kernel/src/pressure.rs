//! The watchdog: a memory hog drives ok, low, critical, ok; whoever listens hears it. What a disk does: `spill.rs`.

use crate::Test;
use crate::machine::{Marks, PATIENCE, Setting, counter, eventually, oom_kills, set, shown, value};
use crate::mapping::{buffer, device, pattern, words};
use crate::process::{Child, Count, bind, run_before_all};
use greenboost_kmod::{CHUNK, Causes, Device, Error, Key, Level, Request, abi};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("pressure: a memory hog drives ok, low, critical, ok", hog),
    ("pressure: memory that falls fast is low before it is little", falls_fast),
    ("pressure: a watchdog that comes late does not take a slow fall for a fast one", comes_late),
    ("pressure: the level rises at once, falls late, and a quarter above the mark", hysteresis),
    ("pressure: before the kernel kills anybody, unused objects and the reserve go", out_of_memory),
    ("pressure: a nearly full pool is low, not critical", full_pool),
    ("pressure: a level is told once, also to who comes late", told_once),
    ("pressure: who waits in read or poll is woken", woken),
    ("pressure: who holds what is in a table", clients),
    ("pressure: listeners that close while being told are no trouble", closing_listeners),
];

pub fn eventfd() -> OwnedFd {
    // SAFETY: a new descriptor.
    unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)) }
}

/// How often it was signalled since last asked.
pub fn signals(eventfd: &OwnedFd) -> u64 {
    let mut count = 0u64;
    // SAFETY: eight bytes, as eventfd wants.
    let got = unsafe { libc::read(eventfd.as_raw_fd(), (&raw mut count).cast(), 8) };
    if got == 8 { count } else { 0 }
}

/// Waits for a level by listening, not by looking.
#[track_caller]
pub fn hear(device: &Device, level: Level) -> Causes {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(event) = device.next_event(Some(Duration::from_millis(500))).expect("an answer")
            && event.level == level
        {
            return event.causes;
        }
    }
    panic!("no event says {level:?} within {PATIENCE:?}; the level is {}", shown("level"));
}

fn hog() {
    let available = value("available");
    let marks = Marks::new(available - (640 << 20), available - (960 << 20));
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
                std::thread::sleep(Duration::from_millis(30));
            }
            parent.reached();
            parent.wait();
        }
    });
    hog.until_reached();
    let causes = hear(&device, Level::Low);
    assert!(causes.0 & (abi::CAUSE_MEMORY | abi::CAUSE_DECLINE) != 0, "{:?}", causes.words());
    assert!(signals(&eventfd) >= 1);
    eventually("the reserve went", || value("reserve_ready") == 0);
    eventually("the unused object went", || value("cache_used") == 0);
    drop(device.alloc(&Request::new(CHUNK as u64, "small")).expect("low refuses nothing"));

    hog.go_on();
    hog.until_reached();
    hear(&device, Level::Critical);
    assert!(signals(&eventfd) >= 1);
    let refused = value("refused");
    assert!(matches!(device.alloc(&Request::new(CHUNK as u64, "small")), Err(Error::Pressure)));
    assert_eq!(value("refused"), refused + 1);
    assert_eq!(words(&mapping).iter().fold(0u64, |sum, word| sum.wrapping_add(*word)), sum, "in use, so untouched");

    hog.go_on();
    assert!(hog.ended_well());
    hear(&device, Level::Ok);
    assert!(signals(&eventfd) >= 1);
    drop(device.alloc(&Request::new(CHUNK as u64, "small")).expect("it works again"));
    eventually("the reserve is back", || value("reserve_ready") == 32 << 20);
    let after = counts();
    assert!(after.iter().zip(before).all(|(after, before)| *after > before), "{before:?} {after:?}");
    assert_eq!(oom_kills(), kills);
    set("reserve", 0);
    drop((mine, marks));
}

/// The hog stops above the mark, which is only then put where a second of its speed would have led: nothing but that can
/// have told.
fn falls_fast() {
    let device = device();
    for _ in 0..20 {
        eventually("nothing declines", || value("decline") == 0);
        let stop = Count::new();
        let hog = Child::run(|parent| {
            let mut held = Vec::new();
            while stop.get() == 0 && held.len() < 768 {
                held.push(vec![1u8; 1 << 20]);
            }
            parent.wait();
        });
        eventually("memory falls", || value("decline") > 16 << 20);
        stop.one_more();
        let low = value("available") - value("decline") / 4;
        let marks = Marks::new(low, low / 2);
        let heard = device.next_event(Some(Duration::from_secs(2))).expect("an answer");
        let still = value("available") > low;
        drop((hog, marks));
        if let Some(event) = heard {
            assert_eq!((event.level, event.causes.0, still), (Level::Low, abi::CAUSE_DECLINE, true));
            hear(&device, Level::Ok);
            return;
        }
    }
    panic!("nobody hears of a fast decline");
}

fn comes_late() {
    let watchdog = kernel_thread("greenboost_dog");
    for _ in 0..10 {
        eventually("nothing declines", || value("decline") == 0);
        bind(watchdog, &[0]);
        bind(0, &[1]);
        let busy = Count::new();
        let hindrance = Child::run(|_| {
            bind(0, &[0]);
            run_before_all();
            busy.one_more();
            let start = Instant::now();
            // Linux leaves other threads a twentieth of each second.
            while start.elapsed() < Duration::from_millis(850) {}
            busy.one_more();
        });
        eventually("the watchdog is held up", || busy.get() > 0);
        let start = Instant::now();
        let mut taken = Vec::new();
        while start.elapsed() < Duration::from_millis(400) && taken.len() < 96 {
            taken.push(vec![1u8; 4 << 20]);
        }
        let bytes = (taken.len() as u64) << 22;
        let in_time = busy.get() == 1;
        assert!(hindrance.ended_well());
        let mut fastest = 0;
        while start.elapsed() < Duration::from_millis(1500) {
            fastest = value("decline").max(fastest);
        }
        drop(taken);
        bind(watchdog, &[0, 1]);
        bind(0, &[0, 1]);
        if in_time && fastest > 0 {
            // In truth all that was taken in 0.85 s, of which a first look counts a quarter.
            assert!(fastest < bytes, "{} MiB a second, of {} MiB", fastest >> 20, bytes >> 20);
            return;
        }
    }
    panic!("memory is not taken fast enough here to show it");
}

/// The process of a kernel thread.
fn kernel_thread(name: &str) -> i32 {
    let processes = fs::read_dir("/proc").expect("proc is mounted").flatten();
    let named = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name);
    let found = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(named);
    found.unwrap_or_else(|| panic!("there is no thread {name}"))
}

/// Memory stays as it is: only the marks move.
fn hysteresis() {
    eventually("nothing declines", || value("decline") == 0);
    let (available, critical) = (value("available"), value("critical_mark"));
    let above = Marks::new(available + (256 << 20), critical);
    eventually("the level is low", || shown("level") == "low");
    let within = Marks::new(available - available / 8, critical);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(shown("level"), "low", "it falls at the mark itself");
    let below = Marks::new(available / 2, critical);
    let start = Instant::now();
    eventually("the level is ok", || shown("level") == "ok");
    assert!(start.elapsed() > Duration::from_millis(380), "it falls without waiting: {:?}", start.elapsed());
    // From critical as well, and then it is low only.
    let critical = Marks::new(available * 2, available + (256 << 20));
    eventually("the level is critical", || shown("level") == "critical");
    let within = [within, Marks::new(available * 2, available - available / 8)];
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(shown("level"), "critical", "it falls at the mark itself");
    let low = Marks::new(available * 2, available / 2);
    eventually("the level is low", || shown("level") == "low");
    // Each puts back what was before it.
    drop(low);
    within.into_iter().rev().for_each(drop);
    drop((critical, below, above));
}

/// With marks that let the watchdog see nothing.
fn out_of_memory() {
    let marks = Marks::new(0, 0);
    let kills = oom_kills();
    set("reserve", 128 << 20);
    eventually("the reserve is full", || value("reserve_ready") == 128 << 20);
    let device = device();
    let unused = device.alloc(&Request::new(128 << 20, "unused")).expect("memory");
    device.seal(&unused).expect("sealing");
    device.publish(&unused, &Key::default(), None).expect("publishing");
    drop(unused);
    eventually("the reserve is full", || value("reserve_ready") == 128 << 20);
    let hog = Child::run(|_| {
        let mut held = Vec::new();
        while value("cache_used") > 0 || value("reserve_ready") == 128 << 20 {
            held.push(vec![1u8; 2 << 20]);
        }
    });
    assert!(hog.ended_well(), "it was killed");
    assert_eq!((value("cache_used"), oom_kills()), (0, kills));
    set("reserve", 0);
    drop(marks);
}

fn full_pool() {
    let limit = Setting::new("pool_limit", 32 * CHUNK as u64);
    let device = device();
    let held = device.alloc(&Request::new(31 * CHUNK as u64, "full")).expect("memory");
    assert_eq!(hear(&device, Level::Low).0, abi::CAUSE_POOL);
    drop(device.alloc(&Request::new(1, "full")).expect("the limit is not reached"));
    drop(held);
    hear(&device, Level::Ok);
    drop(limit);
}

fn told_once() {
    let early = device();
    let low = Setting::new("low_mark", value("available") + (512 << 20));
    hear(&early, Level::Low);
    assert!(early.next_event(Some(Duration::from_millis(300))).expect("an answer").is_none(), "told already");
    let (late, eventfd) = (device(), eventfd());
    assert_eq!(late.next_event(None).expect("an answer").expect("news to it").level, Level::Low);
    late.set_eventfd(Some(eventfd.as_fd())).expect("an eventfd");
    assert_eq!(signals(&eventfd), 1, "the level is news for a new eventfd");
    late.set_eventfd(None).expect("no eventfd");
    drop(low);
    hear(&early, Level::Ok);
    hear(&late, Level::Ok);
    assert_eq!(signals(&eventfd), 0, "it was taken back");
}

/// By what the module wakes: whoever waits for one kind of news only must hear as well.
fn woken() {
    let sleeps = |child: &Child| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.pid())).expect("proc is mounted");
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S'))
    };
    let kinds: [&dyn Fn(); 3] = [
        &|| {
            let mut event = [0; size_of::<abi::Event>()];
            let mut file = File::open(Device::PATH).expect("the device opens");
            assert_eq!(file.read(&mut event).expect("an event"), event.len());
            assert_eq!(event[..4], abi::LEVEL_LOW.to_ne_bytes());
        },
        &|| assert_eq!(poll(&device(), libc::POLLRDNORM), libc::POLLRDNORM),
        &|| assert_eq!(poll(&device(), libc::POLLIN), libc::POLLIN),
    ];
    for waits in kinds {
        let child = Child::run(|parent| {
            parent.reached();
            waits();
        });
        let clients = || table("clients").lines().any(|line| line.starts_with(&format!("{} ", child.pid())));
        eventually("it waits", || clients() && sleeps(&child));
        std::thread::sleep(Duration::from_millis(300));
        assert!(sleeps(&child), "it did not wait");
        let low = Setting::new("low_mark", value("available") + (512 << 20));
        assert!(child.ended_well(), "it was not woken");
        drop(low);
        eventually("the level is ok", || shown("level") == "ok");
    }
}

/// Waits for these kinds of news, and gives those that came.
fn poll(device: &Device, events: i16) -> i16 {
    let mut poll = libc::pollfd { fd: device.as_fd().as_raw_fd(), events, revents: 0 };
    let start = Instant::now();
    // SAFETY: one pollfd, which lives through the call.
    assert_eq!(unsafe { libc::poll(&raw mut poll, 1, PATIENCE.as_millis() as i32) }, 1, "in time");
    // At the end of its time it looks once more, and then finds what it was not woken for.
    assert!(start.elapsed() < PATIENCE - Duration::from_secs(5), "nobody woke it");
    poll.revents
}

fn table(name: &str) -> String {
    fs::read_to_string(format!("/sys/kernel/debug/greenboost/{name}")).expect("debugfs")
}

fn clients() {
    let device = device();
    let held = device.alloc(&Request::new(3 * CHUNK as u64, "held")).expect("memory");
    let (ours, bytes) = (std::process::id(), held.bytes());
    let row = |level, causes| format!("{ours} 0 {bytes} {bytes} {level} {causes} ");
    let shows = |row: &str| table("clients").lines().any(|line| line.starts_with(row) && line.ends_with(" init"));
    assert!(shows(&row(0, "0x0")), "{}", table("clients"));
    // What was taken for this is a fall as well, for a moment.
    eventually("nothing declines", || value("decline") == 0);
    let low = Setting::new("low_mark", value("available") + (512 << 20));
    hear(&device, Level::Low);
    assert!(shows(&row(1, "0x1")), "{}", table("clients"));
    let expected = format!("{} 0 {ours} {bytes} 0 0 0 0 0 0 held", held.id());
    assert!(table("buffers").lines().any(|line| line == expected), "{}", table("buffers"));
    drop(low);
    hear(&device, Level::Ok);
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
