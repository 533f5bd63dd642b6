//! From loading to unloading, and every way a process can leave in between: nothing stays.

use crate::machine::{self, eventually, load, set, shown, unload, value};
use crate::mapping::{buffer, device, pattern, words};
use crate::peer::{self, Peer};
use crate::process::{Child, Count, elsewhere};
use crate::test::Test;
use greenboost_kmod::{Access, CHUNK, Device, Request, abi};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

pub const LOADING: &[Test] = &[
    ("loading: the module loads, twice, with its defaults", loads),
    ("loading: the defaults leave the machine usable", defaults),
    ("loading: every file in sysfs holds one value", one_value_per_file),
];

pub const TESTS: &[Test] = &[
    ("life: a buffer lives as long as its last descriptor or mapping", last_reference),
    ("life: a descriptor passed over a socket is the same memory", passed_over_a_socket),
    ("life: a forked child shares the memory, and leaves it behind", fork_shares),
    ("life: kill -9 while allocating, mapping, pinning, importing gives all back", killed_in_every_phase),
    ("life: what is still pinned stays charged until it is not", pinned_beyond_its_end),
    ("life: the module cannot be unloaded while anything lives", busy),
    ("life: what a process holds shows in its fdinfo and in its RSS", shows),
];

pub const UNLOADING: &[Test] = &[
    ("unloading: it unloads with a reserve, and gives all back", unloads_clean),
    ("unloading: a filesystem that hangs refuses it, until it answers", hangs),
    ("unloading: bad parameters are survived, and it loads again", loads_again),
];

fn loads() {
    load("gb_peer", "").expect("the peer loads");
    load("greenboost", "").expect("the module loads");
    unload("greenboost").expect("nothing holds it");
    load("greenboost", "").expect("it loads again");
    let meta = std::fs::metadata(Device::PATH).expect("the device is there");
    assert!(meta.file_type().is_char_device());
    assert_eq!(meta.permissions().mode() & 0o777, 0o660);
    drop(device());
}

fn defaults() {
    let ram = machine::counter("/proc/meminfo", "MemTotal") * 1024;
    let info = device().info().expect("info");
    assert!(
        info.pool_limit_bytes > ram / 4 && info.pool_limit_bytes + (1 << 30) <= ram + (64 << 20),
        "{info:?} of {ram}"
    );
    // Half of RAM, as /dev/shm; and less than what would make the pool nearly full.
    assert!(info.user_limit_bytes.abs_diff(ram / 2) < 64 << 20, "{info:?} of {ram}");
    assert!(info.user_limit_bytes < info.pool_limit_bytes / 16 * 15);
    assert_eq!(info.file_limit_bytes, info.user_limit_bytes);
    assert_eq!((info.reserve_wanted_bytes, info.reserve_ready_bytes, info.pool_used_bytes), (0, 0, 0));
    let (low, critical) = (value("low_mark_bytes"), value("critical_mark_bytes"));
    assert!(critical > 0 && critical < low && low < ram / 4, "{critical} {low} of {ram}");
    assert_eq!(shown("ram_level"), "ok");
}

fn one_value_per_file() {
    let mut files = 0;
    for entry in std::fs::read_dir("/sys/class/misc/greenboost").expect("sysfs").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().expect("a type").is_file() && !["uevent", "dev", "spill_path"].contains(&name.as_str()) {
            let text = shown(&name);
            assert!(!text.is_empty() && !text.contains([' ', '\n', '\t']), "{name}: {text:?}");
            files += 1;
        }
    }
    assert!(files > 15, "{files} files");
    for bad in ["many", "1Z", "1k", "1KB", "1 K x", "K", "0x10", "-1", "99999999999999999999", "\n"] {
        assert!(machine::try_set("pool_limit_bytes", bad).is_err(), "{bad:?} is refused");
    }
    // What cannot be, or could not be kept.
    let (low, critical) = (value("low_mark_bytes"), value("critical_mark_bytes"));
    for (name, bad) in [("low_mark_bytes", critical - 1), ("critical_mark_bytes", low + 1)] {
        let before = value(name);
        assert_eq!(
            machine::try_set(name, bad).map_err(|error| error.raw_os_error()),
            Err(Some(libc::EINVAL)),
            "{name}"
        );
        assert_eq!(value(name), before);
    }
    let before = value("pool_limit_bytes");
    for (text, bytes) in [("512M", 512 << 20), ("1K", 1 << 10), ("3G\n", 3 << 30)] {
        set("pool_limit_bytes", text);
        assert_eq!(value("pool_limit_bytes"), bytes, "{text:?}");
    }
    set("pool_limit_bytes", before);
}

