//! Every call, called wrongly in every way: refused with the right number, and nothing left behind.

use crate::Test;
use crate::machine::{errno, value};
use crate::mapping::{buffer, device};
use greenboost_kmod::abi::{self, Alloc, Event, Eventfd, Info, Key, Open, Publish, Query, Seal, Spill, Withdraw};
use greenboost_kmod::{CHUNK, Device};
use libc::{EALREADY, EBADF, EEXIST, EFAULT, EINVAL, EMFILE, ENOENT, ENOTDIR, ENOTTY, EPERM};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

pub const TESTS: &[Test] = &[
    ("abi: unknown calls and structs of another size are refused", unknown),
    ("abi: alloc refuses what is not defined", bad_allocs),
    ("abi: a fault in the caller's memory leaves nothing behind", faults),
    ("abi: without a free descriptor nothing is allocated", no_descriptors),
    ("abi: query, seal, publish, open, withdraw refuse what is not theirs", bad_objects),
    ("abi: spill and eventfd refuse what is not theirs", bad_watches),
    ("abi: read wants a whole event, and gives one only when there is news", reads),
    ("abi: descriptors are closed on exec, and positions mean nothing", descriptors),
    ("abi: NUMA node 0 serves, others are refused", nodes),
];

/// The number of the error, or 0.
pub fn raw<T>(device: &Device, request: u32, argument: &mut T) -> i32 {
    // SAFETY: the tests pass the struct of the request; what else they pass, the kernel must refuse to touch.
    let done = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), request as _, std::ptr::from_mut(argument)) };
    if done == 0 { 0 } else { errno() }
}

fn good() -> Alloc {
    Alloc { bytes: CHUNK as u64, node: -1, ..Default::default() }
}

fn unknown() {
    let device = device();
    let mut room = [0u8; 4096];
    for number in 9..=255u32 {
        let request = abi::IOC_INFO & !0xff | number;
        assert_eq!(raw(&device, request, &mut room), ENOTTY, "call {number}");
    }
    // Each known one, of any other size or direction.
    for request in abi::CALLS {
        for other in (0..512u32).chain([1 << 13, (1 << 14) - 1]).flat_map(|size| (0..4u32).map(move |way| (size, way)))
        {
            let other = other.1 << 30 | other.0 << 16 | request & 0xffff;
            if other != request {
                assert_eq!(raw(&device, other, &mut room), ENOTTY, "{other:x} instead of {request:x}");
            }
        }
        assert_eq!(raw(&device, request ^ 1 << 8, &mut room), ENOTTY, "somebody else's {request:x}");
    }
    assert_eq!(raw(&device, 0, &mut room), ENOTTY);
    assert_eq!(raw(&device, u32::MAX, &mut room), ENOTTY);
}

fn bad_allocs() {
    let device = device();
    let unterminated = [b'x'; abi::LABEL_LEN];
    let label = |text: &str| {
        let mut label = [0; abi::LABEL_LEN];
        label[..text.len()].copy_from_slice(text.as_bytes());
        label
    };
    let bad = [
        Alloc { bytes: 0, ..good() },
        Alloc { bytes: 4096, ..good() },
        Alloc { bytes: CHUNK as u64 + 4096, ..good() },
        Alloc { bytes: u64::MAX, ..good() },
        Alloc { bytes: !(CHUNK as u64 - 1), ..good() },
        Alloc { bytes: 1 << 63, ..good() },
        Alloc { flags: 2, ..good() },
        Alloc { flags: 1 << 31, ..good() },
        Alloc { reserved: 1, ..good() },
        Alloc { node: -2, ..good() },
        Alloc { label: unterminated, ..good() },
        Alloc { label: label("two words"), ..good() },
        Alloc { label: label("line\n"), ..good() },
        Alloc { label: label("\u{1}"), ..good() },
    ];
    for mut request in bad {
        assert_eq!(raw(&device, abi::IOC_ALLOC, &mut request), EINVAL, "{request:?}");
    }
    // Sizes that would overflow sums of budgets.
    for bytes in [1u64 << 62, i64::MAX as u64 & !(CHUNK as u64 - 1)] {
        assert_eq!(raw(&device, abi::IOC_ALLOC, &mut Alloc { bytes, ..good() }), libc::ENOSPC);
    }
    assert_eq!(value("pool_used"), 0);
    let mut request = Alloc { label: label("blk.0.ffn_gate_exps.weight"), ..good() };
    assert_eq!(raw(&device, abi::IOC_ALLOC, &mut request), 0);
    // SAFETY: the descriptor just made.
    unsafe { libc::close(request.fd) };
}

