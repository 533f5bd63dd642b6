//! Limits hold: together, in a race, in a memory cgroup, and against a machine that has not so much.

use crate::Test;
use crate::machine::{CGROUP, Marks, Setting, between_ticks, eventually, free, oom_kills, set, value};
use crate::mapping::device;
use crate::process::Child;
use greenboost_kmod::{CHUNK, Device, Error, Key, Request};
use std::fs;

pub const TESTS: &[Test] = &[
    ("budgets: pool, user and file each refuse, with their own error", each_refuses),
    ("budgets: a limit that unused objects cannot help costs nobody any", evicts_where_it_helps),
    ("budgets: eight racing processes never pass the limit", race),
    ("budgets: more than the machine has ends in ENOMEM, nothing is killed", more_than_there_is),
    ("budgets: a memory cgroup is charged, and its limit holds", cgroup_limit),
    ("budgets: a limited cgroup gets no uncharged pages from the reserve", cgroup_and_reserve),
    ("budgets: a large allocation gives in to a fatal signal", killed_while_large),
];

const C: u64 = CHUNK as u64;

fn each_refuses() {
    let device = device();
    let alloc = |chunks| device.alloc(&Request::new(chunks * C, "budget"));
    {
        let _pool = Setting::new("pool_limit", 4 * C);
        assert!(matches!(alloc(5), Err(Error::PoolFull)));
        let held = alloc(4).expect("exactly the limit");
        assert!(matches!(alloc(1), Err(Error::PoolFull)));
        drop(held);
        eventually("the level is ok again", || crate::machine::shown("level") == "ok");
    }
    let _file = Setting::new("file_limit", 3 * C);
    let _user = Setting::new("user_limit", 5 * C);
    let first = alloc(3).expect("exactly the limit");
    assert!(matches!(alloc(1), Err(Error::Quota)), "the file's");
    let other = self::device();
    let second = other.alloc(&Request::new(2 * C, "budget")).expect("within the user's");
    assert!(matches!(other.alloc(&Request::new(C, "budget")), Err(Error::Quota)), "the user's");
    let info = other.info().expect("info");
    assert_eq!((info.pool_used, info.user_used, info.file_used), (5 * C, 5 * C, 2 * C));
    assert!(info.refused >= 4);
    // A buffer is charged to the file it was allocated through, also after that is closed.
    drop(device);
    assert_eq!(value("pool_used"), 5 * C);
    drop((first, second));
    assert_eq!(value("pool_used"), 0);
}

/// A full pool is a level, and at that the watchdog gives back what this test wants kept.
fn evicts_where_it_helps() {
    between_ticks(evicts);
}

fn evicts() {
    let unused = |number, chunks: usize, through: &Device| {
        let buffer = through.alloc(&Request::new(chunks as u64 * C, "unused")).expect("memory");
        through.seal(&buffer).expect("sealing");
        through.publish(&buffer, &Key { ino: number, ..Key::default() }, None).expect("publishing");
    };
    let (publisher, device) = (device(), device());
    let alloc = |device: &Device, chunks| device.alloc(&Request::new(chunks * C, "budget"));
    (1..4).for_each(|number| unused(number, 4, &publisher));
    {
        // The file's limit, which what another file has published does not count against.
        let _file = Setting::new("file_limit", 4 * C);
        assert!(matches!(alloc(&device, 5), Err(Error::Quota)));
        let held = alloc(&device, 3).expect("within the limit");
        assert!(matches!(alloc(&device, 2), Err(Error::Quota)));
        drop(held);
    }
    {
        // Too little to help: 20 are held, 12 unused, 33 is more than all.
        let _pool = Setting::new("pool_limit", 32 * C);
        let held = alloc(&device, 20).expect("just so much");
        assert!(matches!(alloc(&device, 13), Err(Error::PoolFull)));
        drop(held);
    }
    {
        let _user = Setting::new("user_limit", 16 * C);
        assert!(matches!(alloc(&device, 17), Err(Error::Quota)));
        // The pool has room at the cost of others, and the user has not: nobody pays.
        let _pool = Setting::new("pool_limit", 13 * C);
        let _less = Setting::new("user_limit", C);
        assert!(alloc(&device, 2).is_err());
    }
    assert_eq!(value("cache_used"), 12 * C, "what nobody could be helped with is gone");
    {
        // No more than is lacking, and the oldest.
        let _user = Setting::new("user_limit", 16 * C);
        drop(alloc(&device, 5).expect("one of them makes room"));
        assert_eq!(value("cache_used"), 8 * C);
        assert!(device.open_shared(&Key { ino: 1, ..Key::default() }).expect("an answer").is_none());
    }
    {
        // What this file has published itself does count.
        let _file = Setting::new("file_limit", 8 * C);
        drop(alloc(&publisher, 2).expect("one of them makes room"));
        assert_eq!(value("cache_used"), 4 * C);
    }
    device.withdraw(&Key { ino: 3, ..Key::default() }).expect("the last one");
}

