//! Random calls from four threads: whatever they do, the kernel says nothing and nothing is left.
//!
//! A call is well meant (a struct with one or two odd fields), or noise: any bytes under a known number, or any number at
//! all. Each kind must have succeeded now and then, or it tests nothing.

use crate::machine::{Marks, Setting, option, value};
use crate::process::Child;
use crate::test::Test;
use greenboost_kmod::{CHUNK, abi};
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

pub const TESTS: &[Test] = &[("fuzz: random calls from four threads leave nothing", random_calls)];

const THREADS: u64 = 4;

/// A kind of call, how often it comes, and whether it can succeed.
struct Kind {
    name: &'static str,
    weight: u64,
    succeeds: bool,
    run: fn(&mut Thread) -> bool,
}

const fn kind(name: &'static str, weight: u64, succeeds: bool, run: fn(&mut Thread) -> bool) -> Kind {
    Kind { name, weight, succeeds, run }
}

const KINDS: [Kind; 11] = [
    kind("info", 2, true, info),
    kind("alloc", 2, true, alloc),
    kind("noise", 6, true, noise),
    kind("number", 3, false, number),
    kind("read", 2, true, read),
    kind("poll", 2, true, poll),
    kind("map", 5, true, map),
    kind("sync", 3, true, sync),
    kind("name", 1, true, name),
    kind("fence", 2, false, fence),
    kind("close", 2, true, close),
];

/// What the threads know of each other's work.
struct Shared {
    fd: AtomicI32,
    tried: [AtomicU64; KINDS.len()],
    succeeded: [AtomicU64; KINDS.len()],
}

/// One thread, whose descriptors the others use as well.
struct Thread {
    random: Random,
    devices: Vec<File>,
    folder: File,
    own: Vec<RawFd>,
    shared: Arc<Shared>,
}

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

    fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
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

    /// Zero, as it should be, or not.
    fn flags(&mut self) -> u32 {
        if self.one_in(16) { self.number() as u32 } else { 0 }
    }
}

fn random_calls() {
    let calls = option("gb.fuzz").and_then(|calls| calls.parse().ok()).unwrap_or(100_000u64);
    let _limit = Setting::new("pool_limit_bytes", 64 * CHUNK as u64);
    // Else there is nothing to read: a level that rises and falls all the time.
    let _marks = Marks::new(value("low_mark_bytes"), 0);
    let above = value("available_bytes") * 2;
    let restless = Child::run(|_| {
        loop {
            let low = Setting::new("low_mark_bytes", above);
            std::thread::sleep(Duration::from_millis(20));
            drop(low);
            std::thread::sleep(Duration::from_millis(700));
        }
    });
    let child = Child::run(|_| {
        let shared = Arc::new(Shared {
            fd: AtomicI32::new(-1),
            tried: [const { AtomicU64::new(0) }; KINDS.len()],
            succeeded: [const { AtomicU64::new(0) }; KINDS.len()],
        });
        let threads: Vec<_> = (1..=THREADS)
            .map(|seed| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || Thread::new(seed, shared).hammer(seed, calls / THREADS))
            })
            .collect();
        for thread in threads {
            thread.join().expect("the thread ends");
        }
        let mut done = 0;
        for (kind, (tried, succeeded)) in KINDS.iter().zip(shared.tried.iter().zip(&shared.succeeded)) {
            let (tried, succeeded) = (tried.load(Relaxed), succeeded.load(Relaxed));
            println!("gb-figure fuzz.{} {tried} {succeeded}", kind.name);
            assert!(tried > 0 && (succeeded > 0 || !kind.succeeds), "{} never succeeded", kind.name);
            assert!(kind.name != "number" || succeeded == 0, "{succeeded} unknown numbers are calls");
            done += succeeded;
        }
        println!("gb-figure fuzz.calls {calls} {done}");
        assert!(done > calls / 50, "only {done} calls of {calls} did anything");
    });
    let well = child.ended_well();
    restless.kill();
    assert!(well);
    crate::machine::eventually("all came back", || value("pool_used_bytes") == 0);
}

impl Thread {
    fn new(seed: u64, shared: Arc<Shared>) -> Self {
        let mut device = File::options();
        device.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        Self {
            random: Random(seed * 0x9E37_79B9_7F4A_7C15),
            devices: (0..2).map(|_| device.open("/dev/greenboost").expect("open")).collect(),
            folder: File::open("/tmp").expect("a folder"),
            own: Vec::new(),
            shared,
        }
    }

    fn hammer(&mut self, seed: u64, calls: u64) {
        let sum = KINDS.iter().map(|kind| kind.weight).sum();
        for number in 0..calls {
            // A million take a while on a kernel that checks everything, and who says nothing for so long is taken for dead.
            if seed == 1 && number % (calls / 20).max(1) == 0 {
                println!("gb-round about {} calls", number * THREADS);
            }
            let mut at = self.random.below(sum);
            let chosen = KINDS.iter().position(|kind| {
                let here = at < kind.weight;
                at = at.saturating_sub(kind.weight);
                here
            });
            let chosen = chosen.expect("below the sum");
            self.shared.tried[chosen].fetch_add(1, Relaxed);
            if (KINDS[chosen].run)(self) {
                self.shared.succeeded[chosen].fetch_add(1, Relaxed);
            }
            if self.own.len() > 24 {
                self.own.drain(..12).for_each(shut);
            }
        }
        self.own.drain(..).for_each(shut);
    }

    /// One of two devices; once in a while something that is none.
    fn device(&mut self) -> RawFd {
        if self.random.one_in(64) { self.fd() } else { self.devices[self.random.below(2) as usize].as_raw_fd() }
    }

