//! Pages kept ready: as many as asked for, zeroed, taken first, taken back, and given up under pressure.

use crate::budgets::in_cgroup;
use crate::machine::{Marks, Setting, between_ticks, counter, eventually, set, shown, value};
use crate::mapping::{device, pattern, words};
use crate::process::Child;
use crate::test::Test;
use crate::threads::{bind_filler, hindrance};
use greenboost_kmod::{Access, CHUNK, Error, Request};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("reserve: it fills to its size in the background, shrinks at once", resizes),
    ("reserve: it is never more than wanted, however it is changed while it fills", changes_while_filling),
    ("reserve: it goes to who gets none of it, rather than refuse them", makes_room),
    ("reserve: it is taken first, and what comes back holds no old bytes", taken_and_zeroed),
    ("reserve: what comes back untouched is ready at once", untouched),
    ("reserve: what comes back little above the low mark is ready or free within a second", near_the_mark),
    ("reserve: what is not zeroed yet serves who wants it", not_zeroed_yet),
    ("reserve: whoever looks at MemAvailable sees it as available", counts_as_available),
    ("reserve: reclaim gets it below the low mark, and not above", reclaimed),
    ("reserve: memory with an error is never handed out again", poisoned),
    ("reserve: it keeps within the pool and never endangers the machine", keeps_within),
    ("reserve: it goes when memory is low, and comes back", goes_when_low),
];

const C: u64 = CHUNK as u64;

fn full(chunks: u64) {
    eventually("the reserve is full", || value("reserve_ready_bytes") == chunks * C);
}

fn resizes() {
    set("reserve_bytes", "64M");
    assert_eq!(value("reserve_bytes"), 64 << 20);
    full(32);
    set("reserve_bytes", 8 * C);
    assert_eq!(value("reserve_ready_bytes"), 8 * C, "at once");
    set("reserve_bytes", 0);
    assert_eq!(value("reserve_ready_bytes"), 0);
    assert!(crate::machine::try_set("reserve_bytes", "much").is_err());
}

fn changes_while_filling() {
    for round in 0..60 {
        set("reserve_bytes", 48 * C);
        eventually("it fills", || value("reserve_ready_bytes") > round % 8 * C);
        set("reserve_bytes", 2 * C);
        // What was under way has arrived by then, or soon after, and must not stay.
        std::thread::sleep(Duration::from_millis(20));
        let ready = value("reserve_ready_bytes");
        assert!(ready <= 2 * C, "{} chunks are ready, 2 are wanted, in round {round}", ready / C);
    }
    set("reserve_bytes", 0);
}

/// Who has a limit of its own gets only fresh pages.
fn makes_room() {
    between_ticks(|| {
        set("reserve_bytes", 64 * C);
        full(64);
        let room = value("available_bytes") - 16 * C;
        let _marks = Marks::new(room, room);
        in_cgroup(512 << 20, |_| {
            let device = device();
            let held = device.alloc(&Request::new(32 * C)).expect("the reserve makes room");
            assert_eq!(held.ready_bytes(), 0);
            let ready = value("reserve_ready_bytes");
            assert!(ready > 16 * C && ready < 56 * C, "{} chunks are still ready", ready / C);
            // More than there is even then: nothing goes for it.
            assert!(matches!(device.alloc(&Request::new(128 * C)), Err(Error::Pressure)));
            assert_eq!(value("reserve_ready_bytes"), ready);
        });
    });
}

fn taken_and_zeroed() {
    set("reserve_bytes", 8 * C);
    full(8);
    let device = device();
    for _ in 0..3 {
        let hits = value("reserve_hits");
        let buffer = device.alloc(&Request::new(12 * C)).expect("memory");
        assert_eq!(buffer.ready_bytes(), 8 * C);
        assert_eq!(value("reserve_hits"), hits + 8);
        let mapping = buffer.map(Access::ReadWrite).expect("a mapping");
        assert!(words(&mapping).iter().all(|word| *word == 0), "old bytes show");
        pattern(words(&mapping));
        drop((mapping, buffer));
        full(8);
    }
    set("reserve_bytes", 0);
}