fn last_reference() {
    let (buffer, mapping) = buffer(4);
    let bytes = buffer.bytes();
    drop(buffer);
    assert_eq!(value("pool_used_bytes"), bytes, "the mapping holds it");
    words(&mapping)[7] = 7;
    drop(mapping);
    eventually("the mapping was the last", || value("pool_used_bytes") == 0);
}

fn passed_over_a_socket() {
    let child = Child::run(|parent| {
        let (buffer, mapping) = buffer(2);
        words(&mapping)[3] = 0xABCD;
        parent.send(buffer.as_fd().as_raw_fd());
        parent.wait();
    });
    let fd = child.receive();
    child.kill();
    assert_eq!(value("pool_used_bytes"), 2 * CHUNK as u64, "our descriptor holds it");
    // SAFETY: a new mapping, read while nobody writes.
    unsafe {
        let len = 2 * CHUNK;
        let got = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, fd.as_raw_fd(), 0);
        assert_ne!(got, libc::MAP_FAILED);
        assert_eq!(got.cast::<u64>().add(3).read(), 0xABCD);
        libc::munmap(got, len);
    }
}

fn fork_shares() {
    let (_buffer, mapping) = buffer(2);
    let sum = pattern(words(&mapping));
    elsewhere(|| {
        assert_eq!(words(&mapping).iter().fold(0u64, |sum, word| sum.wrapping_add(*word)), sum);
        words(&mapping)[0] = 1;
        // Ends without unmapping.
    });
    assert_eq!(words(&mapping)[0], 1, "the child wrote to the same memory");
}

fn killed_in_every_phase() {
    let phases: &[fn(&mut crate::process::Parent, &Count)] = &[
        |_, rounds| {
            let device = device();
            loop {
                drop(device.alloc(&Request::new(256 << 20)).expect("memory"));
                rounds.one_more();
            }
        },
        |parent, rounds| {
            let kept = (buffer(16), buffer(16));
            pattern(words(&kept.0.1));
            rounds.one_more();
            parent.wait();
        },
        |_, rounds| {
            let (_buffer, mapping) = buffer(16);
            let peer = Peer::open();
            loop {
                peer.pin(mapping.as_ptr(), mapping.len(), true).expect("a pin");
                peer.unpin();
                rounds.one_more();
            }
        },
        |_, rounds| {
            let (buffer, mapping) = buffer(16);
            let peer = Peer::open();
            peer.pin(mapping.as_ptr(), mapping.len(), true).expect("a pin");
            loop {
                peer.import(buffer.as_fd(), peer::BIDIRECTIONAL, 1).expect("an import");
                peer.release();
                rounds.one_more();
            }
        },
    ];
    let free = machine::free();
    for (phase, body) in phases.iter().enumerate() {
        for wait in [1, 13, 40, 90] {
            let rounds = Count::new();
            let child = Child::run(|parent| body(parent, &rounds));
            eventually(&format!("phase {phase} is in its loop"), || rounds.get() > 0);
            std::thread::sleep(std::time::Duration::from_millis(wait));
            child.kill();
            eventually(&format!("all is back after phase {phase}"), || value("pool_used_bytes") == 0);
        }
        eventually(&format!("its memory as well, after phase {phase}"), || machine::free() + (64 << 20) > free);
    }
    assert_eq!(peer::pinned_bytes(), 0);
}

