//! A plan for a model that only the runner knows: the llama-server that a server has started. And where plans are seen.

use greenboost_contract::{record, settings};
use greenboost_gguf::write::Writer;
use integration_tests::artefacts::artefacts;
use integration_tests::{Outcome, World, toy};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What Ollama gives its runner besides the model.
const OLLAMA: &[&str] = &["-c", "4096", "-np", "1", "-b", "512", "-ub", "512", "--flash-attn", "auto"];

/// A copy of a program under another name. By another process: a fork of another test would hold the file open for
/// writing, and it could not be started.
fn called(world: &World, program: &Path, name: &str) -> PathBuf {
    let path = world.file(name);
    assert!(Command::new("cp").arg(program).arg(&path).status().expect("cp").success());
    path
}

fn variables() -> PathBuf {
    artefacts().fixtures.join("variables")
}

/// A world in which this program plans for runners.
fn asking(planner: &Path) -> World {
    World::new().vram("2GiB").hooked().env(settings::VRAM, "1GiB").env(settings::PLANNER, planner)
}

fn run(world: &World, program: &Path, arguments: &[&str]) -> Outcome {
    let outcome = world.run_with(program.to_str().expect("UTF-8"), arguments).ok();
    // No child, thread or pipe is left that was not there without us.
    let plain = world.run_outside(program.to_str().expect("UTF-8"), arguments);
    assert_eq!(outcome.stdout.lines().last(), plain.stdout.lines().last(), "{}", outcome.report());
    assert!(plain.stdout.contains("alone=1 threads=1"), "{}", plain.report());
    assert_eq!(outcome.stderr, "", "{}", outcome.report());
    outcome
}

/// The variables a runner found, one a line.
fn found(outcome: &Outcome) -> String {
    let mut lines: Vec<_> = outcome.stdout.lines().filter(|line| line.starts_with("LLAMA_ARG_")).collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn a_runner_finds_the_plan_for_its_model_when_its_main_begins() {
    let toy = toy("24MiB", 6);
    let world = asking(&artefacts().program("greenboost"));
    let runner = called(&world, &variables(), "llama-server");
    let outcome = run(&world, &runner, &["-m", toy.file()]);
    let plan = world.run_outside(
        artefacts().program("greenboost").to_str().expect("UTF-8"),
        &["plan", toy.file(), "--json", "--vram", "1GiB", "--ram", "1GiB"],
    );
    let expected = plan.json()["commands"]["llama_server_environment"].clone();
    let expected: std::collections::BTreeMap<String, String> = serde_json::from_value(expected).expect("variables");
    let expected: Vec<_> = expected.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(found(&outcome), expected.join("\n"), "{}", outcome.report());
    assert!(outcome.log.contains("plan ") && outcome.log.contains(": vram, "), "{}", outcome.report());
}

#[test]
fn a_way_that_was_asked_for_reaches_the_runner_and_the_hook_in_it() {
    let toy = toy("24MiB", 6);
    let planner = artefacts().program("greenboost");
    // Too little for the model and what the plan takes for scratch memory. No speed is known, so CPU and link get half
    // each.
    let tight = || {
        let world = asking(&planner).env(settings::VRAM, "412MiB").env(settings::RING, "2MiB");
        let cache = world.file("cache");
        world.env("XDG_CACHE_HOME", cache)
    };
    let world = tight().env(settings::STRATEGY, "combined");
    let runner = called(&world, &variables(), "llama-server");
    let outcome = run(&world, &runner, &["-m", toy.file()]);
    let found = found(&outcome);
    assert!(found.contains(r"LLAMA_ARG_OVERRIDE_TENSOR=blk\.("), "{}", outcome.report());
    assert!(!found.contains("LLAMA_ARG_LOAD_MODE"), "a dense model is mapped: {found}");
    assert!(outcome.stdout.contains("GGML_CUDA_DISABLE_GRAPHS=1\n"), "{}", outcome.report());
    for (name, value) in [(settings::STREAM, "on"), (settings::HOST_COPY_PREFETCH, "on"), (settings::RING, "2097152")] {
        assert!(outcome.stdout.contains(&format!("{name}={value}\n")), "{name}: {}", outcome.report());
    }
    // What the user fixed is asked about, and stays.
    let world = tight().env(settings::STRATEGY, "combined").env(settings::FIXED, settings::STREAM);
    let runner = called(&world, &variables(), "llama-server");
    let outcome = run(&world, &runner, &["-m", toy.file()]);
    assert!(outcome.log.contains("you have turned streaming off"), "{}", outcome.report());
    assert!(outcome.stdout.contains("GREENBOOST_STREAM=off\n"), "{}", outcome.report());
}

/// A mixture of experts of 60 MiB, a hole on the disk.
fn mixture(world: &World) -> PathBuf {
    let keys = [
        ("block_count", 4),
        ("context_length", 4096),
        ("embedding_length", 512),
        ("expert_count", 16),
        ("expert_used_count", 2),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 1),
    ];
    let writer = Writer::default().text("general.architecture", "qwen3moe").text("general.name", "mixture");
    let writer = keys.iter().fold(writer, |writer, (key, value)| writer.number(&format!("qwen3moe.{key}"), *value));
    let writer = writer.tensor("output.weight", &[512, 256], "Q8_0").tensor("token_embd.weight", &[512, 256], "Q8_0");
    let writer = (0..4).fold(writer, |writer, layer| {
        let experts = ["gate", "up", "down"].iter().fold(writer, |writer, matrix| {
            writer.tensor(&format!("blk.{layer}.ffn_{matrix}_exps.weight"), &[512, 512, 16], "Q8_0")
        });
        experts.tensor(&format!("blk.{layer}.attn_q.weight"), &[512, 512], "Q8_0")
    });
    let path = world.file("mixture.gguf");
    writer.save(&path).expect("written");
    path
}

