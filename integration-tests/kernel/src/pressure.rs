//! The watchdog: a memory hog drives ok, low, critical, ok; whoever listens hears it. What a disk does: `spill.rs`.

use crate::machine::{
    CGROUP, Marks, PATIENCE, Setting, between_ticks, counter, eventually, oom_kills, set, shown, value,
};
use crate::mapping::{buffer, device, pattern, words};
use crate::process::{Child, Count, bind};
use crate::test::Test;
use crate::threads::{hindrance, kernel_thread};
use greenboost_kmod::{CHUNK, Causes, Device, Error, Level, Request, abi};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("pressure: a memory hog drives ok, low, critical, ok", hog),
    ("pressure: memory that falls fast is low before it is little", falls_fast),
    ("pressure: a watchdog that comes late does not take a slow fall for a fast one", comes_late),
    ("pressure: the level rises at once, falls late, and a quarter above the mark", hysteresis),
    ("pressure: near critical is told and refused before the watchdog looks", told_at_once),
    ("pressure: a process that is throttled while it frees delays nobody", throttled),
    ("pressure: where nothing is open nothing wakes up", asleep),
    ("pressure: before the kernel kills anybody, the reserve goes", out_of_memory),
    ("pressure: a nearly full pool is low, not critical", full_pool),
    ("pressure: a level is told once, also to who comes late", told_once),
    ("pressure: who waits in read or poll is woken", woken),
    ("pressure: listeners that close while being told are no trouble", closing_listeners),
];

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
    panic!("no event says {level:?} within {PATIENCE:?}; the level is {}", shown("ram_level"));
}