fn faults() {
    let device = device();
    let fd = device.as_fd().as_raw_fd();
    let page = |protection| {
        // SAFETY: a new page.
        let got = unsafe {
            libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        assert_ne!(got, libc::MAP_FAILED);
        got
    };
    let writable = page(libc::PROT_READ | libc::PROT_WRITE);
    let shared = writable.wrapping_byte_add(2048);
    // SAFETY: a page of our own.
    unsafe {
        writable.cast::<Alloc>().write(good());
        shared.cast::<Open>().write(Open::default());
        // Readable, so that the work is done; not writable, so that its result cannot be told.
        assert_eq!(libc::mprotect(writable, 4096, libc::PROT_READ), 0);
    }
    publish(&device);
    let (before, nothing) = (File::open("/proc/self").expect("a descriptor").as_raw_fd(), page(libc::PROT_NONE));
    // SAFETY: the kernel must refuse these addresses, and touch nothing else.
    unsafe {
        for _ in 0..100 {
            assert_eq!((libc::ioctl(fd, abi::IOC_ALLOC as _, writable), errno()), (-1, EFAULT));
            assert_eq!((libc::ioctl(fd, abi::IOC_OPEN as _, shared), errno()), (-1, EFAULT));
        }
        for request in abi::CALLS {
            assert_eq!((libc::ioctl(fd, request as _, nothing), errno()), (-1, EFAULT), "{request:x}");
            assert_eq!((libc::ioctl(fd, request as _, usize::MAX - 7), errno()), (-1, EFAULT), "{request:x}");
        }
        libc::munmap(writable, 4096);
        libc::munmap(nothing, 4096);
    }
    assert_eq!(File::open("/proc/self").expect("a descriptor").as_raw_fd(), before, "no descriptor is lost");
    assert_eq!((value("pool_used"), value("cache_used")), (CHUNK as u64, CHUNK as u64), "nobody has it open");
    assert_eq!(raw(&device, abi::IOC_WITHDRAW, &mut Withdraw::default()), 0);
    assert_eq!(value("pool_used"), 0);
}

/// A chunk under the key of zeroes, in nobody's use.
fn publish(device: &Device) {
    let fd = buffer(1).0.into_fd();
    assert_eq!(raw(device, abi::IOC_SEAL, &mut Seal { fd: fd.as_raw_fd(), flags: 0 }), 0);
    assert_eq!(raw(device, abi::IOC_PUBLISH, &mut Publish { fd: fd.as_raw_fd(), ..Default::default() }), 0);
}

fn no_descriptors() {
    let device = device();
    publish(&device);
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a struct that lives through the calls.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        let none = libc::rlimit { rlim_cur: 3, ..limit };
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none);
    }
    let refused = [raw(&device, abi::IOC_ALLOC, &mut good()), raw(&device, abi::IOC_OPEN, &mut Open::default())];
    // SAFETY: as above.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(refused, [EMFILE; 2]);
    assert_eq!((value("pool_used"), value("cache_used")), (CHUNK as u64, CHUNK as u64), "nobody has it open");
    assert_eq!(raw(&device, abi::IOC_WITHDRAW, &mut Withdraw::default()), 0);
    assert_eq!(value("pool_used"), 0);
}

fn bad_objects() {
    let device = device();
    for id in [0, 1 << 40, u64::MAX] {
        assert_eq!(raw(&device, abi::IOC_QUERY, &mut Query { id, ..Default::default() }), ENOENT);
    }
    let (buffer, mapping) = buffer(1);
    let id = buffer.id();
    assert_eq!(raw(&device, abi::IOC_QUERY, &mut Query { id, ..Default::default() }), 0);
    for reserved in [[1, 0], [0, 1 << 63]] {
        assert_eq!(raw(&device, abi::IOC_QUERY, &mut Query { id, reserved, ..Default::default() }), EINVAL);
    }
    let fd = buffer.as_fd().as_raw_fd();
    let file = File::open("/proc/self/status").expect("proc");
    for (other, wanted) in
        [(-1, EBADF), (9999, EBADF), (file.as_raw_fd(), EINVAL), (device.as_fd().as_raw_fd(), EINVAL)]
    {
        assert_eq!(raw(&device, abi::IOC_SEAL, &mut Seal { fd: other, flags: 0 }), wanted);
        assert_eq!(raw(&device, abi::IOC_PUBLISH, &mut Publish { fd: other, ..Default::default() }), wanted);
    }
    assert_eq!(raw(&device, abi::IOC_SEAL, &mut Seal { fd, flags: 1 }), EINVAL);
    let odd = Key { reserved: 1, ..Default::default() };
    let publish = || Publish { fd, ..Default::default() };
    assert_eq!(raw(&device, abi::IOC_PUBLISH, &mut Publish { reserved: 1, ..publish() }), EINVAL);
    assert_eq!(raw(&device, abi::IOC_PUBLISH, &mut Publish { key: odd, ..publish() }), EINVAL);
    assert_eq!(raw(&device, abi::IOC_OPEN, &mut Open { flags: 1, ..Default::default() }), EINVAL);
    assert_eq!(raw(&device, abi::IOC_OPEN, &mut Open { key: odd, ..Default::default() }), EINVAL);
    assert_eq!(raw(&device, abi::IOC_WITHDRAW, &mut Withdraw { reserved: 1, ..Default::default() }), EINVAL);
    assert_eq!(raw(&device, abi::IOC_WITHDRAW, &mut Withdraw { key: odd, ..Default::default() }), EINVAL);
    assert_eq!(raw(&device, abi::IOC_OPEN, &mut Open::default()), ENOENT);
    assert_eq!(raw(&device, abi::IOC_WITHDRAW, &mut Withdraw::default()), ENOENT);
    assert_eq!(raw(&device, abi::IOC_PUBLISH, &mut publish()), EPERM, "not sealed");
    drop(mapping);
    assert_eq!(raw(&device, abi::IOC_SEAL, &mut Seal { fd, flags: 0 }), 0);
    assert_eq!(raw(&device, abi::IOC_SEAL, &mut Seal { fd, flags: 0 }), EALREADY);
    assert_eq!(raw(&device, abi::IOC_PUBLISH, &mut publish()), 0);
    assert_eq!(raw(&device, abi::IOC_PUBLISH, &mut publish()), EEXIST);
    assert_eq!(raw(&device, abi::IOC_WITHDRAW, &mut Withdraw::default()), 0);
}

