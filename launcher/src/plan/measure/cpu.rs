//! How fast the CPU reads RAM, by number of threads.

use super::conditions::median;
use std::fs;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// Beyond the caches of all but the largest processors.
const MOST: u64 = 512 << 20;
const PIECE: usize = 4 << 20;
const LONG: Duration = Duration::from_millis(50);
/// Each is measured this many times.
const RUNS: usize = 3;

/// The processor's name.
pub fn model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = text.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    named.map_or_else(|| std::env::consts::ARCH.to_owned(), |name| name.trim().to_owned())
}

/// Cores that this process may use; `None` where a virtual machine shows each of its processors as one, whatever it is.
pub fn cores() -> Option<usize> {
    let mut processors = 0;
    let mut found = std::collections::BTreeSet::new();
    for entry in fs::read_dir("/sys/devices/system/cpu").ok()?.flatten() {
        let read = |name: &str| fs::read_to_string(entry.path().join("topology").join(name)).ok();
        if let (Some(package), Some(core)) = (read("physical_package_id"), read("core_id")) {
            processors += 1;
            found.insert((package, core));
        }
    }
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let is_virtual = info.lines().any(|line| line.starts_with("flags") && line.contains(" hypervisor"));
    let all = thread::available_parallelism().map_or(1, usize::from);
    match found.len() {
        0 => None,
        cores if cores == processors && is_virtual => None,
        // Of the processors that it may use, the same share.
        cores => Some((cores * all).div_ceil(processors)),
    }
}

/// Gigabytes a second with 1, 2, 4, ... threads, and with all: medians. And the furthest that repetitions lay apart.
pub fn reads() -> (Vec<(usize, f64)>, f64) {
    let all = thread::available_parallelism().map_or(1, usize::from);
    let buffer = memory(all);
    let mut counts: Vec<usize> =
        std::iter::successors(Some(1), |count| Some(count * 2)).take_while(|c| *c < all).collect();
    counts.push(all);
    let read = |threads| read(&buffer, threads, |started| started.elapsed() >= LONG, || ()).0;
    let mut furthest: f64 = 0.0;
    let mut repeated = |threads| {
        let mut runs: Vec<f64> = (0..RUNS).map(|_| read(threads)).collect();
        let (rate, spread) = median(&mut runs);
        furthest = furthest.max(spread);
        (threads, rate)
    };
    let reads = counts.into_iter().map(&mut repeated).collect();
    (reads, furthest)
}

/// Gigabytes a second that this many threads read while this one does something else, and what came of that.
pub fn reads_beside<T>(threads: usize, work: impl FnOnce() -> T) -> (f64, T) {
    let buffer = memory(threads);
    let is_done = AtomicBool::new(false);
    let work = || {
        let result = work();
        is_done.store(true, Relaxed);
        result
    };
    read(&buffer, threads, |_| is_done.load(Relaxed), work)
}

/// Memory to read, filled by this many threads.
fn memory(threads: usize) -> Vec<u8> {
    let memory = crate::machine::Machine::here().available().unwrap_or(MOST);
    let bytes = (memory / 8).min(MOST) as usize;
    // Zeroed pages come from the system one by one as each thread fills its part, near that thread.
    let mut buffer = vec![0u8; bytes];
    let share = bytes.div_ceil(threads).max(PIECE);
    thread::scope(|scope| {
        for part in buffer.chunks_mut(share) {
            scope.spawn(|| part.fill(1));
        }
    });
    buffer
}

/// Gigabytes a second that this many threads read together until it is over, and what this one does meanwhile.
fn read<T>(
    buffer: &[u8],
    threads: usize,
    is_over: impl Fn(Instant) -> bool + Sync,
    work: impl FnOnce() -> T,
) -> (f64, T) {
    let ready = Barrier::new(threads + 1);
    let share = buffer.len().div_ceil(threads).max(PIECE);
    let (rates, result): (f64, T) = thread::scope(|scope| {
        let (ready, is_over) = (&ready, &is_over);
        let parts = buffer.chunks(share).chain(std::iter::repeat(buffer)).take(threads);
        let running: Vec<_> = parts.map(|part| scope.spawn(move || read_part(part, ready, is_over))).collect();
        ready.wait();
        let result = work();
        (running.into_iter().map(|thread| thread.join().unwrap_or(0.0)).sum(), result)
    });
    (rates / 1e9, result)
}

fn read_part(part: &[u8], ready: &Barrier, is_over: impl Fn(Instant) -> bool) -> f64 {
    ready.wait();
    let started = Instant::now();
    let mut bytes = 0;
    for piece in part.chunks(PIECE).cycle() {
        // The C library's search for a byte that is not there is the fastest way to read, also in a debug build.
        // SAFETY: the piece has as many bytes as is said.
        let found = unsafe { libc::memchr(piece.as_ptr().cast(), 0, piece.len()) };
        std::hint::black_box(found);
        bytes += piece.len();
        if is_over(started) {
            break;
        }
    }
    bytes as f64 / started.elapsed().as_secs_f64()
}
