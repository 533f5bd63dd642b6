//! When something is missing or goes wrong: the driver's own errors, and nothing remains.

use integration_tests::{World, toy};
use std::collections::BTreeSet;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Entries of /dev/shm, where anything with a name would show.
fn shared_memory() -> BTreeSet<String> {
    let entries = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("reenboost"))
        .collect()
}

/// Processes that have the hook mapped and run in this world (its scratch directory is their working directory).
fn processes_of(world: &World) -> Vec<String> {
    let home = world.file("");
    let home = home.as_path().components().as_path().to_owned();
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    all.filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == home))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn a_ram_budget_that_runs_out_during_loading_is_out_of_memory_and_leaves_nothing() {
    let model = toy("32MiB", 4);
    let before = shared_memory();
    for ram in ["0", "4MiB", "15MiB"] {
        let world = World::new().vram("8MiB").hooked().env("GREENBOOST_RAM", ram);
        let outcome = world.run_with("toy-llm", &["-m", model.file(), "-n", "4"]);
        assert_eq!(outcome.status.code(), Some(1), "RAM {ram}\n{}", outcome.report());
        assert!(outcome.stderr.contains("out of memory"), "RAM {ram}\n{}", outcome.report());
        assert!(processes_of(&world).is_empty());
    }
    assert_eq!(shared_memory(), before);
}

#[test]
fn after_a_refused_allocation_the_program_can_go_on() {
    // `queries` asks for 2^50 bytes first and then for what fits: the refusal must not have cost anything.
    let outcome = World::new().hooked().env("GREENBOOST_RAM", "40MiB").run("queries").ok();
    let json = outcome.json();
    assert_eq!((json["too_large"].as_u64(), json["alloc"].as_u64()), (Some(2), Some(0)), "{}", outcome.report());
}

#[test]
fn a_killed_target_leaves_no_shared_memory_and_no_children() {
    let model = toy("32MiB", 4);
    let before = shared_memory();
    let world = World::new().vram("8MiB").hooked();
    let mut target = world.start("toy-llm", &["-m", model.file(), "-n", "4", "--hold"]);
    target.until("ready");
    assert!(!processes_of(&world).is_empty(), "the test looks in the wrong place");
    target.kill();
    let start = Instant::now();
    while !processes_of(&world).is_empty() && start.elapsed() < Duration::from_secs(5) {
        sleep(Duration::from_millis(10));
    }
    assert_eq!(processes_of(&world), Vec::<String>::new());
    assert_eq!(shared_memory(), before);
}

#[test]
fn a_target_that_ends_by_itself_leaves_nothing_either() {
    let model = toy("32MiB", 4);
    let before = shared_memory();
    let world = World::new().vram("8MiB").hooked();
    let mut target = world.start("toy-llm", &["-m", model.file(), "-n", "4", "--hold"]);
    let lines = target.until("ready");
    assert_eq!(lines.join("\n"), model.answer.trim_end());
    assert!(target.finish().success());
    assert!(processes_of(&world).is_empty());
    assert_eq!(shared_memory(), before);
}

#[test]
fn a_failing_driver_call_inside_our_work_never_gives_a_wrong_answer() {
    let model = toy("32MiB", 4);
    for call in ["cuMemCreate", "cuMemMap", "cuMemSetAccess", "cuMemAddressReserve", "cuMemHostRegister_v2"] {
        for nth in [1, 3, 7] {
            let world = World::new().vram("8MiB").hooked().env("SIMGPU_FAIL", format!("{call}:{nth}"));
            let outcome = world.run_with("toy-llm", &["-m", model.file(), "-n", "4"]);
            // Out of memory is an honest answer; a crash or other tokens are not.
            let honest = outcome.status.code() == Some(1) && outcome.stderr.contains("out of memory");
            let right = outcome.status.success() && outcome.stdout == model.answer;
            assert!(honest || right, "{call} failed at call {nth}\n{}", outcome.report());
        }
    }
}

#[test]
fn an_old_driver_without_virtual_memory_is_used_as_it_is() {
    let outcome = World::new().hooked().env("SIMGPU_VMM", "0").run("dlsym").ok();
    assert!(outcome.stderr.is_empty(), "{}", outcome.report());
    let fits = World::new().vram("64MiB").env("GB_FIXTURE_BYTES", (8 << 20).to_string());
    assert!(fits.hooked().env("SIMGPU_VMM", "0").run("dlsym").ok().caught());
}

#[test]
fn a_setting_that_cannot_be_used_disables_us_rather_than_the_program() {
    for (name, value) in [("GREENBOOST_VRAM", "lots"), ("GREENBOOST_LAYERS", "magic"), ("GREENBOOST_CHUNK", "3M")] {
        let outcome = World::new().hooked().env(name, value).run("dlsym").ok();
        assert!(outcome.stderr.is_empty(), "{}", outcome.report());
        outcome.caught();
    }
}

#[test]
fn an_unwritable_log_does_not_disturb_the_program() {
    let outcome = World::new().hooked().env("GREENBOOST_LOG", "/nonexistent/directory/log").run("dlsym").ok();
    assert!(outcome.stderr.is_empty() && outcome.caught(), "{}", outcome.report());
}
