//! Which RAM stands in for VRAM, and why not another. With the kernel module itself: `integration-tests/kernel/src/hook.rs`.

use greenboost_contract::place::{self, PlaceRule};
use greenboost_contract::record;
use greenboost_contract::settings::{
    BACKINGS, KMOD_DEVICE, PLACE, PLAN, REPORT_FREE, THRESHOLD, UPLOAD_THREADS, VRAM_RESERVE,
};
use integration_tests::{World, toy};
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Runs a model that does not fit with the module's device at `device`; checks its answer; the reason it gives for its
/// backing, and the backings it has bytes in.
fn chosen(world: &World) -> (String, Vec<String>) {
    let model = toy("32MiB", 4);
    let mut target = world.start("toy-llm", &["-m", model.file(), "-n", "4", "--hold"]);
    assert_eq!(target.until("ready").join("\n"), model.answer.trim_end());
    let record = record::of_process(target.pid()).expect("a status record");
    assert_eq!(record.pressure(), "", "nobody can say");
    let used = record.backings.iter().zip(&record.devices[0].ram);
    let used = used.filter(|(_, bytes)| bytes.load(Relaxed) > 0).map(|(name, _)| name.get()).collect();
    let reason = record.backing_reason.get();
    assert!(target.finish().success());
    (reason, used)
}

fn with_device(device: &Path) -> World {
    World::new().vram("8MiB").hooked().env(KMOD_DEVICE, device)
}

#[test]
fn without_the_kernel_module_the_next_backing_serves_and_the_reason_is_told() {
    let (reason, used) = chosen(&with_device(Path::new("/nonexistent/greenboost")));
    assert!(
        reason.starts_with("host-numa: a kernel reads and writes it; not kmod: the module is not loaded"),
        "{reason}"
    );
    assert_eq!(used, ["host-numa"]);
    let world = with_device(Path::new("/nonexistent/greenboost")).env("SIMGPU_HOST_NUMA", "unreadable");
    let (reason, used) = chosen(&world);
    assert!(
        reason.starts_with("memfd: ") && reason.contains("not kmod") && reason.contains("not host-numa"),
        "{reason}"
    );
    assert_eq!(used, ["memfd"]);
}

#[test]
fn a_file_in_the_devices_place_is_no_device_and_a_device_without_our_calls_another_version() {
    let world = World::new();
    let file = world.file("greenboost");
    fs::write(&file, "").expect("a file");
    for (device, why) in [
        (file.as_path(), "not kmod: what is at that path is not the module's device"),
        (Path::new("/dev/null"), "not kmod: the module speaks version 0"),
    ] {
        let (reason, used) = chosen(&with_device(device));
        assert!(reason.contains(why), "{reason}");
        assert_eq!(used, ["host-numa"]);
    }
}

#[test]
fn every_process_finds_out_in_one_context_of_its_own_and_keeps_nothing() {
    let model = toy("32MiB", 4);
    let contexts = |world: World, reason: &str| {
        let trace = world.file("calls");
        let world = world.env("SIMGPU_TRACE", &trace);
        let outcome = world.run_with("toy-llm", &["-m", model.file(), "-n", "4"]).ok();
        assert_eq!(outcome.stdout, model.answer, "{}", outcome.report());
        assert!(outcome.log.contains(reason), "{}", outcome.report());
        let calls = fs::read_to_string(trace).expect("calls");
        calls.lines().filter(|call| call.starts_with("cuCtxCreate")).count()
    };
    let programs = contexts(World::new().vram("64MiB"), "");
    // Scripts may still set what once switched a cache of answers.
    for cache in ["", "on", "off"] {
        let home = World::new();
        let folder = home.file("home");
        fs::create_dir(&folder).expect("a folder");
        let world = || {
            let world = World::new().vram("8MiB").hooked().env("GREENBOOST_PROBE_CACHE", cache);
            world.env("HOME", &folder).env("XDG_RUNTIME_DIR", &folder).env("XDG_CACHE_HOME", &folder)
        };
        for _ in 0..2 {
            assert_eq!(contexts(world(), "host-numa: a kernel reads and writes it"), programs + 1, "{cache}");
        }
        assert_eq!(fs::read_dir(&folder).expect("the folder").count(), 0, "{cache}");
        // A failure costs a context, too.
        let unreadable = world().env("SIMGPU_HOST_NUMA", "unreadable");
        assert_eq!(
            contexts(unreadable, "not host-numa: the probe kernel failed with CUDA_ERROR_ILLEGAL_ADDRESS"),
            programs + 2,
            "{cache}"
        );
    }
}

