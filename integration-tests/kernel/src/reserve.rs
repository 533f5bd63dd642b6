//! Pages kept ready: as many as asked for, zeroed, taken first, taken back, and given up under pressure.

use crate::Test;
use crate::budgets::in_cgroup;
use crate::machine::{Marks, Setting, between_ticks, eventually, set, shown, value};
use crate::mapping::{device, pattern, words};
use greenboost_kmod::{Access, CHUNK, Error, Request};
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("reserve: it fills to its size in the background, shrinks at once", resizes),
    ("reserve: it is never more than wanted, however it is changed while it fills", changes_while_filling),
    ("reserve: it goes to who gets none of it, rather than refuse them", makes_room),
    ("reserve: it is taken first, and what comes back holds no old bytes", taken_and_zeroed),
    ("reserve: it keeps within the pool and never endangers the machine", keeps_within),
    ("reserve: it goes when memory is low, and comes back", goes_when_low),
];

const C: u64 = CHUNK as u64;

fn full(chunks: u64) {
    eventually("the reserve is full", || value("reserve_ready") == chunks * C);
}

fn resizes() {
    set("reserve", "64M");
    assert_eq!(value("reserve"), 64 << 20);
    full(32);
    set("reserve", 8 * C);
    assert_eq!(value("reserve_ready"), 8 * C, "at once");
    set("reserve", 0);
    assert_eq!(value("reserve_ready"), 0);
    assert!(crate::machine::try_set("reserve", "much").is_err());
}

fn changes_while_filling() {
    for round in 0..60 {
        set("reserve", 48 * C);
        eventually("it fills", || value("reserve_ready") > round % 8 * C);
        set("reserve", 2 * C);
        // What was under way has arrived by then, or soon after, and must not stay.
        std::thread::sleep(Duration::from_millis(20));
        let ready = value("reserve_ready");
        assert!(ready <= 2 * C, "{} chunks are ready, 2 are wanted, in round {round}", ready / C);
    }
    set("reserve", 0);
}

/// Who has a limit of its own gets only fresh pages.
fn makes_room() {
    between_ticks(|| {
        set("reserve", 64 * C);
        full(64);
        let room = value("available") - 16 * C;
        let _marks = Marks::new(room, room);
        in_cgroup(512 << 20, |_| {
            let device = device();
            let held = device.alloc(&Request::new(32 * C, "room")).expect("the reserve makes room");
            assert_eq!(held.ready_bytes(), 0);
            let ready = value("reserve_ready");
            assert!(ready > 16 * C && ready < 56 * C, "{} chunks are still ready", ready / C);
            // More than there is even then: nothing goes for it.
            assert!(matches!(device.alloc(&Request::new(128 * C, "room")), Err(Error::NoMemory)));
            assert_eq!(value("reserve_ready"), ready);
        });
    });
}

fn taken_and_zeroed() {
    set("reserve", 8 * C);
    full(8);
    let device = device();
    for _ in 0..3 {
        let hits = value("reserve_hits");
        let buffer = device.alloc(&Request::new(12 * C, "taken")).expect("memory");
        assert_eq!(buffer.ready_bytes(), 8 * C);
        assert_eq!(value("reserve_hits"), hits + 8);
        let mapping = buffer.map(Access::ReadWrite).expect("a mapping");
        assert!(words(&mapping).iter().all(|word| *word == 0), "old bytes show");
        pattern(words(&mapping));
        drop((mapping, buffer));
        full(8);
    }
    set("reserve", 0);
}

fn keeps_within() {
    let limit = Setting::new("pool_limit", 16 * C);
    set("reserve", 64 * C);
    full(16);
    drop(limit);
    full(64);
    // Asking for more than there is must stop above the low mark, with an ok level.
    set("reserve", "64G");
    let mut before = 0;
    eventually("the reserve grows no more", || {
        let now = value("reserve_ready");
        let same = now == before && now > 0;
        before = now;
        std::thread::sleep(std::time::Duration::from_millis(300));
        same
    });
    assert_eq!(shown("level"), "ok");
    assert!(value("available") > value("low_mark"));
    set("reserve", 0);
}

fn goes_when_low() {
    set("reserve", 16 * C);
    full(16);
    let low = Setting::new("low_mark", value("available") + (512 << 20));
    eventually("the level is low", || shown("level") == "low");
    eventually("the reserve is gone", || value("reserve_ready") == 0);
    drop(low);
    eventually("the level is ok", || shown("level") == "ok");
    full(16);
    set("reserve", 0);
}