fn pinned_beyond_its_end() {
    let (buffer, mapping) = buffer(4);
    let bytes = buffer.bytes();
    // The first chunk and the last: wherever the watchdog looks on, it must not look past either.
    let [first, last] = [0, 3].map(|chunk| {
        let peer = Peer::open();
        peer.pin(mapping.as_ptr().wrapping_add(chunk * CHUNK), CHUNK, true).expect("a pin");
        peer
    });
    drop((buffer, mapping));
    for peer in [first, last] {
        std::thread::sleep(std::time::Duration::from_millis(400));
        assert_eq!(value("pool_used_bytes"), bytes, "pinned memory is not free, and does not look it");
        peer.unpin();
    }
    eventually("the watchdog finds it free", || value("pool_used_bytes") == 0);
}

fn busy() {
    let refused = || assert_eq!(unload("greenboost"), Err(libc::EWOULDBLOCK));
    let open = device();
    refused();
    let buffer = open.alloc(&Request::new(1)).expect("memory");
    drop(open);
    refused();
    let mapping = buffer.map(Access::ReadWrite).expect("a mapping");
    drop(buffer);
    refused();
    let (imported, unused) = self::buffer(1);
    let peer = Peer::open();
    peer.import(imported.as_fd(), peer::BIDIRECTIONAL, 0).expect("an import");
    drop((mapping, imported, unused));
    refused();
    peer.release();
}

/// Where systemd-oomd, earlyoom and the kernel look, and whoever asks who holds the pool.
fn shows() {
    let (buffer, mapping) = buffer(8);
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", buffer.as_fd().as_raw_fd())).expect("fdinfo");
    let line = |name: &str| {
        let line =
            info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {info}"));
        line.trim().to_owned()
    };
    assert_eq!((line("size:"), line("exp_name:").as_str()), (buffer.bytes().to_string(), "greenboost"));
    let resident = || machine::counter("/proc/self/status", "VmRSS") * 1024;
    let before = resident();
    pattern(words(&mapping));
    assert!(resident() >= before + buffer.bytes(), "what is mapped and touched is the process's");
}

fn unloads_clean() {
    let before = machine::free();
    set("reserve_bytes", "256M");
    eventually("the reserve is full", || value("reserve_ready_bytes") == 256 << 20);
    unload("greenboost").expect("a reserve is in nobody's use");
    eventually(&format!("{before} bytes are free again"), || machine::free() + (16 << 20) > before);
}

fn hangs() {
    load("greenboost", "").expect("it loads again");
    let slow = "/tmp/slow";
    let peer = Peer::open();
    machine::mount("none", slow, "gb_slow");
    peer.hang(true);
    let device = device();
    set("spill_path", slow);
    eventually("it counts as gone", || device.info().expect("info").causes == abi::CAUSE_SPILL_GONE);
    drop(device);
    assert_eq!(unload("greenboost"), Err(libc::EWOULDBLOCK));
    drop(self::device());
    peer.hang(false);
    eventually("nobody waits any more", || unload("greenboost").is_ok());
    machine::unmount(slow);
}

fn loads_again() {
    assert_eq!(load("greenboost", "reserve_mb=lots"), Err(libc::EINVAL));
    load("greenboost", "reserve_mb=999999 watchdog_ms=0 low_mb=200 critical_mb=100 pool_mb=512").expect("loads");
    eventually("the reserve stays within the pool", || value("reserve_ready_bytes") == 512 << 20);
    assert_eq!(shown("ram_level"), "ok");
    unload("greenboost").expect("nothing holds it");
    // What contradicts itself.
    load("greenboost", "low_mb=100 critical_mb=200").expect("loads");
    assert_eq!((value("low_mark_bytes"), value("critical_mark_bytes")), (100 << 20, 100 << 20));
    unload("greenboost").expect("nothing holds it");
    load("greenboost", "reserve_mb=64 low_mb=999999 critical_mb=999999").expect("loads in the worst of states");
    eventually("it sees them", || shown("ram_level") == "critical");
    assert!(matches!(device().alloc(&Request::new(1)), Err(greenboost_kmod::Error::Pressure)));
    unload("greenboost").expect("nothing holds it");
}
