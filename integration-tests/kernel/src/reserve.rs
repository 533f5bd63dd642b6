//! Pages kept ready: as many as asked for, zeroed, taken first, taken back, and given up under pressure.

use crate::Test;
use crate::machine::{Setting, eventually, set, shown, value};
use crate::mapping::{device, pattern, words};
use greenboost_kmod::{Access, CHUNK, Request};

pub const TESTS: &[Test] = &[
    ("reserve: it fills to its size in the background, shrinks at once", resizes),
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
