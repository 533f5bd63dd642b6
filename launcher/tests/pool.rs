//! `greenboost pool` on a made-up folder of the module's, and following a made-up device. The real ones are in the
//! virtual machine of `cargo xtask test kernel`.

mod common;

use common::{Place, refused, run};
use greenboost_kmod::{Causes, Event, Level, Result as KmodResult, abi};
use greenboost_launcher::pool::{Ended, Source, follow, text_line};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

const FILES: &[(&str, &str)] = &[
    ("ram_level", "low"),
    ("pool_used_bytes", "6442450944"),
    ("pool_limit_bytes", "51539607552"),
    ("user_limit_bytes", "34359738368"),
    ("file_limit_bytes", "34359738368"),
    ("reserve_bytes", "17179869184"),
    ("reserve_ready_bytes", "0"),
    ("reserve_held_bytes", "0"),
    ("spill_path", "/mnt/nvme"),
    ("spill_level", "ok"),
    ("spill_free_bytes", "8589934592"),
    ("spill_low_mark_bytes", "4294967296"),
    ("spill_critical_mark_bytes", "1073741824"),
    ("available_bytes", "5368709120"),
    ("decline_bytes_per_s", "104857600"),
    ("low_mark_bytes", "6442450944"),
    ("critical_mark_bytes", "3221225472"),
    ("allocations", "12"),
    ("frees", "9"),
    ("refused", "2"),
    ("reserve_hits", "512"),
    ("became_ok", "1"),
    ("became_low", "2"),
    ("became_critical", "0"),
];

/// A machine whose module has these files.
fn loaded() -> Place {
    let place = Place::new();
    fs::create_dir(place.path("sysfs")).expect("folder");
    for (name, value) in FILES {
        fs::write(place.path("sysfs").join(name), format!("{value}\n")).expect("file");
    }
    place
}

fn pool(place: &Place, arguments: &[&str]) -> Command {
    let mut command = place.greenboost(&["pool"]);
    command.args(arguments).arg("--sysfs").arg(place.path("sysfs")).arg("--device").arg(place.path("device"));
    command
}

#[test]
fn status_shows_every_figure_for_people_and_for_programs() {
    let place = loaded();
    let (status, text, _) = run(&mut pool(&place, &[]));
    assert_eq!(status, Some(0));
    for part in [
        "level      low",
        "6 GiB of 48 GiB in use",
        "32 GiB a user, 32 GiB an open file",
        "0 B ready of 16 GiB",
        "spill path /mnt/nvme: ok, 8 GiB free; low below 4 GiB, critical below 1 GiB",
        "5 GiB available, falling by 100 MiB a second; low below 6 GiB, critical below 3 GiB",
        "12 allocations, 9 freed, 2 refused; 512 chunks",
        "the module is not loaded (no /dev/greenboost)",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let (status, json, _) = run(&mut pool(&place, &["status", "--json"]));
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((status, &json["loaded"], &json["ram_level"]), (Some(0), &Value::Bool(true), &Value::from("low")));
    assert_eq!(json["pool_limit_bytes"], 48_u64 << 30);
    assert_eq!(json["decline_bytes_per_s"], 100 << 20);
}

#[test]
fn without_the_module_every_command_says_so_and_what_to_do() {
    let place = Place::new();
    for command in [&["status"][..], &["reserve", "1G"], &["limit", "1G"], &["watch"]] {
        refused(&mut pool(&place, command), 1, &["is not loaded", "modprobe greenboost", "greenboost module install"]);
    }
    let (status, json, _) = run(&mut pool(&place, &["--json"]));
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((status, &json["loaded"]), (Some(1), &Value::Bool(false)));
    assert!(json["problem"].as_str().is_some_and(|text| text.contains("not loaded")));
    assert!(!place.path("sysfs").exists(), "nothing is made where nothing is");
}

#[test]
fn what_is_set_is_written_in_bytes_and_its_limits_are_told() {
    let place = loaded();
    let (status, text, _) = run(&mut pool(&place, &["reserve", "2.5GiB"]));
    assert_eq!(status, Some(0));
    assert_eq!(fs::read_to_string(place.path("sysfs/reserve_bytes")).expect("file"), (5_u64 << 29).to_string());
    for part in ["reserve: 2.5 GiB wanted, 0 B ready", "the level is low", "reserve_mb=2560"] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let (_, text, _) = run(&mut pool(&place, &["limit", "40G"]));
    assert_eq!(fs::read_to_string(place.path("sysfs/pool_limit_bytes")).expect("file"), (40_u64 << 30).to_string());
    assert!(text.contains("one program still gets 32 GiB at most"), "{text}");
    let (_, text, _) = run(&mut pool(&place, &["limit", "4G"]));
    assert!(text.contains("6 GiB are in use, which is more"), "{text}");
    let (_, text, _) = run(&mut pool(&place, &["limit", "1G", "--of", "user", "--json"]));
    assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON")["user_limit_bytes"], 1 << 30);
    refused(&mut pool(&place, &["reserve", "much"]), 2, &["'much' is not a size"]);
}

#[test]
fn another_user_than_root_is_told_to_use_sudo() {
    let place = loaded();
    let file = place.path("sysfs/reserve_bytes");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).expect("chmod");
    let mut command = pool(&place, &["reserve", "1G"]);
    // SAFETY: no arguments, no failure.
    if unsafe { libc::geteuid() } == 0 {
        // Root may write what is read-only; nobody may, but cannot reach a build folder of root's.
        let copy = place.path("greenboost");
        common::copy(std::path::Path::new(command.get_program()), &copy);
        fs::set_permissions(place.path("."), fs::Permissions::from_mode(0o755)).expect("chmod");
        let mut other = Command::new(copy);
        other.args(command.get_args()).current_dir("/").uid(65_534).gid(65_534);
        command = other;
    }
    refused(&mut command, 1, &["may be written by root only", "sudo", &file.display().to_string()]);
    assert_eq!(fs::read_to_string(&file).expect("file"), "17179869184\n");
}

