//! The spill path: a filling disk, a folder that goes, a filesystem that turns read-only or does not answer.

use crate::machine::{SPILL, eventually, mount, remount, set, shown, try_set, unmount, value};
use crate::mapping::device;
use crate::peer::Peer;
use crate::pressure::hear;
use crate::test::Test;
use greenboost_kmod::{Device, Level, Request, abi};
use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("spill: a filling disk drives ok, low, critical, ok, and refuses no RAM", filling_disk),
    ("spill: a folder that is gone is critical", gone),
    ("spill: a filesystem that turns read-only is critical until it takes writes again", read_only),
    ("spill: free space is counted in the filesystem's own pieces", pieces),
    ("spill: one that hangs is critical, and stands in nobody's way", hangs),
    ("spill: the path is absolute, and holds nothing", path),
];

/// Free bytes, asked of the filesystem itself.
fn free(path: &str) -> u64 {
    let path = CString::new(path).expect("no zero bytes");
    // SAFETY: a terminated string, and a plain C struct, for which zeroes are a value.
    unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        assert_eq!(libc::statvfs(path.as_ptr(), &raw mut stat), 0);
        stat.f_bavail * stat.f_frsize
    }
}

/// The path, for as long as this lives.
struct Watched;

impl Watched {
    fn new(folder: &str, low: u64, critical: u64) -> Self {
        set("spill_critical_mark_bytes", 0);
        set("spill_low_mark_bytes", low);
        set("spill_critical_mark_bytes", critical);
        set("spill_path", folder);
        Self
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        set("spill_path", "\n");
        // A panic here would end the machine.
        if std::thread::panicking() {
            return;
        }
        eventually("nothing is watched", || shown("spill_level") == "ok" && value("spill_free_bytes") == 0);
    }
}

/// Waits for a level of the spill path by listening: why it is so.
#[track_caller]
fn hear_spill(device: &Device, level: Level) -> u32 {
    let start = Instant::now();
    while start.elapsed() < crate::machine::PATIENCE {
        let event = device.next_event(Some(Duration::from_millis(500))).expect("an answer");
        if let Some(event) = event.filter(|event| event.spill_level == level) {
            return event.causes.0;
        }
    }
    panic!("no event says {level:?}; the level is {}", shown("spill_level"));
}

fn known() {
    eventually("its free space is known", || value("spill_free_bytes") > 0);
}

fn filling_disk() {
    let device = device();
    let watched = Watched::new(SPILL, 96 << 20, 32 << 20);
    known();
    let path = format!("{SPILL}/filler");
    let file = File::create(&path).expect("a file");
    let block = vec![7u8; 1 << 20];
    let mut written = 0;
    let mut fill_until = |least: u64| {
        while free(SPILL) > least {
            file.write_all_at(&block, written).expect("there is room");
            written += block.len() as u64;
            // Else the filesystem may not know yet where the bytes are to lie.
            file.sync_data().expect("synced");
        }
    };
    fill_until(90 << 20);
    assert_eq!(hear_spill(&device, Level::Low), abi::CAUSE_SPILL);
    fill_until(28 << 20);
    assert_eq!(hear_spill(&device, Level::Critical), abi::CAUSE_SPILL);
    assert_eq!((shown("ram_level").as_str(), shown("spill_level").as_str()), ("ok", "critical"));
    drop(device.alloc(&Request::new(1)).expect("RAM is not short"));
    fs::remove_file(&path).expect("removed");
    drop(file);
    assert_eq!(hear_spill(&device, Level::Ok), 0);
    drop(watched);
}

fn gone() {
    let device = device();
    let path = format!("{SPILL}/folder");
    fs::create_dir(&path).expect("a folder");
    let _watched = Watched::new(&path, 1, 1);
    known();
    fs::remove_dir(&path).expect("removed");
    assert_eq!(hear_spill(&device, Level::Critical), abi::CAUSE_SPILL_GONE);
    fs::create_dir(&path).expect("a folder");
    assert_eq!(hear_spill(&device, Level::Ok), 0, "and there again");
    fs::remove_dir(&path).expect("removed");
}

fn read_only() {
    let (device, folder) = (device(), "/tmp/disk");
    mount("none", folder, "tmpfs");
    let watched = Watched::new(folder, 1, 1);
    known();
    remount(folder, true);
    assert_eq!(hear_spill(&device, Level::Critical), abi::CAUSE_SPILL_GONE);
    remount(folder, false);
    assert_eq!(hear_spill(&device, Level::Ok), 0);
    drop(watched);
    unmount(folder);
}

/// This one says: 16384 pieces of 4 KiB, and that it likes to be written to 1 MiB at a time.
fn pieces() {
    let folder = "/tmp/slow";
    mount("none", folder, "gb_slow");
    let _device = device();
    let watched = Watched::new(folder, 1, 1);
    eventually("its free space is known", || value("spill_free_bytes") == 64 << 20);
    assert_eq!(free(folder), 64 << 20);
    drop(watched);
    unmount(folder);
}

fn hangs() {
    let (device, folder) = (device(), "/tmp/slow");
    let peer = Peer::open();
    mount("none", folder, "gb_slow");
    let watched = Watched::new(folder, 1, 1);
    known();
    peer.hang(true);
    assert_eq!(hear_spill(&device, Level::Critical), abi::CAUSE_SPILL_GONE);
    assert_eq!(value("spill_free_bytes"), 0, "what it had is not what it has");
    // The level of RAM is told and allocations go on, for everybody.
    let low = crate::machine::Setting::new("low_mark_bytes", value("available_bytes") + (512 << 20));
    hear(&device, Level::Low);
    drop(device.alloc(&Request::new(1)).expect("memory"));
    drop(low);
    hear(&device, Level::Ok);
    peer.hang(false);
    assert_eq!(hear_spill(&device, Level::Ok), 0, "it answers again");
    drop(watched);
    unmount(folder);
}

/// A filesystem that is only looked at can be unmounted at any time.
fn path() {
    for (bad, wanted) in [("relative", libc::EINVAL), (&*format!("/{}", "x".repeat(300)), libc::ENAMETOOLONG)] {
        assert_eq!(try_set("spill_path", bad).map_err(|error| error.raw_os_error()), Err(Some(wanted)), "{bad}");
    }
    let (device, folder) = (device(), "/tmp/disk");
    mount("none", folder, "tmpfs");
    let watched = Watched::new(folder, 1, 1);
    known();
    assert_eq!(shown("spill_path"), folder);
    unmount(folder);
    eventually("what is below is looked at", || shown("spill_level") == "ok" && value("spill_free_bytes") > 0);
    fs::remove_dir(folder).expect("removed");
    assert_eq!(hear_spill(&device, Level::Critical), abi::CAUSE_SPILL_GONE);
    drop(watched);
}
