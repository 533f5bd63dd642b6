//! Every call, called wrongly in every way: refused with the right number, and nothing remains.

use crate::machine::{errno, value};
use crate::mapping::{buffer, device};
use crate::test::Test;
use greenboost_kmod::abi::{self, Alloc, Event, Info};
use greenboost_kmod::{CHUNK, Device};
use libc::{EFAULT, EINVAL, EMFILE, ENOTTY};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

pub const TESTS: &[Test] = &[
    ("abi: unknown calls and structs of another size are refused", unknown),
    ("abi: alloc refuses what is not defined", bad_allocs),
    ("abi: a fault in the caller's memory leaves nothing behind", faults),
    ("abi: without a free descriptor nothing is allocated", no_descriptors),
    ("abi: every file in sysfs is described", described),
    ("abi: read wants a whole event, and gives one only when there is news", reads),
    ("abi: descriptors are closed on exec, and positions mean nothing", descriptors),
    ("abi: each NUMA node serves, others are refused", nodes),
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
    for number in abi::CALLS.len() as u32..=255 {
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
    let bad = [
        Alloc { bytes: 0, ..good() },
        Alloc { bytes: 4096, ..good() },
        Alloc { bytes: CHUNK as u64 + 4096, ..good() },
        Alloc { bytes: u64::MAX, ..good() },
        Alloc { bytes: !(CHUNK as u64 - 1), ..good() },
        Alloc { bytes: 1 << 63, ..good() },
        Alloc { flags: 1, ..good() },
        Alloc { flags: 2, ..good() },
        Alloc { flags: 1 << 31, ..good() },
        Alloc { reserved: 1, ..good() },
        Alloc { node: -2, ..good() },
    ];
    for mut request in bad {
        assert_eq!(raw(&device, abi::IOC_ALLOC, &mut request), EINVAL, "{request:?}");
    }
    // Sizes that would overflow sums of budgets.
    for bytes in [1u64 << 62, i64::MAX as u64 & !(CHUNK as u64 - 1)] {
        assert_eq!(raw(&device, abi::IOC_ALLOC, &mut Alloc { bytes, ..good() }), libc::ENOMEM);
    }
    assert_eq!(value("pool_used_bytes"), 0);
    let mut request = good();
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
    // SAFETY: a page of our own.
    unsafe {
        writable.cast::<Alloc>().write(good());
        // Readable, so that the work is done; not writable, so that its result cannot be told.
        assert_eq!(libc::mprotect(writable, 4096, libc::PROT_READ), 0);
    }
    let (before, nothing) = (File::open("/proc/self").expect("a descriptor").as_raw_fd(), page(libc::PROT_NONE));
    // SAFETY: the kernel must refuse these addresses, and touch nothing else.
    unsafe {
        for _ in 0..100 {
            assert_eq!((libc::ioctl(fd, abi::IOC_ALLOC as _, writable), errno()), (-1, EFAULT));
        }
        for request in abi::CALLS {
            assert_eq!((libc::ioctl(fd, request as _, nothing), errno()), (-1, EFAULT), "{request:x}");
            assert_eq!((libc::ioctl(fd, request as _, usize::MAX - 7), errno()), (-1, EFAULT), "{request:x}");
        }
        libc::munmap(writable, 4096);
        libc::munmap(nothing, 4096);
    }
    assert_eq!(File::open("/proc/self").expect("a descriptor").as_raw_fd(), before, "no descriptor is lost");
    assert_eq!(value("pool_used_bytes"), 0);
}

fn no_descriptors() {
    let device = device();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a struct that lives through the calls.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        let none = libc::rlimit { rlim_cur: 3, ..limit };
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none);
    }
    let refused = raw(&device, abi::IOC_ALLOC, &mut good());
    // SAFETY: as above.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(refused, EMFILE);
    assert_eq!(value("pool_used_bytes"), 0);
}

/// As the kernel wants an ABI described; and nothing is described that is not there.
fn described() {
    const ABI: &str = include_str!("../../../kmod/Documentation/ABI/testing/sysfs-class-misc-greenboost");
    let what = |line: &'static str| line.strip_prefix("What:")?.trim().strip_prefix("/sys/class/misc/greenboost/");
    let mut described: Vec<_> = ABI.lines().filter_map(what).map(str::to_owned).collect();
    described.sort();
    let files = std::fs::read_dir("/sys/class/misc/greenboost").expect("sysfs").flatten();
    let files = files.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let mut there: Vec<_> = files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    there.retain(|name| !["uevent", "dev"].contains(&name.as_str()));
    there.sort();
    assert_eq!(described, there);
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
    for node in [0, 1] {
        let mut request = Alloc { node, ..good() };
        assert_eq!(raw(&device, abi::IOC_ALLOC, &mut request), 0);
        // SAFETY: the descriptor just made.
        unsafe { libc::close(request.fd) };
    }
    for node in [2, 1023, 1 << 20, i32::MAX] {
        assert_eq!(raw(&device, abi::IOC_ALLOC, &mut Alloc { node, ..good() }), EINVAL, "node {node}");
    }
    assert_eq!(raw(&device, abi::IOC_INFO, &mut Info::default()), 0);
}
