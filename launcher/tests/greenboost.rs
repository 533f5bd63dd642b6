//! `greenboost status` and `greenboost doctor` as programs, on whatever machine this is.

mod common;

use common::{Place, run};
use greenboost_contract::record::Mapped;
use serde_json::Value;
use std::sync::atomic::Ordering::Relaxed;

#[test]
fn status_shows_a_record_while_its_process_holds_it() {
    let place = Place::new();
    let read = |arguments: &[&str]| {
        let (status, stdout, stderr) = run(&mut place.greenboost(arguments));
        assert_eq!((status, stderr.as_str()), (Some(0), ""));
        stdout
    };
    let own = std::process::id();
    let of_this = |text: &str| {
        let all: Vec<Value> = serde_json::from_str(text).expect("JSON");
        all.into_iter().find(|process| process["pid"] == own)
    };
    assert!(of_this(&read(&["status", "--json"])).is_none());

    let record = Mapped::create().expect("record");
    record.profile.set("llama-server");
    record.backings[0].set("host-numa");
    record.devices_used.store(1, Relaxed);
    record.devices[0].uuid.set("GPU-test");
    record.devices[0].vram_chunks.store(3 << 30, Relaxed);
    record.devices[0].ram[0].store(5 << 30, Relaxed);
    let seen = of_this(&read(&["status", "--json"])).expect("this process");
    assert_eq!(seen["profile"], "llama-server");
    assert_eq!(seen["devices"][0]["vram_chunks_bytes"], 3_u64 << 30);
    assert_eq!(seen["devices"][0]["ram"][0]["backing"], "host-numa");
    assert_eq!(seen["devices"][0]["ram"][0]["bytes"], 5_u64 << 30);
    let table = read(&["status"]);
    for part in ["profile llama-server", "device 0 GPU-test", "chunks 3 GiB", "host-numa 5 GiB"] {
        assert!(table.contains(part), "{part:?} is not in\n{table}");
    }
    drop(record);
    assert!(of_this(&read(&["status", "--json"])).is_none());
}

#[test]
fn a_count_of_devices_that_cannot_be_is_no_panic() {
    let place = Place::new();
    let record = Mapped::create().expect("record");
    record.devices_used.store(u32::MAX, Relaxed);
    assert_eq!(run(&mut place.greenboost(&["status", "--json"])).0, Some(0));
}

#[test]
fn doctor_has_a_finding_for_every_check_and_its_exit_code_says_whether_one_failed() {
    let place = Place::new();
    let (status, stdout, stderr) = run(&mut place.greenboost(&["doctor", "--json"]));
    assert_eq!(stderr, "");
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(status, Some(i32::from(report["worst"] == "fail")));
    let checks = report["checks"].as_array().expect("checks");
    for id in [
        "driver",
        "gpu",
        "link",
        "vmm",
        "host-numa",
        "backing",
        "mig",
        "mps",
        "hook",
        "memory",
        "cgroup",
        "huge-pages",
        "memlock",
        "container",
        "module",
        "ollama",
    ] {
        assert!(checks.iter().any(|check| check["id"] == id), "{id}");
    }
    for check in checks.iter().filter(|check| check["level"] == "fail" || check["level"] == "warn") {
        assert!(check["meaning"] != "" && check["action"] != "", "{check}");
    }
    let hook = checks.iter().find(|check| check["id"] == "hook").expect("hook");
    assert_eq!(hook["level"], "ok");
    let text = run(&mut place.greenboost(&["doctor"]));
    assert_eq!((text.0, text.2.as_str()), (status, ""));
    assert!(text.1.contains("NVIDIA driver") && text.1.contains("This machine"), "{}", text.1);
}

#[test]
fn doctor_survives_a_driver_that_crashes() {
    let place = Place::new();
    let source = place.path("crash.c");
    std::fs::write(&source, "#include <stdlib.h>\n__attribute__((constructor)) static void f(void){abort();}")
        .expect("write");
    let compiled = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(place.path("libcuda.so.1"))
        .arg(&source)
        .status();
    assert!(compiled.is_ok_and(|status| status.success()), "a C compiler is needed: install gcc");
    let (status, stdout, stderr) = run(place.greenboost(&["doctor"]).env("LD_LIBRARY_PATH", place.path("")));
    assert_eq!((status, stderr.as_str()), (Some(1), ""));
    assert!(stdout.contains("crashed with signal 6 while loading libcuda.so.1"), "{stdout}");
}

#[test]
fn a_library_that_is_no_driver_is_said_to_be_none() {
    let place = Place::new();
    std::fs::copy(common::hook(), place.path("libcuda.so.1")).expect("copy");
    let (status, stdout, _) = run(place.greenboost(&["doctor"]).env("LD_LIBRARY_PATH", place.path("")));
    assert_eq!(status, Some(1));
    assert!(stdout.contains("libcuda.so.1 has no cuInit"), "{stdout}");
}

#[test]
fn doctor_looks_at_the_bare_driver_also_under_gb_launch() {
    let place = Place::new();
    let (status, stdout, stderr) = run(&mut place.launch(&[env!("CARGO_BIN_EXE_greenboost"), "doctor", "--json"]));
    assert!(status.is_some() && stderr.is_empty(), "{stderr}");
    serde_json::from_str::<Value>(&stdout).expect("JSON");
}

#[test]
fn no_subcommand_is_a_usage_error() {
    assert_eq!(run(&mut Place::new().greenboost(&[])).0, Some(2));
}
