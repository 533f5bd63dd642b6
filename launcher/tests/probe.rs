//! doctor and its probe against a made-up driver with one fault at a time.

mod common;

use common::{Place, run};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// What doctor says with this fault, as JSON, and its exit code.
fn doctor(fault: &str) -> (Option<i32>, Vec<Value>) {
    doctor_with(fault, |place| place.path("no-module"))
}

/// The same, with the kernel module's device elsewhere.
fn doctor_with(fault: &str, module: impl FnOnce(&Place) -> std::path::PathBuf) -> (Option<i32>, Vec<Value>) {
    let place = Place::new();
    let module = module(&place);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake_driver.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(place.path("libcuda.so.1")).arg(source);
    assert!(compiler.status().is_ok_and(|status| status.success()), "a C compiler is needed: install gcc");
    let mut command = place.greenboost(&["doctor", "--json"]);
    let (status, stdout, stderr) = run(command
        .env("LD_LIBRARY_PATH", place.path(""))
        .env("FAKE_DRIVER", fault)
        .env("GREENBOOST_KMOD_DEVICE", module));
    assert_eq!(stderr, "");
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    (status, report["checks"].as_array().expect("checks").clone())
}

#[track_caller]
fn expect(checks: &[Value], id: &str, level: &str, words: &str) {
    let found: Vec<_> = checks.iter().filter(|check| check["id"] == id).collect();
    let fits =
        |check: &&&Value| check["level"] == level && check["found"].as_str().is_some_and(|text| text.contains(words));
    assert!(found.iter().any(|check| fits(&check)), "{level} {words:?} is not in {found:#?}");
}

#[test]
fn a_driver_without_fault_passes_every_check_and_gets_everything_back() {
    let (status, checks) = doctor("none");
    assert_eq!(status, Some(0));
    expect(&checks, "driver", "ok", "CUDA 13.0");
    expect(&checks, "gpu", "ok", "Fake GPU, compute 9.0, VRAM 8 GiB, 7 GiB free");
    expect(&checks, "vmm", "ok", "supported, a kernel read and wrote a chunk of VRAM");
    expect(&checks, "host-numa", "ok", "supported");
    expect(&checks, "backing", "ok", "host-numa works; memfd works (");
    expect(&checks, "pin", "ok", "64 MiB could be pinned");
    expect(&checks, "file-pages", "ok", "a kernel read a file");
}

#[test]
fn memory_that_kernels_cannot_read_is_found_out_by_a_kernel() {
    let (status, checks) = doctor("unreadable");
    assert_eq!(status, Some(0), "the other backing is enough");
    expect(&checks, "host-numa", "ok", "supported");
    expect(&checks, "backing", "warn", "host-numa failed (a kernel read other bytes than were written); memfd works");
}

#[test]
fn a_refused_registration_is_named_with_the_drivers_word() {
    let (_, checks) = doctor("refuse");
    expect(&checks, "backing", "warn", "memfd failed (cuMemHostRegister_v2 returned CUDA_ERROR_NOT_SUPPORTED)");
}

#[test]
fn a_kernel_module_that_cannot_be_used_is_named_with_the_reason() {
    let (status, checks) = doctor_with("none", |place| {
        let file = place.path("greenboost-device");
        std::fs::write(&file, "").expect("a file");
        file
    });
    assert_eq!(status, Some(0), "it is optional");
    expect(&checks, "backing", "warn", "kmod failed (what is at that path is not the module's device)");
}

#[test]
fn what_the_driver_says_it_supports_is_tried() {
    let (status, checks) = doctor("no-chunks");
    assert_eq!(status, Some(1));
    expect(&checks, "vmm", "fail", "supported, but it does not work (cuMemCreate returned");
    let (status, checks) = doctor("no-pin");
    assert_eq!(status, Some(0));
    expect(&checks, "pin", "warn", "64 MiB of RAM cannot be pinned");
    let (status, checks) = doctor("no-file");
    assert_eq!(status, Some(0));
    expect(&checks, "file-pages", "note", "not usable (cuMemHostRegister_v2 returned CUDA_ERROR_NOT_SUPPORTED)");
}

#[test]
fn the_memfd_s_pages_are_called_the_same_in_every_line() {
    let (_, checks) = doctor("none");
    let found = |id: &str| checks.iter().find(|check| check["id"] == id).expect(id)["found"].to_string();
    let small = checks.iter().any(|check| {
        check["id"] == "huge-pages" && check["meaning"].as_str().is_some_and(|text| text.contains("4 KiB pages"))
    });
    assert_eq!(found("backing").contains("4 KiB pages"), small, "{} {}", found("backing"), found("huge-pages"));
}

#[test]
fn a_driver_without_host_numa_uses_memfd() {
    let (status, checks) = doctor("no-numa");
    assert_eq!(status, Some(0));
    expect(&checks, "host-numa", "note", "not supported");
    expect(&checks, "backing", "ok", "memfd works");
}

#[test]
fn an_old_driver_a_failing_one_and_one_without_gpu_fail() {
    for (fault, check, words) in [
        ("old", "driver", "CUDA 11.4"),
        ("init", "driver", "cuInit returned CUDA_ERROR_NO_DEVICE"),
        ("no-gpu", "gpu", "the driver shows no GPU"),
    ] {
        let (status, checks) = doctor(fault);
        assert_eq!(status, Some(1), "{fault}");
        expect(&checks, check, "fail", words);
    }
}

#[test]
fn a_kernel_that_never_ends_costs_twenty_seconds_and_no_more() {
    let started = std::time::Instant::now();
    let (status, checks) = doctor("hang");
    assert_eq!(status, Some(1));
    expect(&checks, "driver", "fail", "the driver did not answer in time while trying host-numa memory on GPU 0");
    expect(&checks, "gpu", "ok", "Fake GPU");
    let took = started.elapsed().as_secs();
    assert!((19..40).contains(&took), "{took} s");
}