#[test]
fn with_the_module_as_the_only_choice_and_none_there_memory_does_not_leave_vram() {
    let model = toy("32MiB", 4);
    let world = with_device(Path::new("/nonexistent/greenboost")).env(BACKINGS, "kmod");
    let outcome = world.run_with("toy-llm", &["-m", model.file(), "-n", "4"]);
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.report());
    assert!(outcome.stderr.contains("out of memory"), "{}", outcome.report());
    assert!(outcome.log.contains("no RAM backing works: not kmod: the module is not loaded"), "{}", outcome.report());
}

#[test]
fn uploads_into_ram_that_the_processor_sees_do_not_cross_the_link() {
    let rule = PlaceRule::from_argument("_exps=ram").expect("a rule");
    let copies = |backing: &str, sums: &mut Vec<String>| {
        let world = World::new()
            .vram("256MiB")
            .hooked()
            .env(PLACE, place::to_text(std::slice::from_ref(&rule)))
            .env(THRESHOLD, "2MiB")
            // As copies of the driver's, which are in the trace.
            .env(UPLOAD_THREADS, "0")
            .env(BACKINGS, backing);
        let calls = world.file("calls");
        let world = world.env("SIMGPU_TRACE", &calls);
        let outcome = world.run_with("llama-like", &["moe"]).ok();
        let lines = outcome.stdout.lines().filter(|line| line.starts_with("sum "));
        sums.push(lines.map(str::to_owned).collect::<Vec<_>>().join("\n"));
        let calls = fs::read_to_string(calls).expect("calls");
        // cuMemcpyHtoDAsync_v2(TO, FROM, BYTES, STREAM) = 0
        let copies = calls.lines().filter(|call| call.starts_with("cuMemcpyHtoD"));
        let bytes =
            copies.map(|call| call.split(", ").nth(2).and_then(|bytes| bytes.trim_end_matches(") = 0").parse().ok()));
        bytes.map(|bytes: Option<u64>| bytes.expect("a number")).sum::<u64>()
    };
    let mut sums = Vec::new();
    let (unseen, seen) = (copies("host-numa", &mut sums), copies("memfd", &mut sums));
    assert!(!sums[0].is_empty() && sums[0] == sums[1], "{sums:?}");
    // Experts, but for the granules that they share with what stays in VRAM, and for what finds its stream busy: on a busy
    // machine that is up to half of them.
    assert!(seen < unseen / 10 * 9, "{seen} of {unseen} bytes are still copied by the driver");
}

/// What is said of a device's backing once a program has asked what is free, and nothing else.
fn reason_after_a_question(world: &World, is_expected: impl Fn(&str) -> bool) -> String {
    let mut target = world.start("steps", &[]);
    let until = Instant::now() + Duration::from_secs(20);
    // The second question comes after the first is answered, and waits for what the first began.
    target.go_on();
    target.go_on();
    loop {
        let reason = record::of_process(target.pid()).map(|record| record.backing_reason.get()).unwrap_or_default();
        if is_expected(&reason) || Instant::now() > until {
            assert!(target.finish().success());
            return reason;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_planned_models_backing_is_probed_before_anything_is_allocated() {
    let world = with_device(Path::new("/nonexistent/greenboost")).env(PLAN, "a model: extend");
    let reason = reason_after_a_question(&world, |reason| !reason.is_empty());
    assert!(reason.starts_with("host-numa: a kernel reads and writes it"), "{reason}");
}

#[test]
fn what_is_free_does_not_depend_on_the_probe_and_a_program_that_ends_at_once_ends_well() {
    for seed in 0..8 {
        println!("seed {seed}");
        // The context of a probe takes VRAM, of which the program is to be told all that is free.
        let world =
            || World::new().hooked().env("SIMGPU_CTX_OVERHEAD", "8MiB").env(VRAM_RESERVE, "0").env(REPORT_FREE, "vram");
        let ask = |world: World| world.delays(seed).run_with("queries", &["memory"]).ok().json();
        let (with, without) = (ask(world().env(PLAN, "a model: extend")), ask(world()));
        assert_eq!(with, without);
    }
}
