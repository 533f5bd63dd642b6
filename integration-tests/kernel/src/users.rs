//! Two users with different rights.

use crate::hook::run;
use crate::machine::{SPILL, value};
use crate::mapping::{buffer, device};
use crate::process::{as_user, become_user, elsewhere};
use crate::test::Test;
use greenboost_kmod::{CHUNK, Device, Error, Request};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

pub const TESTS: &[Test] = &[
    ("users: only the device's group may open it", only_the_group),
    ("users: an open device that was passed on is its opener's", passed_on),
    ("users: limits and the reserve are root's", settings_are_roots),
    ("users: each has a budget of its own", own_budgets),
];

/// The rule that is shipped.
const RULE: &str = include_str!("../../../kmod/install/60-greenboost.rules");
/// The number of its group on this machine. Every machine has its own.
pub const GROUP: u32 = 106;
const ALICE: u32 = 1000;
const BOB: u32 = 1001;

/// The value of a key of the rule.
fn rule(key: &str) -> &'static str {
    let line = RULE.lines().find(|line| !line.starts_with('#')).expect("a rule");
    let pair = line.split(", ").find_map(|pair| pair.strip_prefix(key)).unwrap_or_else(|| panic!("no {key}: {line}"));
    pair.trim_start_matches('=').trim_matches('"')
}

/// Has udev follow the rule, on a machine that has the group; where there is no udev, does what the rule says.
fn give_to_group() {
    let group = format!("root:x:0:\n{}:x:{GROUP}:\n", rule("GROUP"));
    let files = [
        ("/etc/group", group.as_str()),
        ("/etc/passwd", "root:x:0:0::/:/bin/sh\n"),
        ("/etc/udev/rules.d/60-greenboost.rules", RULE),
    ];
    for (path, text) in files {
        let path = Path::new(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    let _ = fs::set_permissions(Device::PATH, Permissions::from_mode(0o600));
    let tools = format!("{SPILL}/udev");
    if Path::new(&tools).exists() {
        let mut udev = Command::new(format!("{tools}/udevadm"));
        udev.args(["test", "--action=add", "/sys/class/misc/greenboost"]).env("LD_LIBRARY_PATH", &tools);
        let (ok, said) = run(udev.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let complains = ["nvalid", "nknown", "gnoring"].iter().any(|word| said.contains(word));
        assert!(ok && !complains, "udev has something to say to the rule: {said}");
    } else {
        println!("gb-figure udev none on the machine that built this");
        let mode = u32::from_str_radix(rule("MODE"), 8).expect("an octal number");
        chown(Device::PATH, None, Some(GROUP)).expect("root may");
        fs::set_permissions(Device::PATH, Permissions::from_mode(mode)).expect("root may");
    }
    let device = fs::metadata(Device::PATH).expect("the device");
    assert_eq!((device.gid(), device.mode() & 0o777, device.uid()), (GROUP, 0o660, 0));
}

fn only_the_group() {
    assert_eq!(rule("KERNEL"), Path::new(Device::PATH).file_name().expect("a name"));
    give_to_group();
    as_user(ALICE, ALICE, || assert!(matches!(Device::open(), Err(Error::Denied))));
    as_user(ALICE, GROUP, || drop(device()));
}

/// The child acts, and is charged, as root.
fn passed_on() {
    let device = device();
    elsewhere(|| {
        become_user(BOB, BOB);
        let _buffer = device.alloc(&Request::new(CHUNK as u64)).expect("memory");
        assert_eq!(device.info().expect("info").user_used_bytes, CHUNK as u64);
    });
    let _ours = device.alloc(&Request::new(CHUNK as u64)).expect("memory");
    as_user(ALICE, GROUP, || assert_eq!(self::device().info().expect("info").user_used_bytes, 0));
}

fn settings_are_roots() {
    let before = value("pool_limit_bytes");
    as_user(ALICE, GROUP, || {
        for name in [
            "pool_limit_bytes",
            "user_limit_bytes",
            "file_limit_bytes",
            "reserve_bytes",
            "low_mark_bytes",
            "critical_mark_bytes",
            "spill_path",
            "spill_low_mark_bytes",
            "spill_critical_mark_bytes",
        ] {
            let refused = crate::machine::try_set(name, 0).expect_err("root's").raw_os_error();
            assert_eq!(refused, Some(libc::EACCES), "{name}");
        }
    });
    assert_eq!(value("pool_limit_bytes"), before);
}

fn own_budgets() {
    let _limit = crate::machine::Setting::new("user_limit_bytes", 8 * CHUNK as u64);
    let (_ours, _mapping) = buffer(8);
    assert!(matches!(device().alloc(&Request::new(1)), Err(Error::Quota)), "over all files of the user");
    as_user(ALICE, GROUP, || {
        let device = device();
        assert_eq!(device.info().expect("info").user_used_bytes, 0);
        let (_hers, _mapping) = buffer(8);
        assert_eq!(device.info().expect("info").user_used_bytes, 8 * CHUNK as u64);
        assert!(matches!(device.alloc(&Request::new(1)), Err(Error::Quota)));
    });
}
