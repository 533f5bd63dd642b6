//! `greenboost pool` on the module itself: what it shows is what the module has, what it sets the module does.

use crate::hook::{on_gpu, run};
use crate::machine::{Marks, Setting, eventually, shown, value};
use crate::test::Test;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::Command;

pub const TESTS: &[Test] = &[
    ("pool: status shows what the module has, and why the level is what it is", status),
    ("pool: reserve and limit set what they say, for root only", sets),
    ("pool: watch tells of a level when it comes", watch),
];

const MIB: u64 = 1 << 20;

fn pool(arguments: &[&str]) -> Command {
    on_gpu("8MiB", &[&["/gb/greenboost", "pool"], arguments].concat())
}

/// What it says, where it must succeed.
#[track_caller]
fn says(arguments: &[&str]) -> String {
    let (ok, said) = run(&mut pool(arguments));
    assert!(ok, "{arguments:?}: {said}");
    said
}

#[track_caller]
fn shows(arguments: &[&str], parts: &[&str]) {
    let said = says(arguments);
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
}

fn status() {
    let (limit, low) = (value("pool_limit_bytes"), value("low_mark_bytes"));
    shows(&[], &["level      ok\n", "pool       0 B of ", "reserve    0 B ready of 0 B"]);
    let json = [r#""loaded": true"#, r#""device": "ok""#, &format!(r#""pool_limit_bytes": {limit}"#)];
    shows(&["status", "--json"], &json);
    shows(&["--json"], &[&format!(r#""low_mark_bytes": {low}"#), r#""causes": []"#]);
    let (_buffer, _mapping) = crate::mapping::buffer(3);
    let _low = Setting::new("low_mark_bytes", value("available_bytes") + 512 * MIB);
    eventually("the level is low", || shown("ram_level") == "low");
    shows(&["status"], &["level      low: little available RAM", "pool       6 MiB of "]);
}

fn sets() {
    let _before = ["pool_limit_bytes", "user_limit_bytes", "file_limit_bytes", "reserve_bytes"]
        .map(|name| Setting::new(name, value(name)));
    shows(&["reserve", "64MiB"], &["reserve: 64 MiB wanted", "reserve_mb=64"]);
    assert_eq!(value("reserve_bytes"), 64 * MIB);
    eventually("the reserve is full", || value("reserve_ready_bytes") == 64 * MIB);
    shows(&["status"], &["reserve    64 MiB ready of 64 MiB"]);
    shows(&["reserve", "3MiB"], &["asked for 3 MiB: what is kept is whole pages of 2 MiB", "reserve: 2 MiB wanted"]);
    assert_eq!((value("reserve_bytes"), value("reserve_ready_bytes")), (2 * MIB, 2 * MIB));
    shows(&["limit", "256MiB"], &["pool_limit: 256 MiB", "pool_mb=256"]);
    shows(&["limit", "128MiB", "--of", "user"], &["user_limit: 128 MiB"]);
    shows(&["limit", "64MiB", "--of", "file", "--json"], &[r#""file_limit_bytes": 67108864"#]);
    assert_eq!(
        ["pool_limit_bytes", "user_limit_bytes", "file_limit_bytes"].map(value),
        [256 * MIB, 128 * MIB, 64 * MIB]
    );
    shows(&["limit", "512MiB"], &["one program still gets 64 MiB at most"]);
    let (ok, said) = run(&mut pool(&["limit", "8388608TiB"]));
    assert!(!ok && said.contains("the module refuses"), "{said}");
    // Who is not root sees, and sets nothing.
    let (ok, said) = run(pool(&["reserve", "32MiB"]).uid(1000).gid(1000));
    assert!(!ok && said.contains("may be written by root only"), "{said}");
    assert_eq!((value("reserve_bytes"), value("pool_limit_bytes")), (2 * MIB, 512 * MIB));
    let (ok, said) = run(pool(&[]).uid(1000).gid(1000));
    assert!(ok && said.contains("device     no access to /dev/greenboost"), "{said}");
}

fn watch() {
    let mut watch = pool(&["watch", "--json"]).spawn().expect("it starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    let mut until = |level: &str| {
        let wanted = format!(r#""level":"{level}""#);
        let heard = lines.find(|line| line.as_ref().is_ok_and(|line| line.replace(' ', "").contains(&wanted)));
        heard.unwrap_or_else(|| panic!("it ends without saying {level}")).expect("a line");
    };
    until("ok");
    let above = value("available_bytes") * 2;
    let marks = Marks::new(above, above);
    until("critical");
    drop(marks);
    until("ok");
    watch.kill().expect("killed");
    watch.wait().expect("its end");
}