fn bad_watches() {
    let device = device();
    let file = File::open("/proc/self/status").expect("proc");
    let dir = File::open("/tmp").expect("a folder");
    let spill = |dir_fd, low, critical, flags| Spill { dir_fd, flags, low, critical };
    for (mut request, wanted) in [
        (spill(9999, 2, 1, 0), EBADF),
        (spill(-2, 2, 1, 0), EINVAL),
        (spill(file.as_raw_fd(), 2, 1, 0), ENOTDIR),
        (spill(dir.as_raw_fd(), 1, 2, 0), EINVAL),
        (spill(dir.as_raw_fd(), 2, 1, 1), EINVAL),
        (spill(dir.as_raw_fd(), 2, 1, 0), 0),
        (spill(dir.as_raw_fd(), 2, 1, 0), 0),
        (spill(-1, 0, 0, 0), 0),
        (spill(-1, 0, 0, 0), 0),
    ] {
        assert_eq!(raw(&device, abi::IOC_SPILL, &mut request), wanted, "{request:?}");
    }
    for (fd, flags, wanted) in
        [(9999, 0, EBADF), (-2, 0, EINVAL), (dir.as_raw_fd(), 0, EINVAL), (-1, 1, EINVAL), (-1, 0, 0)]
    {
        assert_eq!(raw(&device, abi::IOC_EVENTFD, &mut Eventfd { fd, flags }), wanted, "{fd}");
    }
}

fn reads() {
    let device = device();
    let mut event = Event::default();
    let mut read = |size| {
        // SAFETY: no more than the struct.
        let got = unsafe { libc::read(device.as_fd().as_raw_fd(), (&raw mut event).cast(), size) };
        if got < 0 { -errno() } else { got as i32 }
    };
    assert_eq!(read(size_of::<Event>() - 1), -EINVAL);
    assert_eq!(read(0), -EINVAL);
    assert_eq!(read(size_of::<Event>()), -libc::EAGAIN);
    let mut poll = libc::pollfd { fd: device.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd.
    assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 0) }, 0);
}

fn descriptors() {
    let (buffer, _mapping) = buffer(1);
    // SAFETY: no memory involved.
    unsafe {
        assert_eq!(libc::fcntl(buffer.as_fd().as_raw_fd(), libc::F_GETFD), libc::FD_CLOEXEC);
        assert_eq!(libc::lseek(buffer.as_fd().as_raw_fd(), 0, libc::SEEK_END), CHUNK as i64, "as every DMA-BUF");
        assert_eq!((libc::lseek(device().as_fd().as_raw_fd(), 1, libc::SEEK_SET), errno()), (-1, libc::ESPIPE));
    }
}

fn nodes() {
    let device = device();
    let mut request = Alloc { node: 0, ..good() };
    assert_eq!(raw(&device, abi::IOC_ALLOC, &mut request), 0);
    // SAFETY: the descriptor just made.
    unsafe { libc::close(request.fd) };
    for node in [1, 1023, 1 << 20, i32::MAX] {
        assert_eq!(raw(&device, abi::IOC_ALLOC, &mut Alloc { node, ..good() }), EINVAL, "node {node}");
    }
    assert_eq!(raw(&device, abi::IOC_INFO, &mut Info::default()), 0);
}