fn hog() {
    let available = value("available_bytes");
    let marks = Marks::new(available - (640 << 20), available - (960 << 20));
    let kills = oom_kills();
    let device = device();
    let (mine, mapping) = buffer(8);
    let sum = pattern(words(&mapping));
    set("reserve_bytes", 32 << 20);
    eventually("the reserve is full", || value("reserve_ready_bytes") == 32 << 20);
    let counts = || ["became_low", "became_critical", "became_ok"].map(value);
    let before = counts();

    let mut hog = Child::run(|parent| {
        let mut held = Vec::new();
        for mark in ["low_mark_bytes", "critical_mark_bytes"] {
            while value("available_bytes") + (24 << 20) > value(mark) {
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
    eventually("the reserve went", || value("reserve_ready_bytes") == 0);
    drop(device.alloc(&Request::new(CHUNK as u64)).expect("low refuses nothing"));

    hog.go_on();
    hog.until_reached();
    hear(&device, Level::Critical);
    let refused = value("refused");
    assert!(matches!(device.alloc(&Request::new(CHUNK as u64)), Err(Error::Pressure)));
    assert_eq!(value("refused"), refused + 1);
    assert_eq!(words(&mapping).iter().fold(0u64, |sum, word| sum.wrapping_add(*word)), sum, "in use, so untouched");

    hog.go_on();
    assert!(hog.ended_well());
    hear(&device, Level::Ok);
    drop(device.alloc(&Request::new(CHUNK as u64)).expect("it works again"));
    eventually("the reserve is back", || value("reserve_ready_bytes") == 32 << 20);
    let after = counts();
    assert!(after.iter().zip(before).all(|(after, before)| *after > before), "{before:?} {after:?}");
    assert_eq!(oom_kills(), kills);
    set("reserve_bytes", 0);
    drop((mine, marks));
}

/// The hog stops above the mark, which is only then put where a second of its speed would have led: nothing but that can
/// have told.
fn falls_fast() {
    let device = device();
    for _ in 0..20 {
        eventually("nothing declines", || value("decline_bytes_per_s") == 0);
        let stop = Count::new();
        let hog = Child::run(|parent| {
            let mut held = Vec::new();
            while stop.get() == 0 && held.len() < 768 {
                held.push(vec![1u8; 1 << 20]);
            }
            parent.wait();
        });
        eventually("memory falls", || value("decline_bytes_per_s") > 16 << 20);
        stop.one_more();
        let low = value("available_bytes") - value("decline_bytes_per_s") / 4;
        let marks = Marks::new(low, low / 2);
        let heard = device.next_event(Some(Duration::from_secs(2))).expect("an answer");
        let still = value("available_bytes") > low;
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
    let _device = device();
    let watchdog = kernel_thread("greenboost_dog");
    for _ in 0..10 {
        eventually("nothing declines", || value("decline_bytes_per_s") == 0);
        bind(watchdog, &[0]);
        bind(0, &[1]);
        let mut hindrance = hindrance();
        hindrance.begin();
        let start = Instant::now();
        let mut taken = Vec::new();
        while start.elapsed() < Duration::from_millis(400) && taken.len() < 96 {
            taken.push(vec![1u8; 4 << 20]);
        }
        let bytes = (taken.len() as u64) << 22;
        let in_time = hindrance.is_on();
        assert!(hindrance.ended_well());
        let mut fastest = 0;
        while start.elapsed() < Duration::from_millis(1500) {
            fastest = value("decline_bytes_per_s").max(fastest);
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

/// Memory stays as it is: only the marks move. Where nobody listened it would fall at once.
fn hysteresis() {
    let _device = device();
    eventually("nothing declines", || value("decline_bytes_per_s") == 0);
    let (available, critical) = (value("available_bytes"), value("critical_mark_bytes"));
    let above = Marks::new(available + (256 << 20), critical);
    eventually("the level is low", || shown("ram_level") == "low");
    let within = Marks::new(available - available / 8, critical);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(shown("ram_level"), "low", "it falls at the mark itself");
    let below = Marks::new(available / 2, critical);
    let start = Instant::now();
    eventually("the level is ok", || shown("ram_level") == "ok");
    assert!(start.elapsed() > Duration::from_millis(380), "it falls without waiting: {:?}", start.elapsed());
    // From critical as well, and then it is low only.
    let critical = Marks::new(available * 2, available + (256 << 20));
    eventually("the level is critical", || shown("ram_level") == "critical");
    let within = [within, Marks::new(available * 2, available - available / 8)];
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(shown("ram_level"), "critical", "it falls at the mark itself");
    let low = Marks::new(available * 2, available / 2);
    eventually("the level is low", || shown("ram_level") == "low");
    // Each puts back what was before it.
    drop(low);
    within.into_iter().rev().for_each(drop);
    drop((critical, below, above));
}

/// With marks that let the watchdog see nothing.
fn out_of_memory() {
    let marks = Marks::new(0, 0);
    let kills = oom_kills();
    set("reserve_bytes", 128 << 20);
    eventually("the reserve is full", || value("reserve_ready_bytes") == 128 << 20);
    let hog = Child::run(|_| {
        let mut held = Vec::new();
        while value("reserve_ready_bytes") == 128 << 20 {
            held.push(vec![1u8; 2 << 20]);
        }
    });
    assert!(hog.ended_well(), "it was killed");
    assert_eq!(oom_kills(), kills);
    set("reserve_bytes", 0);
    drop(marks);
}

fn full_pool() {
    let limit = Setting::new("pool_limit_bytes", 32 * CHUNK as u64);
    let device = device();
    let held = device.alloc(&Request::new(31 * CHUNK as u64)).expect("memory");
    assert_eq!(hear(&device, Level::Low).0, abi::CAUSE_POOL);
    drop(device.alloc(&Request::new(1)).expect("the limit is not reached"));
    drop(held);
    hear(&device, Level::Ok);
    drop(limit);
}

fn told_once() {
    let early = device();
    let low = Setting::new("low_mark_bytes", value("available_bytes") + (512 << 20));
    hear(&early, Level::Low);
    assert!(early.next_event(Some(Duration::from_millis(300))).expect("an answer").is_none(), "told already");
    let late = device();
    assert_eq!(late.next_event(None).expect("an answer").expect("news to it").level, Level::Low);
    drop(low);
    hear(&early, Level::Ok);
    hear(&late, Level::Ok);
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
        let has_it_open = || crate::machine::references() > 0;
        eventually("it waits", || has_it_open() && sleeps(&child));
        std::thread::sleep(Duration::from_millis(300));
        assert!(sleeps(&child), "it did not wait");
        let low = Setting::new("low_mark_bytes", value("available_bytes") + (512 << 20));
        assert!(child.ended_well(), "it was not woken");
        drop(low);
        eventually("the level is ok", || shown("ram_level") == "ok");
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

/// What is left between the watchdog's looks goes to a program that takes it, and not through us.
fn told_at_once() {
    between_ticks(|| {
        let device = device();
        let critical = value("available_bytes") - (64 << 20);
        let _marks = Marks::new(critical, critical);
        let before = value("became_critical");
        let mut hog = Child::run(|parent| {
            let held = std::hint::black_box(vec![1u8; 160 << 20]);
            parent.reached();
            parent.wait();
            drop(held);
        });
        hog.until_reached();
        assert_eq!(shown("ram_level"), "ok", "it has looked, and this test proves nothing");
        assert!(matches!(device.alloc(&Request::new(1)), Err(Error::Pressure)));
        assert_eq!(value("became_critical"), before + 1);
        let event = device.next_event(None).expect("an answer").expect("who is refused is told");
        assert_eq!((event.level, event.causes.0), (Level::Critical, abi::CAUSE_MEMORY));
        hog.go_on();
        assert!(hog.ended_well());
    });
}

/// It gets a twentieth of a processor, and frees hundreds of MiB with that. Levels and INFO wait for nobody.
fn throttled() {
    let group = format!("{CGROUP}/throttled");
    fs::create_dir(&group).expect("a cgroup");
    fs::write(format!("{group}/cpu.max"), "5000 100000").expect("its share");
    set("reserve_bytes", 128 << 20);
    eventually("the reserve is full", || value("reserve_ready_bytes") == 128 << 20);
    let device = device();
    let rounds = Count::new();
    let slow = Child::run(|_| {
        let device = self::device();
        fs::write(format!("{group}/cgroup.procs"), "0").expect("joining");
        loop {
            drop(device.alloc(&Request::new(256 << 20)));
            rounds.one_more();
        }
    });
    eventually("it takes and frees", || rounds.get() > 0);
    let end = Instant::now() + Duration::from_secs(6);
    let (mut longest_info, mut longest_news) = (Duration::ZERO, Duration::ZERO);
    while Instant::now() < end {
        let start = Instant::now();
        device.info().expect("info");
        longest_info = longest_info.max(start.elapsed());
        let level = if shown("ram_level") == "ok" { Level::Low } else { Level::Ok };
        let low =
            if level == Level::Low { Some(Setting::new("low_mark_bytes", value("available_bytes") * 2)) } else { None };
        let start = Instant::now();
        hear(&device, level);
        if level == Level::Low {
            longest_news = longest_news.max(start.elapsed());
        }
        drop(low);
    }
    slow.kill();
    eventually("the cgroup is empty", || fs::remove_dir(&group).is_ok());
    println!("gb-figure throttled.info_ms {:.1}", longest_info.as_secs_f64() * 1e3);
    println!("gb-figure throttled.news_ms {:.1}", longest_news.as_secs_f64() * 1e3);
    assert!(longest_info.max(longest_news) < Duration::from_secs(1), "INFO {longest_info:?}, levels {longest_news:?}");
    set("reserve_bytes", 0);
}

fn asleep() {
    eventually("nothing is open", || crate::machine::references() == 0);
    let threads = ["greenboost_dog", "greenboost_fill", "greenboost_spill"].map(kernel_thread);
    let wakes = || -> u64 {
        let status = |thread: &i32| counter(&format!("/proc/{thread}/status"), "voluntary_ctxt_switches");
        threads.iter().map(status).sum()
    };
    // What closing and the last setting have to say is said.
    std::thread::sleep(Duration::from_secs(1));
    let before = wakes();
    std::thread::sleep(Duration::from_secs(8));
    let woken = wakes() - before;
    assert!(woken <= 1, "{woken} times in 8 s");
    // And it does look where somebody listens.
    let _device = device();
    let before = wakes();
    eventually("it looks", || wakes() > before + 5);
}

fn closing_listeners() {
    let end = Instant::now() + Duration::from_secs(2);
    let listeners: Vec<_> = (0..3)
        .map(|_| {
            Child::run(move |_| {
                while Instant::now() < end {
                    let device = device();
                    let _ = device.next_event(Some(Duration::from_millis(5)));
                }
            })
        })
        .collect();
    let available = counter("/proc/meminfo", "MemAvailable") * 1024;
    while Instant::now() < end {
        let low = Setting::new("low_mark_bytes", available * 2);
        std::thread::sleep(Duration::from_millis(120));
        drop(low);
        std::thread::sleep(Duration::from_millis(120));
    }
    for listener in listeners {
        assert!(listener.ended_well());
    }
}
