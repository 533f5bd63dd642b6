//! The answer of a model does not depend on where its memory lives.

use integration_tests::{Outcome, Toy, World, toy};

const TOKENS: u32 = 4;

/// Much larger than the GPUs below, and small enough to be computed in a moment.
fn model() -> Toy {
    toy("32MiB", TOKENS)
}

fn ask(world: &World, toy: &Toy, more: &[&str]) -> Outcome {
    let tokens = TOKENS.to_string();
    let mut arguments = vec!["-m", toy.file(), "-n", &tokens];
    arguments.extend(more);
    world.run_with("toy-llm", &arguments)
}

#[track_caller]
fn expect(world: &World, more: &[&str]) -> Outcome {
    let toy = model();
    let outcome = ask(world, &toy, more).ok();
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), (toy.answer.as_str(), ""), "{}", outcome.report());
    outcome
}

/// VRAM for a quarter of the model.
fn quarter() -> World {
    World::new().vram("8MiB").hooked()
}

#[test]
fn the_simulated_gpu_computes_what_the_cpu_computes() {
    expect(&World::new().vram("1GiB"), &[]);
    expect(&World::new().vram("1GiB"), &["--streams", "3", "--pieces"]);
    expect(&World::new().vram("1GiB"), &["--graph", "--streams", "2"]);
}

#[test]
fn a_model_that_does_not_fit_fails_without_us() {
    let outcome = ask(&World::new().vram("8MiB"), &model(), &[]);
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.report());
    assert!(outcome.stderr.contains("out of memory"), "{}", outcome.report());
}

#[test]
fn a_model_that_fits_answers_the_same_hooked() {
    expect(&World::new().vram("1GiB").hooked(), &[]);
}

#[test]
fn a_quarter_of_the_model_in_vram_gives_the_same_answer() {
    for more in [&[][..], &["--pieces"], &["--streams", "3"], &["--graph"], &["--graph", "--streams", "2", "--pieces"]]
    {
        expect(&quarter(), more);
    }
}

#[test]
fn each_backing_gives_the_same_answer_and_is_the_one_used() {
    for backing in ["host-numa", "memfd"] {
        let outcome = expect(&quarter().env("GREENBOOST_BACKINGS", backing), &["--streams", "2"]);
        assert!(outcome.log.contains(backing), "{}", outcome.report());
    }
}

#[test]
fn a_backing_that_kernels_cannot_use_is_found_out_and_replaced() {
    for fault in ["unreadable", "stale", "unsupported"] {
        let outcome = expect(&quarter().env("SIMGPU_HOST_NUMA", fault), &[]);
        assert!(outcome.log.contains("memfd"), "{fault}\n{}", outcome.report());
    }
    expect(&quarter().env("SIMGPU_HOST_REGISTER", "fail"), &[]);
}

#[test]
fn with_no_usable_backing_the_program_gets_out_of_memory() {
    let world = quarter().env("SIMGPU_HOST_NUMA", "unreadable").env("SIMGPU_HOST_REGISTER", "fail");
    let outcome = ask(&world, &model(), &[]);
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.report());
    assert!(outcome.stderr.contains("out of memory"), "{}", outcome.report());
}

#[test]
fn random_delays_change_nothing() {
    for seed in 1..=16 {
        let flags: &[&str] = match seed % 4 {
            0 => &["--streams", "3"],
            1 => &["--graph"],
            2 => &["--pieces"],
            _ => &[],
        };
        let backing = if seed % 2 == 0 { "memfd" } else { "host-numa" };
        expect(&quarter().delays(seed).env("GREENBOOST_BACKINGS", backing), flags);
    }
}

#[test]
fn the_launcher_does_all_of_it() {
    let world = World::new().vram("8MiB").launched(&["--vram", "8MiB", "--ram", "256MiB"]);
    expect(&world, &[]);
    expect(&World::new().vram("1GiB").launched(&["--vram", "8MiB", "--ram", "256MiB"]), &["--graph"]);
}

#[test]
fn the_launcher_passes_exit_codes_on() {
    let world = World::new().launched(&[]);
    let outcome = world.run_with("toy-llm", &["-m", "/nonexistent.gguf"]);
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.report());
    assert_eq!(world.run_with("/bin/sh", &["-c", "exit 42"]).status.code(), Some(42));
}