#[test]
fn a_runner_gets_experts_in_vram_where_a_rule_knows_its_kernels() {
    let planner = artefacts().program("greenboost");
    let ask = |rules: &str| {
        // Less than the model and what the plan takes for scratch memory, and more than without its experts.
        let world = asking(&planner).env(settings::VRAM, "440MiB").env(settings::RING, "2MiB");
        let cache = world.file("cache");
        let world = world.env("XDG_CACHE_HOME", cache).env(settings::STRATEGY, "experts").env(settings::KERNELS, rules);
        let (runner, model) = (called(&world, &variables(), "llama-server"), mixture(&world));
        run(&world, &runner, &["-m", model.to_str().expect("UTF-8")])
    };
    let outcome = ask("vec\t_exps\texperts\tids=2 row=7 stride=11 step=18 tokens=1 weights=0");
    for (name, value) in [(settings::EXPERTS, "on"), (settings::STREAM, "on"), ("LLAMA_ARG_N_GPU_LAYERS", "999")] {
        assert!(outcome.stdout.contains(&format!("{name}={value}\n")), "{name}: {}", outcome.report());
    }
    assert!(!outcome.stdout.contains("GGML_CUDA_DISABLE_GRAPHS"), "{}", outcome.report());
    assert!(outcome.log.contains(" of 16 a layer in VRAM, "), "{}", outcome.report());
    let outcome = ask("vec\t_exps\tin-place\t");
    assert!(outcome.log.contains("no kernel rule of the profile has read"), "{}", outcome.report());
    assert_eq!(found(&outcome), "", "{}", outcome.report());
}

#[test]
fn what_ollama_and_the_user_set_is_left_as_it_is() {
    let toy = toy("24MiB", 6);
    let planner = artefacts().program("greenboost");
    let world = asking(&planner);
    let runner = called(&world, &variables(), "llama-server");
    let arguments = [&["-m", toy.file()], OLLAMA].concat();
    assert_eq!(found(&run(&world, &runner, &arguments)), "LLAMA_ARG_N_GPU_LAYERS=999");
    let world = asking(&planner).env("LLAMA_ARG_N_CPU_MOE", "3");
    let runner = called(&world, &variables(), "llama-server");
    assert_eq!(found(&run(&world, &runner, &arguments)), "LLAMA_ARG_N_CPU_MOE=3", "the user's placement");
}

