//! Limits hold: together, in a race, in a memory cgroup, and against a machine with less memory.

use crate::machine::{CGROUP, Marks, Setting, eventually, free, oom_kills, set, shown, value};
use crate::mapping::device;
use crate::process::{Child, as_user, elsewhere};
use crate::test::Test;
use greenboost_kmod::{CHUNK, Device, Error, Request, abi};
use std::fs;

pub const TESTS: &[Test] = &[
    ("budgets: pool, user and file each refuse, with their own error", each_refuses),
    ("budgets: what will be refused takes nothing, drops nothing and moves no level", refused_for_nothing),
    ("budgets: a full pool leaves the reserve alone", full_pool_and_reserve),
    ("budgets: a user at its own limit puts nobody else at low", one_user_is_not_the_pool),
    ("budgets: a limit of 2^51 bytes makes no warning", absurd_limit),
    ("budgets: the open files of a user are limited", open_files),
    ("budgets: eight racing processes never pass the limit", race),
    ("budgets: more than the machine has ends in ENOMEM, nothing is killed", more_than_there_is),
    ("budgets: a memory cgroup is charged, and its limit holds", cgroup_limit),
    ("budgets: a limited cgroup gets no uncharged pages from the reserve", cgroup_and_reserve),
    ("budgets: a large allocation gives in to a fatal signal", killed_while_large),
];

const C: u64 = CHUNK as u64;

fn each_refuses() {
    let device = device();
    let alloc = |chunks| device.alloc(&Request::new(chunks * C));
    {
        let _pool = Setting::new("pool_limit_bytes", 4 * C);
        assert!(matches!(alloc(5), Err(Error::PoolFull)));
        let held = alloc(4).expect("exactly the limit");
        assert!(matches!(alloc(1), Err(Error::PoolFull)));
        drop(held);
        eventually("the level is ok again", || shown("ram_level") == "ok");
    }
    let _file = Setting::new("file_limit_bytes", 3 * C);
    let _user = Setting::new("user_limit_bytes", 5 * C);
    let first = alloc(3).expect("exactly the limit");
    assert!(matches!(alloc(1), Err(Error::Quota)), "the file's");
    let other = self::device();
    let second = other.alloc(&Request::new(2 * C)).expect("within the user's");
    assert!(matches!(other.alloc(&Request::new(C)), Err(Error::Quota)), "the user's");
    let info = other.info().expect("info");
    assert_eq!((info.pool_used_bytes, info.user_used_bytes, info.file_used_bytes), (5 * C, 5 * C, 2 * C));
    assert!(info.refused >= 4);
    // A buffer is charged to the file it was allocated through, also after that is closed.
    drop(device);
    assert_eq!(value("pool_used_bytes"), 5 * C);
    drop((first, second));
    assert_eq!(value("pool_used_bytes"), 0);
}

/// Nothing that could be seen from outside changes.
fn refused_for_nothing() {
    set("reserve_bytes", 32 * C);
    eventually("the reserve is full", || value("reserve_ready_bytes") == 32 * C);
    let device = device();
    eventually("nothing declines", || value("decline_bytes_per_s") == 0);
    let seen =
        || ["reserve_ready_bytes", "reserve_hits", "became_low", "became_critical", "pool_used_bytes"].map(value);
    let before = seen();
    let refused = |bytes| device.alloc(&Request::new(bytes)).expect_err("too much");
    let ram = crate::machine::counter("/proc/meminfo", "MemTotal") * 1024;
    {
        let _limits =
            ["pool_limit_bytes", "user_limit_bytes", "file_limit_bytes"].map(|name| Setting::new(name, 1 << 40));
        for _ in 0..20 {
            assert!(matches!(refused(2 * ram), Error::NoMemory));
            // Less than there is, and more than the critical mark leaves.
            let room = value("available_bytes") - value("critical_mark_bytes");
            assert!(matches!(refused(room + 33 * C), Error::Pressure));
        }
    }
    {
        let _pool = Setting::new("pool_limit_bytes", 64 * C);
        assert!(matches!(refused(65 * C), Error::PoolFull));
        let _user = Setting::new("user_limit_bytes", 40 * C);
        assert!(matches!(refused(63 * C), Error::Quota), "it would make the pool nearly full");
        let _file = Setting::new("file_limit_bytes", 36 * C);
        assert!(matches!(refused(40 * C), Error::Quota));
    }
    // Two looks of the watchdog.
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(seen(), before);
    set("reserve_bytes", 0);
}