/// The pages of a buffer that nobody could write to are zero still.
fn untouched() {
    set("reserve_bytes", 32 * C);
    full(32);
    let device = device();
    for _ in 0..20 {
        drop(device.alloc(&Request::new(32 * C)).expect("memory"));
        assert_eq!(value("reserve_ready_bytes"), 32 * C, "at once");
    }
    set("reserve_bytes", 0);
}

/// Where the reserve may not grow it must still not forget what is its own.
fn near_the_mark() {
    const BYTES: u64 = 384 << 20;
    set("reserve_bytes", BYTES);
    eventually("the reserve is full", || value("reserve_ready_bytes") == BYTES);
    // What is taken is not made up for, or only a little of it: so what comes back is wanted.
    let limit = Setting::new("pool_limit_bytes", BYTES / 8 * 9);
    let device = device();
    let buffer = device.alloc(&Request::new(BYTES)).expect("memory");
    let mapping = buffer.map(Access::ReadWrite).expect("a mapping");
    for chunk in words(&mapping).chunks_mut(CHUNK / 8) {
        chunk[0] = 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    eventually("nothing declines", || value("decline_bytes_per_s") == 0);
    let ready_or_free = || value("reserve_ready_bytes") + value("available_bytes");
    let (before, available) = (ready_or_free(), value("available_bytes"));
    let low = available / 8 * 7;
    let marks = Marks::new(low, low / 2);
    drop((mapping, buffer));
    let freed = Instant::now();
    // What each processor keeps at hand, tens of MiB, is not counted as available.
    eventually("all of it is ready or free", || ready_or_free() + (64 << 20) > before + BYTES);
    println!("gb-figure near_the_mark.s {:.2}", freed.elapsed().as_secs_f64());
    // A second, on a machine that is neither emulated nor busy with other things.
    assert!(freed.elapsed() < Duration::from_secs(20), "{:?}", freed.elapsed());
    assert_eq!(shown("ram_level"), "ok", "at low it would have been dropped, and this test proves nothing");
    assert!(value("reserve_ready_bytes") > BYTES / 4 * 3, "it went to the machine, and this test proves nothing");
    drop((marks, limit));
    set("reserve_bytes", 0);
}

/// While the thread that zeroes is kept off its processor.
fn not_zeroed_yet() {
    const BYTES: u64 = 64 << 20;
    set("reserve_bytes", 2 * BYTES);
    // What is taken is not made up for, or only a little of it: so what comes back is wanted.
    let limit = Setting::new("pool_limit_bytes", BYTES / 8 * 18);
    bind_filler(&[0]);
    let served = (0..10).any(|_| {
        eventually("the reserve is full", || value("reserve_ready_bytes") == 2 * BYTES);
        let mut hindrance = hindrance();
        let device = device();
        let buffer = device.alloc(&Request::new(2 * BYTES)).expect("memory");
        let mapping = buffer.map(Access::ReadWrite).expect("a mapping");
        pattern(words(&mapping));
        hindrance.begin();
        drop((mapping, buffer));
        let ready = value("reserve_ready_bytes");
        let half = device.alloc(&Request::new(BYTES)).expect("half of what is not zeroed would do");
        if ready >= BYTES {
            return false;
        }
        assert_eq!(half.ready_bytes(), BYTES, "{ready} were ready");
        let mapping = half.map(Access::ReadWrite).expect("a mapping");
        assert!(words(&mapping).iter().all(|word| *word == 0), "old bytes show");
        true
    });
    bind_filler(&[0, 1]);
    drop(limit);
    assert!(served, "it was always zeroed first");
    set("reserve_bytes", 0);
}

fn counts_as_available() {
    const BYTES: u64 = 384 << 20;
    let available = || counter("/proc/meminfo", "MemAvailable") * 1024;
    let (theirs, ours) = (available(), value("available_bytes"));
    set("reserve_bytes", BYTES);
    eventually("the reserve is full", || value("reserve_ready_bytes") == BYTES);
    assert!(available() + BYTES / 4 > theirs, "{} after {theirs}", available());
    let now = value("available_bytes");
    assert!(now + BYTES / 4 * 3 < ours, "what is kept is not there to be taken: {now} after {ours}");
    set("reserve_bytes", 0);
    eventually("nothing stays counted", || counter("/proc/meminfo", "KReclaimable") * 1024 < BYTES / 2);
}

fn reclaimed() {
    between_ticks(|| {
        set("reserve_bytes", 64 * C);
        full(64);
        let shrink = || std::fs::write("/proc/sys/vm/drop_caches", "2").expect("sysctl");
        let low = value("available_bytes") - (64 << 20);
        let _marks = Marks::new(low, 0);
        shrink();
        assert_eq!(value("reserve_ready_bytes"), 64 * C, "memory is not short");
        let hog = Child::run(|parent| {
            let held = std::hint::black_box(vec![1u8; 160 << 20]);
            parent.reached();
            parent.wait();
            drop(held);
        });
        let mut hog = hog;
        hog.until_reached();
        assert_eq!(shown("ram_level"), "ok", "the watchdog has looked, and this test proves nothing");
        shrink();
        let (ready, available) = (value("reserve_ready_bytes"), value("available_bytes"));
        assert!(ready < 64 * C, "reclaim gets nothing: {ready} are ready, {available} available, low is {low}");
        hog.go_on();
        assert!(hog.ended_well());
        set("reserve_bytes", 0);
    });
}

/// Only kernels with CONFIG_MEMORY_FAILURE know such a thing; Debian's for virtual machines does not.
fn poisoned() {
    set("reserve_bytes", 8 * C);
    full(8);
    let device = device();
    let buffer = device.alloc(&Request::new(4 * C)).expect("memory");
    let mapping = buffer.map(Access::ReadWrite).expect("a mapping");
    pattern(words(&mapping));
    let page = mapping.as_ptr().wrapping_add(CHUNK + 8192);
    let broken = frame(page);
    // SAFETY: a page of our own, which nobody touches any more.
    let done = unsafe { libc::madvise(page.cast(), 4096, libc::MADV_HWPOISON) };
    // EBUSY: it has an error from now on, and the kernel can do no more for such a page than to mark it.
    if done != 0 && crate::machine::errno() != libc::EBUSY {
        println!("gb-figure poisoned this kernel has no CONFIG_MEMORY_FAILURE: not tried");
        drop((mapping, buffer));
        set("reserve_bytes", 0);
        return;
    }
    drop((mapping, buffer));
    full(8);
    for _ in 0..8 {
        let buffer = device.alloc(&Request::new(24 * C)).expect("memory");
        let mapping = buffer.map(Access::ReadWrite).expect("a mapping");
        for chunk in words(&mapping).chunks_mut(CHUNK / 8) {
            chunk[0] = 1;
            let first = frame(chunk.as_ptr().cast());
            assert!(!(first..first + 512).contains(&broken), "frame {broken:#x} is back");
        }
        drop((mapping, buffer));
        full(8);
    }
    set("reserve_bytes", 0);
}

/// The physical page at an address that is mapped.
fn frame(at: *const u8) -> u64 {
    let pagemap = std::fs::File::open("/proc/self/pagemap").expect("proc is mounted");
    let mut entry = [0; 8];
    pagemap.read_exact_at(&mut entry, at as u64 / 4096 * 8).expect("an entry");
    let entry = u64::from_ne_bytes(entry);
    assert!(entry >> 63 == 1, "nothing is mapped there");
    entry & ((1 << 55) - 1)
}

fn keeps_within() {
    let limit = Setting::new("pool_limit_bytes", 16 * C);
    set("reserve_bytes", 64 * C);
    full(16);
    drop(limit);
    full(64);
    // Asking for more than there is must stop above the low mark, with an ok level.
    set("reserve_bytes", "64G");
    let mut before = 0;
    eventually("the reserve grows no more", || {
        let now = value("reserve_ready_bytes");
        let same = now == before && now > 0;
        before = now;
        std::thread::sleep(std::time::Duration::from_millis(300));
        same
    });
    assert_eq!(shown("ram_level"), "ok");
    assert!(value("available_bytes") > value("low_mark_bytes"));
    set("reserve_bytes", 0);
}

fn goes_when_low() {
    set("reserve_bytes", 16 * C);
    full(16);
    let low = Setting::new("low_mark_bytes", value("available_bytes") + (512 << 20));
    eventually("the level is low", || shown("ram_level") == "low");
    eventually("the reserve is gone", || value("reserve_ready_bytes") == 0);
    drop(low);
    eventually("the level is ok", || shown("ram_level") == "ok");
    full(16);
    set("reserve_bytes", 0);
}
