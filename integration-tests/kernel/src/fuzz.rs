//! Random calls from four threads: whatever they do, the kernel says nothing and nothing is left.

use crate::Test;
use crate::machine::{Setting, option};
use crate::process::Child;
use greenboost_kmod::{CHUNK, abi};
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

pub const TESTS: &[Test] = &[("fuzz: random calls from four threads leave nothing", random_calls)];

const THREADS: u64 = 4;

/// xorshift64: enough to be everywhere, and the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Mostly small, sometimes an edge, sometimes anything.
    fn number(&mut self) -> u64 {
        match self.below(8) {
            0 => u64::MAX,
            1 => 1 << self.below(64),
            2 => self.next(),
            3 => 0,
            _ => self.below(8),
        }
    }
}

fn random_calls() {
    let calls = option("gb.fuzz").and_then(|calls| calls.parse().ok()).unwrap_or(100_000u64);
    let _limit = Setting::new("pool_limit", 64 * CHUNK as u64);
    let child = Child::run(|_| {
        let shared = Arc::new((AtomicI32::new(-1), AtomicU64::new(0)));
        let threads: Vec<_> = (1..=THREADS)
            .map(|seed| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || hammer(seed, calls / THREADS, &shared.0, &shared.1))
            })
            .collect();
        for thread in threads {
            thread.join().expect("the thread ends");
        }
        let done = shared.1.load(Ordering::Relaxed);
        println!("gb-figure fuzz.calls {calls} fuzz.successes {done}");
        assert!(done > calls / 50, "only {done} calls of {calls} did anything");
    });
    assert!(child.ended_well());
    // What the dead process published waits for its time; nobody will come for it.
    let _none = Setting::new("cache_limit", 0);
    crate::machine::eventually("the cache is empty", || crate::machine::value("pool_used") == 0);
}

/// One thread's calls, on descriptors the others close under it.
fn hammer(seed: u64, calls: u64, last: &AtomicI32, done: &AtomicU64) {
    let mut random = Random(seed * 0x9E37_79B9_7F4A_7C15);
    let files: Vec<_> =
        (0..2).map(|_| File::options().read(true).write(true).open("/dev/greenboost").expect("open")).collect();
    let dir = File::open("/tmp").expect("a folder");
    let mut own: Vec<RawFd> = Vec::new();
    for call_number in 0..calls {
        // A million take a while on a kernel that checks everything, and who says nothing for so long is taken for dead.
        if seed == 1 && call_number % (calls / 20).max(1) == 0 {
            println!("gb-round about {} calls", call_number * THREADS);
        }
        let device = files[random.below(2) as usize].as_raw_fd();
        let any_fd = match random.below(4) {
            0 => last.load(Ordering::Relaxed),
            1 => dir.as_raw_fd(),
            2 => random.number() as i32,
            _ => own.last().copied().unwrap_or(-1),
        };
        let key = abi::Key { ino: random.below(4), ..Default::default() };
        let ok = match random.below(32) {
            0 => {
                let mut request = abi::Alloc {
                    bytes: if random.below(4) == 0 { random.number() } else { (1 + random.below(2)) * CHUNK as u64 },
                    node: -1,
                    flags: (random.below(8) == 0).into(),
                    ..Default::default()
                };
                let ok = call(device, abi::IOC_ALLOC, &mut request);
                if ok {
                    last.store(request.fd, Ordering::Relaxed);
                    own.push(request.fd);
                }
                ok
            }
            1 | 12 | 13 => {
                call(device, abi::IOC_QUERY, &mut abi::Query { id: random.below(4096), ..Default::default() })
            }
            2 | 14 | 15 => {
                call(device, abi::IOC_SEAL, &mut abi::Seal { fd: any_fd, flags: (random.below(16) == 0).into() })
            }
            3 | 16 => {
                let ttl_ms = random.below(20) as u32;
                call(device, abi::IOC_PUBLISH, &mut abi::Publish { key, fd: any_fd, ttl_ms, reserved: 0 })
            }
            4 | 17 | 18 => {
                let mut request = abi::Open { key, ..Default::default() };
                let ok = call(device, abi::IOC_OPEN, &mut request);
                if ok {
                    own.push(request.fd);
                }
                ok
            }
            5 => call(device, abi::IOC_WITHDRAW, &mut abi::Withdraw { key, reserved: 0 }),
            6 | 19 => {
                let (low, critical) = (random.number(), random.number());
                call(
                    device,
                    abi::IOC_SPILL,
                    &mut abi::Spill { dir_fd: any_fd, flags: 0, low: low >> 8, critical: critical >> 40 },
                )
            }
            7 | 20 => call(device, abi::IOC_EVENTFD, &mut abi::Eventfd { fd: any_fd, flags: 0 }),
            8 | 21 => call(device, abi::IOC_INFO, &mut abi::Info::default()),
            9 | 22..=25 => touch(any_fd, &mut random),
            10 | 26..=29 => {
                let mut noise = [0u64; 32];
                noise.iter_mut().for_each(|word| *word = random.number());
                // The calls that make descriptors would make some that nobody closes.
                let number = [0, 2, 3, 5, 6, 7][random.below(6) as usize];
                let request = [
                    abi::IOC_INFO,
                    0,
                    abi::IOC_QUERY,
                    abi::IOC_SEAL,
                    0,
                    abi::IOC_WITHDRAW,
                    abi::IOC_SPILL,
                    abi::IOC_EVENTFD,
                ][number as usize % 8];
                call(device, if request == 0 { random.next() as u32 } else { request }, &mut noise)
            }
            _ => {
                // SAFETY: a descriptor of this thread's, which no safe object owns.
                own.pop().is_some_and(|fd| unsafe { libc::close(fd) } == 0)
            }
        };
        if own.len() > 24 {
            // SAFETY: as above.
            own.drain(..12).for_each(|fd| unsafe {
                libc::close(fd);
            });
        }
        done.fetch_add(ok.into(), Ordering::Relaxed);
    }
}

fn call<T>(device: RawFd, request: u32, argument: &mut T) -> bool {
    // SAFETY: the struct of the request, or a larger array.
    unsafe { libc::ioctl(device, request as _, std::ptr::from_mut(argument)) == 0 }
}

/// Maps a part, touches it, unmaps it.
fn touch(fd: RawFd, random: &mut Random) -> bool {
    let (len, offset) = ((1 + random.below(3)) * 4096, random.below(1024) * 4096);
    let protection = if random.below(2) == 0 { libc::PROT_READ } else { libc::PROT_READ | libc::PROT_WRITE };
    // SAFETY: a new mapping; other threads close descriptors but unmap nothing.
    unsafe {
        let got = libc::mmap(std::ptr::null_mut(), len as usize, protection, libc::MAP_SHARED, fd, offset as i64);
        if got == libc::MAP_FAILED {
            return false;
        }
        std::hint::black_box(got.cast::<u8>().read_volatile());
        libc::munmap(got, len as usize) == 0
    }
}