fn full_pool_and_reserve() {
    set("reserve_bytes", 8 * C);
    eventually("the reserve is full", || value("reserve_ready_bytes") == 8 * C);
    let device = device();
    let held = device.alloc(&Request::new(24 * C)).expect("memory");
    eventually("the reserve is full again", || value("reserve_ready_bytes") == 8 * C);
    let limit = Setting::new("pool_limit_bytes", 25 * C);
    assert_eq!(crate::pressure::hear(&device, greenboost_kmod::Level::Low).0, abi::CAUSE_POOL);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(value("reserve_ready_bytes"), 8 * C, "that is no want of RAM");
    drop((held, limit));
    set("reserve_bytes", 0);
}

fn one_user_is_not_the_pool() {
    let _marks = Marks::new(2 << 20, 1 << 20);
    as_user(1000, crate::users::GROUP, || {
        let device = device();
        let mut held = Vec::new();
        let refusal = loop {
            match device.alloc(&Request::new(32 * C)) {
                Ok(buffer) => held.push(buffer),
                Err(error) => break error,
            }
        };
        assert!(matches!(refusal, Error::Quota), "{refusal}");
        let info = device.info().expect("info");
        assert!(info.user_used_bytes + 32 * C > info.user_limit_bytes);
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!((shown("ram_level").as_str(), device.info().expect("info").causes), ("ok", 0));
    });
}

fn absurd_limit() {
    let _limits = ["pool_limit_bytes", "user_limit_bytes", "file_limit_bytes"].map(|name| Setting::new(name, 1 << 51));
    assert!(matches!(device().alloc(&Request::new(1 << 51)), Err(Error::NoMemory)));
}

fn open_files() {
    elsewhere(|| {
        let mut files = Vec::new();
        let refusal = loop {
            match Device::open() {
                Ok(file) => files.push(file),
                Err(error) => break error,
            }
            assert!(files.len() <= 256, "nobody counts");
        };
        assert_eq!((files.len(), refusal.errno()), (256, Some(libc::EMFILE)));
        files.pop();
        drop(device());
        as_user(1000, crate::users::GROUP, || drop(device()));
    });
}

fn race() {
    const LIMIT: u64 = 20 * C;
    let allocations = value("allocations");
    let _limit = Setting::new("pool_limit_bytes", LIMIT);
    let children: Vec<_> = (0..8)
        .map(|number| {
            Child::run(move |_| {
                let device = device();
                for round in 0..150u64 {
                    match device.alloc(&Request::new((1 + (round * 7 + number) % 5) * C)) {
                        Ok(buffer) => {
                            let used = value("pool_used_bytes");
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
    assert_eq!(value("pool_used_bytes"), 0);
    assert!(value("allocations") > allocations + 200, "they mostly waited");
}

fn more_than_there_is() {
    let _limits = ["pool_limit_bytes", "user_limit_bytes", "file_limit_bytes"].map(|name| Setting::new(name, 1 << 40));
    let before = oom_kills();
    let free_before = free();
    let device = device();
    assert!(matches!(device.alloc(&Request::new(16 << 30)), Err(Error::NoMemory)));
    // And where only trying shows it, since nothing forbids to try.
    let _marks = Marks::new(0, 0);
    let mut kept = Vec::new();
    while let Ok(buffer) = device.alloc(&Request::new(128 << 20)) {
        kept.push(buffer);
    }
    assert!(kept.len() > 8, "{} buffers", kept.len());
    drop(kept);
    assert_eq!(value("pool_used_bytes"), 0);
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
        let held = device.alloc(&Request::new(32 << 20)).expect("within its limit");
        assert!(current() >= before + (32 << 20), "{} after {before}", current());
        assert!(matches!(device.alloc(&Request::new(128 << 20)), Err(Error::NoMemory)));
        drop(held);
        eventually("the charge is gone", || current() < before + (4 << 20));
    });
}

fn cgroup_and_reserve() {
    set("reserve_bytes", 64 << 20);
    eventually("the reserve is full", || value("reserve_ready_bytes") == 64 << 20);
    in_cgroup(32 << 20, |current| {
        let device = device();
        assert!(matches!(device.alloc(&Request::new(48 << 20)), Err(Error::NoMemory)));
        let before = current();
        let held = device.alloc(&Request::new(16 << 20)).expect("within its limit");
        assert_eq!(held.ready_bytes(), 0);
        assert!(current() >= before + (16 << 20));
    });
    set("reserve_bytes", 0);
}

fn killed_while_large() {
    let _marks = Marks::new(0, 0);
    let allocations = value("allocations");
    let mut child = Child::run(|parent| {
        let device = device();
        parent.reached();
        let info = device.info().expect("info");
        let all = info.user_limit_bytes.min(info.available_bytes - (256 << 20)) / C * C;
        let _held = device.alloc(&Request::new(all));
    });
    child.until_reached();
    eventually("it is in the middle of it", || value("pool_used_bytes") > 0);
    child.kill();
    eventually("all is back", || value("pool_used_bytes") == 0);
    assert_eq!(value("allocations"), allocations, "it was allocated to the end, for a dead process");
}