    /// A descriptor, mostly of a buffer; the others may close it at any time.
    fn fd(&mut self) -> RawFd {
        match self.random.below(8) {
            0 => self.folder.as_raw_fd(),
            1 => self.random.number() as i32,
            2..=4 => self.shared.fd.load(Relaxed),
            _ => self.own.last().copied().unwrap_or(-1),
        }
    }

    fn call<T>(&mut self, request: u32, argument: &mut T) -> bool {
        let device = self.device();
        ioctl(device, request, argument)
    }

    fn keep(&mut self, fd: RawFd) {
        self.shared.fd.store(fd, Relaxed);
        self.own.push(fd);
    }
}

fn ioctl<T>(fd: RawFd, request: u32, argument: &mut T) -> bool {
    // SAFETY: the struct of the request, or a larger array.
    unsafe { libc::ioctl(fd, request as _, std::ptr::from_mut(argument)) == 0 }
}

fn shut(fd: RawFd) {
    // SAFETY: a descriptor of the fuzzer's, which no safe object owns.
    unsafe { libc::close(fd) };
}

fn info(thread: &mut Thread) -> bool {
    thread.call(abi::IOC_INFO, &mut abi::Info::default())
}

fn alloc(thread: &mut Thread) -> bool {
    let random = &mut thread.random;
    let mut request = abi::Alloc {
        bytes: if random.one_in(4) { random.number() } else { (1 + random.below(2)) * CHUNK as u64 },
        node: if random.one_in(8) { random.number() as i32 } else { -1 },
        flags: random.flags(),
        reserved: random.flags(),
        ..Default::default()
    };
    let done = thread.call(abi::IOC_ALLOC, &mut request);
    if done {
        thread.keep(request.fd);
    }
    done
}

/// Any bytes under a known number; also those that make descriptors, which are then kept as others are.
fn noise(thread: &mut Thread) -> bool {
    let mut words = [0u64; 32];
    words.iter_mut().for_each(|word| *word = thread.random.number());
    let request = abi::CALLS[thread.random.below(abi::CALLS.len() as u64) as usize];
    let done = thread.call(request, &mut words);
    if done && request == abi::IOC_ALLOC {
        // SAFETY: the array is larger than the struct, and aligned as it is; any bytes make one.
        thread.keep(unsafe { (*words.as_ptr().cast::<abi::Alloc>()).fd });
    }
    done
}

/// Any number, or ours with anything as its size and direction: none of them is a call.
fn number(thread: &mut Thread) -> bool {
    let mut room = [thread.random.number(); 2048];
    let number = thread.random.next() as u32;
    let request = if thread.random.one_in(3) { number } else { number & !0xff00 | 0xdc00 };
    !abi::CALLS.contains(&request) && ioctl(thread.devices[0].as_raw_fd(), request, &mut room)
}

/// Of nothing but the devices: standard input would wait.
fn read(thread: &mut Thread) -> bool {
    let mut event = [0u8; 64];
    let device = thread.devices[thread.random.below(2) as usize].as_raw_fd();
    let size = if thread.random.one_in(4) { thread.random.below(64) as usize } else { size_of::<abi::Event>() };
    // SAFETY: no more than there is room for.
    unsafe { libc::read(device, event.as_mut_ptr().cast(), size) > 0 }
}

/// Does not wait.
fn poll(thread: &mut Thread) -> bool {
    let fd = if thread.random.one_in(4) { thread.fd() } else { thread.device() };
    let mut poll = libc::pollfd { fd, events: thread.random.next() as i16, revents: 0 };
    // SAFETY: one pollfd.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
}

/// Maps a part, touches it, unmaps it.
fn map(thread: &mut Thread) -> bool {
    let (fd, random) = (thread.fd(), &mut thread.random);
    let (len, offset) = ((1 + random.below(3)) * 4096, random.below(1024) * 4096);
    let protection = if random.below(2) == 0 { libc::PROT_READ } else { libc::PROT_READ | libc::PROT_WRITE };
    let flags = if random.one_in(16) { libc::MAP_PRIVATE } else { libc::MAP_SHARED };
    // SAFETY: a new mapping; other threads close descriptors but unmap nothing.
    unsafe {
        let got = libc::mmap(std::ptr::null_mut(), len as usize, protection, flags, fd, offset as i64);
        if got == libc::MAP_FAILED {
            return false;
        }
        std::hint::black_box(got.cast::<u8>().read_volatile());
        libc::munmap(got, len as usize) == 0
    }
}

/// DMA_BUF_IOCTL_SYNC: the beginning or the end of an access.
fn sync(thread: &mut Thread) -> bool {
    let mut flags = if thread.random.one_in(8) { thread.random.number() } else { thread.random.below(8) };
    ioctl(thread.fd(), 0x4008_6200, &mut flags)
}

/// DMA_BUF_SET_NAME: a name that others see.
fn name(thread: &mut Thread) -> bool {
    let mut name = *b"a name that others see\0";
    name[0] = thread.random.next() as u8;
    ioctl(thread.fd(), 0x4008_6201, &mut name)
}

/// DMA_BUF_IOCTL_EXPORT_SYNC_FILE and its opposite; not every kernel has them.
fn fence(thread: &mut Thread) -> bool {
    let mut request = [thread.random.below(8) as u32, thread.fd() as u32];
    let export = thread.random.one_in(2);
    let done = ioctl(thread.fd(), if export { 0xC008_6202 } else { 0x4008_6203 }, &mut request);
    if done && export {
        thread.own.push(request[1] as i32);
    }
    done
}

fn close(thread: &mut Thread) -> bool {
    // SAFETY: a descriptor of this thread's, which no safe object owns.
    thread.own.pop().is_some_and(|fd| unsafe { libc::close(fd) } == 0)
}