fn race() {
    const LIMIT: u64 = 20 * C;
    let allocations = value("allocations");
    let _limit = Setting::new("pool_limit", LIMIT);
    let children: Vec<_> = (0..8)
        .map(|number| {
            Child::run(move |_| {
                let device = device();
                for round in 0..150u64 {
                    match device.alloc(&Request::new((1 + (round * 7 + number) % 5) * C, "race")) {
                        Ok(buffer) => {
                            let used = value("pool_used");
                            assert!(used <= LIMIT, "{used} of {LIMIT}");
                            if round % 3 == 0 {
                                std::thread::yield_now();
                            }
                            drop(buffer);
                        }
                        Err(Error::PoolFull) => std::thread::yield_now(),
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for child in children {
        assert!(child.ended_well());
    }
    assert_eq!(value("pool_used"), 0);
    assert!(value("allocations") > allocations + 200, "they mostly waited");
}

fn more_than_there_is() {
    let _limits = ["pool_limit", "user_limit", "file_limit"].map(|name| Setting::new(name, 1 << 40));
    let before = oom_kills();
    let free_before = free();
    let device = device();
    for mixed in [false, true] {
        let request = Request { mixed, ..Request::new(16 << 30, "all") };
        assert!(matches!(device.alloc(&request), Err(Error::NoMemory)), "mixed: {mixed}");
    }
    // And where only trying shows it, since nothing forbids to try.
    let _marks = Marks::new(0, 0);
    let mut kept = Vec::new();
    while let Ok(buffer) = device.alloc(&Request::new(128 << 20, "all")) {
        kept.push(buffer);
    }
    assert!(kept.len() > 8, "{} buffers", kept.len());
    drop(kept);
    assert_eq!(value("pool_used"), 0);
    assert_eq!(oom_kills(), before, "the kernel killed somebody");
    eventually("the memory is free again", || free() + (64 << 20) > free_before);
}

/// Runs something in a cgroup with a limit.
pub fn in_cgroup(limit: u64, body: impl FnOnce(&dyn Fn() -> u64)) {
    let group = format!("{CGROUP}/limited");
    fs::create_dir(&group).expect("a cgroup");
    fs::write(format!("{group}/memory.max"), limit.to_string()).expect("its limit");
    let current =
        || fs::read_to_string(format!("{group}/memory.current")).expect("its use").trim().parse().expect("bytes");
    let child = Child::run(|_| {
        fs::write(format!("{group}/cgroup.procs"), "0").expect("joining");
        body(&current);
    });
    let well = child.ended_well();
    let events = fs::read_to_string(format!("{group}/memory.events")).expect("its events");
    assert!(events.contains("oom_kill 0"), "{events}");
    eventually("the cgroup is empty", || fs::remove_dir(&group).is_ok());
    assert!(well, "the process in the cgroup failed");
}

fn cgroup_limit() {
    in_cgroup(64 << 20, |current| {
        let device = device();
        let before = current();
        let held = device.alloc(&Request::new(32 << 20, "group")).expect("within its limit");
        assert!(current() >= before + (32 << 20), "{} after {before}", current());
        assert!(matches!(device.alloc(&Request::new(128 << 20, "group")), Err(Error::NoMemory)));
        let mixed = Request { mixed: true, ..Request::new(128 << 20, "group") };
        assert!(matches!(device.alloc(&mixed), Err(Error::NoMemory)));
        drop(held);
        eventually("the charge is gone", || current() < before + (4 << 20));
    });
}

fn cgroup_and_reserve() {
    set("reserve", 64 << 20);
    eventually("the reserve is full", || value("reserve_ready") == 64 << 20);
    in_cgroup(32 << 20, |current| {
        let device = device();
        assert!(matches!(device.alloc(&Request::new(48 << 20, "group")), Err(Error::NoMemory)));
        let before = current();
        let held = device.alloc(&Request::new(16 << 20, "group")).expect("within its limit");
        assert_eq!(held.ready_bytes(), 0);
        assert!(current() >= before + (16 << 20));
    });
    set("reserve", 0);
}

fn killed_while_large() {
    let _marks = Marks::new(0, 0);
    let allocations = value("allocations");
    let mut child = Child::run(|parent| {
        let device = device();
        parent.reached();
        let info = device.info().expect("info");
        let all = info.pool_limit.min(info.available - (256 << 20)) / C * C;
        let _held = device.alloc(&Request::new(all, "large"));
    });
    child.until_reached();
    eventually("it is in the middle of it", || value("pool_used") > 0);
    child.kill();
    eventually("all is back", || value("pool_used") == 0);
    assert_eq!(value("allocations"), allocations, "it was allocated to the end, for a dead process");
}