#[test]
fn a_file_that_another_version_lacks_is_named() {
    let place = loaded();
    fs::remove_file(place.path("sysfs/became_low")).expect("remove");
    refused(&mut pool(&place, &[]), 1, &["became_low cannot be read", "modinfo"]);
    fs::write(place.path("sysfs/became_low"), "often\n").expect("write");
    refused(&mut pool(&place, &[]), 1, &["became_low", "'often' is no number"]);
}

/// A device that has these events, one at each read.
struct Scripted {
    events: RefCell<VecDeque<Event>>,
    ready: UnixStream,
    _sender: UnixStream,
}

impl Scripted {
    fn new(events: &[Event]) -> Self {
        let (ready, sender) = UnixStream::pair().expect("sockets");
        if !events.is_empty() {
            std::io::Write::write_all(&mut &sender, b"x").expect("write");
        }
        Self { events: RefCell::new(events.iter().copied().collect()), ready, _sender: sender }
    }
}

impl AsFd for Scripted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl Source for Scripted {
    fn next(&self) -> KmodResult<Option<Event>> {
        let mut events = self.events.borrow_mut();
        let next = events.pop_front();
        if events.is_empty() && next.is_some() {
            let _ = (&self.ready).read(&mut [0]);
        }
        Ok(next)
    }
}

fn event(level: Level, causes: u32, seq: u64) -> Event {
    let spill_level = if causes & abi::CAUSE_SPILL == 0 { Level::Ok } else { Level::Low };
    Event { level, spill_level, causes: Causes(causes), seq, available_bytes: 3 << 30, spill_free_bytes: 1 << 30 }
}

/// What is written until the reader goes away, which it does after this many lines.
fn followed(events: &[Event], lines: usize) -> Vec<String> {
    let (mut reader, mut writer) = UnixStream::pair().expect("sockets");
    let source = Scripted::new(events);
    let reading = std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut byte = [0];
        while text.iter().filter(|byte| **byte == b'\n').count() < lines && reader.read(&mut byte).expect("read") > 0 {
            text.push(byte[0]);
        }
        String::from_utf8(text).expect("text")
    });
    let fd = writer.try_clone().expect("clone");
    let now = event(Level::Ok, 0, 0);
    follow(&source, &now, &mut writer, fd.as_fd(), &AtomicBool::new(false), text_line).expect("a clean end");
    reading.join().expect("reader").lines().map(str::to_owned).collect()
}

#[test]
fn each_change_is_one_line_and_what_is_no_change_is_none() {
    let memory = abi::CAUSE_MEMORY;
    let events = [
        event(Level::Ok, 0, 1),
        event(Level::Low, memory, 2),
        event(Level::Low, memory, 3),
        event(Level::Critical, memory | abi::CAUSE_DECLINE, 4),
        event(Level::Ok, 0, 5),
        event(Level::Ok, abi::CAUSE_SPILL, 6),
    ];
    let lines = followed(&events, 5);
    let wanted = [
        "Z ok; 3 GiB of RAM available",
        "Z low (little available RAM); 3 GiB",
        "Z critical (little available RAM, available RAM falls fast); 3 GiB",
        "Z ok; 3 GiB",
        "Z ok (little space at the spill path); 3 GiB of RAM available; spill path low, 1 GiB free",
    ];
    assert_eq!(lines.len(), wanted.len(), "{lines:#?}");
    for (line, wanted) in lines.iter().zip(wanted) {
        assert!(line.contains(wanted), "{line:?} has no {wanted:?}");
    }
}

#[test]
fn following_ends_when_nobody_reads_although_nothing_happens() {
    let started = Instant::now();
    assert_eq!(followed(&[], 1).len(), 1);
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn following_ends_when_told_to_and_says_when_the_output_is_full() {
    let source = Scripted::new(&[]);
    let now = event(Level::Ok, 0, 0);
    let (_reader, writer) = UnixStream::pair().expect("sockets");
    let mut text = Vec::new();
    follow(&source, &now, &mut text, writer.as_fd(), &AtomicBool::new(true), text_line).expect("a clean end");
    assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 1);
    let mut full = fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let fd = full.try_clone().expect("clone");
    let ended = follow(&source, &now, &mut full, fd.as_fd(), &AtomicBool::new(false), text_line);
    assert!(matches!(ended, Err(Ended::Output(_))));
}
