//! Processes around the target: those we must leave alone, children, and the way Ollama runs its runner.

use integration_tests::{World, toy};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// What `untouched` printed, without the fact that the library is mapped.
fn findings(world: &World) -> String {
    let outcome = world.run("untouched").ok();
    assert!(outcome.stderr.is_empty(), "{}", outcome.report());
    outcome.stdout.replace("mapped=1", "mapped=0")
}

#[test]
fn a_process_that_is_not_ours_is_as_it_would_be_without_us() {
    let plain = findings(&World::new());
    assert!(plain.contains("touched=0"), "{plain}");
    let no_active = World::new().hooked().env("GREENBOOST_ACTIVE", "");
    let excluded = World::new().hooked().env("GREENBOOST_EXCLUDE", "^untouched$");
    let not_included = World::new().hooked().env("GREENBOOST_INCLUDE", "^llama-server$");
    let disabled = World::new().hooked().env("GREENBOOST_DISABLE", "1");
    for (why, world) in
        [("inactive", no_active), ("excluded", excluded), ("not included", not_included), ("disabled", disabled)]
    {
        assert_eq!(findings(&world), plain, "{why}");
        assert!(!world.file("hook.log").exists(), "{why}: a log was written");
    }
    // The detector works: a process that is ours has patched code.
    assert!(findings(&World::new().layers("inline")).contains("touched=1"));
}

#[test]
fn programs_outside_the_filter_reach_the_driver_unhooked() {
    for (variable, value) in [("GREENBOOST_EXCLUDE", "^dlsym$"), ("GREENBOOST_INCLUDE", "^llama-server$")] {
        let outcome = World::new().hooked().env(variable, value).run("dlsym").ok();
        assert!(!outcome.caught(), "{variable}\n{}", outcome.report());
    }
    let outcome = World::new().hooked().env("GREENBOOST_INCLUDE", "^dlsym$").run("dlsym").ok();
    assert!(outcome.caught(), "{}", outcome.report());
}

#[test]
fn a_setuid_program_is_left_alone_by_the_loader_and_runs() {
    // SAFETY: asks for the user's id.
    if unsafe { libc::geteuid() } != 0 {
        return; // only root can make a program that runs as somebody else
    }
    let world = World::new().hooked();
    let plain = integration_tests::artefacts::artefacts().fixtures.join("untouched");
    let program = world.file("setuid-program");
    // Not by this process: another test's fork would hold the file open for writing, and it could not be started.
    assert!(Command::new("cp").arg(plain).arg(&program).status().expect("cp").success());
    let owned = Command::new("chown").arg("nobody").arg(&program).status().expect("chown");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).expect("chmod");
    fs::set_permissions(program.parent().expect("a directory"), fs::Permissions::from_mode(0o755)).expect("chmod");
    assert!(owned.success());
    let outcome = world.run(program.to_str().expect("UTF-8")).ok();
    assert!(outcome.stdout.contains("touched=0 mapped=0"), "{}", outcome.report());
}

#[test]
fn shells_pipes_and_tools_work_with_the_library_inherited() {
    let world = World::new().hooked();
    let outcome = world
        .run_with("/bin/sh", &["-c", "printf 'b\\na\\n' | sort | tr a-z A-Z; ls / >/dev/null && /bin/true; echo $?"])
        .ok();
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("A\nB\n0\n", ""), "{}", outcome.report());
}

#[test]
fn a_target_started_by_a_shell_is_caught() {
    let world = World::new().hooked();
    let fixture = integration_tests::artefacts::artefacts().fixtures.join("dlsym");
    let outcome = world.run_with("/bin/sh", &["-c", &format!("{} | cat", fixture.display())]).ok();
    assert!(outcome.caught(), "{}", outcome.report());
}

#[test]
fn an_ollama_like_server_discovers_and_serves_as_without_us() {
    let toy = toy("24MiB", 6);
    let runner = integration_tests::artefacts::artefacts().program("toy-llm");
    let arguments = [runner.to_str().expect("UTF-8"), toy.file()];
    let plain = World::new().vram("64MiB").run_with("ollama-like", &arguments).ok();
    assert!(plain.stdout.starts_with(&toy.answer), "{}", plain.report());
    // A quarter of the model's size in VRAM: only the runner, a grandchild of the test, can load it.
    let hooked = World::new().vram("8MiB").hooked().run_with("ollama-like", &arguments).ok();
    assert_eq!((&hooked.stdout, &hooked.stderr), (&plain.stdout, &plain.stderr), "{}", hooked.report());
    let missed = World::new().vram("8MiB").run_with("ollama-like", &arguments);
    assert!(!missed.status.success(), "{}", missed.report());
}

#[test]
fn an_ollama_like_server_is_caught_through_the_launcher() {
    let toy = toy("24MiB", 6);
    let runner = integration_tests::artefacts::artefacts().program("toy-llm");
    let arguments = [runner.to_str().expect("UTF-8"), toy.file()];
    let world = World::new().vram("8MiB").launched(&["--vram", "8MiB", "--ram", "256MiB", "--profile", "generic"]);
    let outcome = world.run_with("ollama-like", &arguments).ok();
    assert!(outcome.stdout.starts_with(&toy.answer), "{}", outcome.report());
}