#[test]
fn processes_that_are_no_runner_with_a_model_ask_nothing() {
    let toy = toy("24MiB", 6);
    let model = ["-m", toy.file()];
    let planner = artefacts().program("greenboost");
    let world = asking(&planner);
    let runner = called(&world, &variables(), "llama-server");
    let other = called(&world, &variables(), "ollama");
    let unasked = |outcome: Outcome| {
        assert_eq!(found(&outcome), "", "{}", outcome.report());
        assert!(!outcome.log.contains("plan "), "{}", outcome.report());
    };
    let started = Instant::now();
    unasked(run(&world, &runner, &[]));
    unasked(run(&world, &runner, &["--list-devices"]));
    unasked(run(&world, &other, &model));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    for (name, value) in [(settings::PLANNER, ""), (settings::EXCLUDE, "^llama-server$"), (settings::DISABLE, "1")] {
        let world = asking(&planner).env(name, value);
        let runner = called(&world, &variables(), "llama-server");
        unasked(run(&world, &runner, &model));
    }
}

#[test]
fn a_planner_that_fails_or_hangs_delays_a_runner_at_most_so_long() {
    let toy = toy("24MiB", 6);
    let broken = World::new();
    let script = |name: &str, text: &str| {
        // Written by another process: a fork of another test would hold the file open, and it could not be started.
        let path = broken.file(name);
        let mut written = Command::new("sh");
        written.args(["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", text]).arg(&path);
        assert!(written.status().expect("sh").success());
        path
    };
    for (planner, words) in [
        (PathBuf::from("/nonexistent/greenboost"), "cannot be started"),
        (script("nonsense", "#!/bin/sh\necho LLAMA_ARG_X=1\n"), "gave no answer"),
        (script("hangs", "#!/bin/sh\necho a plan\nexec sleep 600\n"), "no answer in 5 s"),
    ] {
        let world = asking(&planner);
        let runner = called(&world, &variables(), "llama-server");
        let started = Instant::now();
        let outcome = run(&world, &runner, &["-m", toy.file()]);
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
        assert_eq!(found(&outcome), "");
        assert!(outcome.log.contains("plan none: ") && outcome.log.contains(words), "{}", outcome.report());
    }
}

#[test]
fn under_an_ollama_like_server_only_the_runner_with_the_model_is_planned_for() {
    let toy = toy("24MiB", 6);
    let plain = World::new().vram("1GiB");
    let runner = called(&plain, &artefacts().program("toy-llm"), "llama-server");
    let arguments = [runner.to_str().expect("UTF-8"), toy.file()];
    let expected = plain.run_with("ollama-like", &arguments).ok();
    let world = World::new().vram("1GiB");
    let log = world.file("hook.log").display().to_string();
    let world = world.launched(&["--profile", "ollama", "--vram", "900MiB", "--ram", "256MiB", "--log", &log]);
    let outcome = world.run_with("ollama-like", &arguments).ok();
    assert_eq!((&outcome.stdout, &outcome.stderr), (&expected.stdout, &expected.stderr), "{}", outcome.report());
    let plans: Vec<_> = outcome.log.lines().filter(|line| line.contains(": plan ")).collect();
    assert!(plans.len() == 1 && plans[0].contains(": vram, "), "{plans:?}\n{}", outcome.report());
}

#[test]
fn a_plan_is_seen_in_the_log_and_the_status_of_the_process_it_was_made_for() {
    let toy = toy("24MiB", 6);
    let world = World::new().vram("1GiB");
    let log = world.file("hook.log").display().to_string();
    let world = world.launched(&["--vram", "900MiB", "--ram", "256MiB", "--log", &log]);
    let runner = called(&world, &artefacts().program("toy-llm"), "llama-server");
    let mut running = world.start(runner.to_str().expect("UTF-8"), &["-m", toy.file(), "-n", "6", "--hold"]);
    running.until("ready");
    let plan = record::of_process(running.pid()).expect("a record").plan.get();
    assert!(plan.contains(": vram, "), "{plan}");
    assert!(running.log().contains(&format!("plan {plan}")), "{}", running.log());
    let status = world.run_outside(artefacts().program("greenboost").to_str().expect("UTF-8"), &["status"]).ok();
    assert!(status.stdout.contains(&format!("plan    {plan}")), "{}", status.report());
    assert!(running.finish().success());
}
