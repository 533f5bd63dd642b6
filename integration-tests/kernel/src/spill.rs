//! Where an open file spills to: a filling disk, a folder that goes, a filesystem that turns read-only or does not answer.

use crate::Test;
use crate::machine::{SPILL, eventually, mount, remount, shown, unmount};
use crate::mapping::device;
use crate::peer::Peer;
use crate::pressure::{eventfd, hear, signals};
use greenboost_kmod::{Device, Error, Level, Request, abi};
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = &[
    ("spill: a filling disk drives ok, low, critical, ok, for the file that spills there", filling_disk),
    ("spill: a folder that is gone is critical", gone),
    ("spill: a filesystem that turns read-only is critical until it takes writes again", read_only),
    ("spill: free space is counted in the filesystem's own pieces", pieces),
    ("spill: one that hangs is critical, and stands in nobody's way", hangs),
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

fn watch(device: &Device, folder: &str, low: u64, critical: u64) {
    device.watch_spill(File::open(folder).expect("a folder").as_fd(), low, critical).expect("a folder");
}

fn spill_free(device: &Device) -> u64 {
    device.info().expect("info").spill_free
}

fn filling_disk() {
    let (device, other, eventfd) = (device(), device(), eventfd());
    device.set_eventfd(Some(eventfd.as_fd())).expect("an eventfd");
    watch(&device, SPILL, 96 << 20, 32 << 20);
    eventually("its free space is known", || spill_free(&device) > 96 << 20);
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
    assert_eq!(hear(&device, Level::Low).0, abi::CAUSE_SPILL);
    fill_until(28 << 20);
    assert_eq!(hear(&device, Level::Critical).0, abi::CAUSE_SPILL);
    assert!(signals(&eventfd) >= 2);
    assert!(matches!(device.alloc(&Request::new(1, "spill")), Err(Error::Pressure)));
    assert_eq!(shown("level"), "ok", "one program's disk is not everybody's");
    drop(other.alloc(&Request::new(1, "other")).expect("nor is its refusal"));
    fs::remove_file(&path).expect("removed");
    drop(file);
    assert_eq!(hear(&device, Level::Ok).0, 0);
    drop(device.alloc(&Request::new(1, "spill")).expect("it works again"));
    device.forget_spill().expect("forgotten");
    assert_eq!(spill_free(&device), 0);
}

fn gone() {
    let device = device();
    let path = format!("{SPILL}/folder");
    fs::create_dir(&path).expect("a folder");
    watch(&device, &path, 1, 1);
    eventually("its free space is known", || spill_free(&device) > 0);
    fs::remove_dir(&path).expect("removed");
    assert_eq!(hear(&device, Level::Critical).0, abi::CAUSE_SPILL_GONE);
    assert!(matches!(device.alloc(&Request::new(1, "spill")), Err(Error::Pressure)));
    device.forget_spill().expect("forgotten");
    hear(&device, Level::Ok);
}

fn read_only() {
    let (device, folder) = (device(), "/tmp/disk");
    mount("none", folder, "tmpfs");
    watch(&device, folder, 1, 1);
    eventually("its free space is known", || spill_free(&device) > 0);
    remount(folder, true);
    assert_eq!(hear(&device, Level::Critical).0, abi::CAUSE_SPILL_GONE);
    remount(folder, false);
    assert_eq!(hear(&device, Level::Ok).0, 0);
    device.forget_spill().expect("forgotten");
    unmount(folder);
}

/// This one says: 16384 pieces of 4 KiB, and that it likes to be written to 1 MiB at a time.
fn pieces() {
    let (device, folder) = (device(), "/tmp/slow");
    mount("none", folder, "gb_slow");
    watch(&device, folder, 1, 1);
    eventually("its free space is known", || spill_free(&device) > 0);
    assert_eq!((spill_free(&device), free(folder)), (64 << 20, 64 << 20));
    device.forget_spill().expect("forgotten");
    unmount(folder);
}

fn hangs() {
    let (device, folder) = (device(), "/tmp/slow");
    let peer = Peer::open();
    mount("none", folder, "gb_slow");
    watch(&device, folder, 1, 1);
    eventually("its free space is known", || spill_free(&device) > 0);
    peer.hang(true);
    assert_eq!(hear(&device, Level::Critical).0, abi::CAUSE_SPILL_GONE);
    assert_eq!(spill_free(&device), 0, "what it had is not what it has");
    // The old question is still open, and this one is answered.
    watch(&device, SPILL, 1, 1);
    assert_eq!(hear(&device, Level::Ok).0, 0);
    eventually("its free space is known", || spill_free(&device) > 64 << 20);
    // It stays so beyond the patience that a filesystem is granted.
    assert!(device.next_event(Some(std::time::Duration::from_secs(7))).expect("an answer").is_none(), "one is gone");
    peer.hang(false);
    drop(device);
    unmount(folder);
}
