//! gb-launch planning for the command's model: what the command gets is what `greenboost plan` says is best, around
//! whatever the user has set, and nothing else is noticed.

mod common;

use common::gpu::{greenboost, known_machine, on_gpu, with_gpu, without_gpu};
use common::planned::{SHOW, STREAMING, Variables, got, only_the_profile, place, variables};
use common::{Place, refused, run};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[track_caller]
fn planned(mut command: Command) -> Value {
    let (status, stdout, stderr) = run(&mut command);
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{stdout}");
    serde_json::from_str(&stdout).expect("JSON")
}

fn environment(plan: &Value) -> Variables {
    let set = plan["commands"]["llama_server_environment"].as_object().expect("variables");
    let set = set.iter().map(|(name, value)| (name.clone(), value.as_str().expect("text").to_owned()));
    // What a plan leaves as it is comes from the profile.
    variables(&STREAMING).into_iter().chain(set).collect()
}

#[test]
fn on_a_gpu_the_command_gets_what_the_plan_says_is_best() {
    // Where the model does not fit: a slow link, a slow CPU, and no VRAM for copies of experts besides.
    for (link, cpu, vram, expected) in [
        (0.5, 40.0, Some("1500MiB"), "offload"),
        (50.0, 5.0, Some("1500MiB"), "experts"),
        (50.0, 5.0, Some("1000MiB"), "extend-in-place"),
        (5.0, 40.0, None, "vram"),
    ] {
        let (place, model) = place();
        known_machine(&place, link, cpu);
        let budgets: Vec<&str> = vram.map_or(vec![], |vram| vec!["--vram", vram]);
        let budgets = [&budgets[..], &["--ram", "4GiB"]].concat();
        let plan = planned(on_gpu(&place, &[&["plan", &model, "--json"], &budgets[..]].concat(), "40"));
        assert_eq!(plan["winner"], expected, "{plan:#}");
        assert_eq!(plan["machine"]["missing"], Value::Array(Vec::new()));

        let words = [&budgets[..], &["./llama-server", "-m", &model]].concat();
        let (variables, line) = got(with_gpu(&place, place.launch(&words), "40"));
        assert_eq!(variables, environment(&plan), "{expected}");
        assert!(line.starts_with("little moe: ") && line.contains("tokens a second"), "{line}");
        assert_eq!(variables.contains_key("LLAMA_ARG_N_CPU_MOE"), expected == "offload", "{variables:?}");
    }
}

#[test]
fn the_first_command_measures_the_machine_and_later_ones_know() {
    let (place, model) = place();
    let words = ["--vram", "1500MiB", "--ram", "4GiB", "./llama-server", "-m", &model];
    got(without_gpu(&place, place.launch(&words)));
    let known = fs::read_to_string(place.path("cache/greenboost/machine.json")).expect("measured and kept");
    assert!(known.contains("\"reads\""), "{known}");
    got(without_gpu(&place, place.launch(&words)));
    assert_eq!(fs::read_to_string(place.path("cache/greenboost/machine.json")).expect("kept"), known);
}

#[test]
fn ollamas_server_is_when_this_machine_is_measured_for_its_runners() {
    let place = Place::new();
    let ollama = place.program("ollama", SHOW);
    let command = |word: &str| {
        let words = ["--force", ollama.to_str().expect("path"), word];
        without_gpu(&place, place.launch(&words))
    };
    got(command("--version"));
    assert!(!place.path("cache").exists());
    assert_eq!(got(command("serve")), (variables(&STREAMING), String::new()));
    assert!(place.path("cache/greenboost/machine.json").is_file());
}

#[test]
fn without_a_gpu_it_plans_when_told_the_vram_and_starts_the_command_all_the_same() {
    let (place, model) = place();
    known_machine(&place, 40.0, 40.0);
    let budgets = ["--vram", "1500MiB", "--ram", "4GiB"];
    let plan = planned(greenboost(&place, &[&["plan", &model, "--json"], &budgets[..]].concat()));
    let words = [&budgets[..], &["./llama-server", "-m", &model]].concat();
    assert_eq!(got(without_gpu(&place, place.launch(&words))).0, environment(&plan));
    let (variables, line) = got(without_gpu(&place, place.launch(&["./llama-server", "-m", &model])));
    assert_eq!(variables, only_the_profile());
    assert!(line.starts_with("none: no GPU was found"), "{line}");
}

#[test]
fn the_users_options_and_variables_win_and_the_plan_is_made_around_them() {
    let (place, model) = place();
    known_machine(&place, 40.0, 40.0);
    let launch = |more: &[&str]| {
        let words = ["--vram", "1500MiB", "--ram", "4GiB", "./llama-server", "-m", &model];
        without_gpu(&place, place.launch(&[&words[..], more].concat()))
    };
    let all = got(launch(&[])).0;
    let without =
        |name: &str| all.iter().filter(|(key, _)| *key != name).map(|(k, v)| (k.clone(), v.clone())).collect();
    let fewer: Variables = without("LLAMA_ARG_CTX_SIZE");
    assert_eq!(got(launch(&["--ctx-size", "8192"])).0, fewer, "an option: the variable is not set at all");
    let mut command = launch(&[]);
    command.env("LLAMA_ARG_CTX_SIZE", "4096").env("LLAMA_ARG_UBATCH", "64");
    let (variables, _) = got(command);
    assert_eq!((&*variables["LLAMA_ARG_CTX_SIZE"], &*variables["LLAMA_ARG_UBATCH"]), ("4096", "64"));
    assert_eq!(variables.len(), all.len());
    let mut placed: Variables = without("LLAMA_ARG_N_GPU_LAYERS");
    assert_eq!(placed.insert("GREENBOOST_STREAM".to_owned(), "on".to_owned()).as_deref(), Some("off"));
    let (variables, line) = got(launch(&["-ngl", "5"]));
    assert_eq!(variables, placed, "a placement is left whole");
    assert!(line.starts_with("little moe: your placement (-ngl), ") && line.contains(" outside, "), "{line}");
    let (variables, line) = got(launch(&["--override_tensor", "exps=CPU"]));
    assert_eq!(variables, placed, "in every spelling");
    assert!(line.contains("your placement (-ot), which the plan does not follow"), "{line}");

    // What a profile of the user's sets outright is the user's as well; the shipped one's context gives way.
    let text = "name = 'mine'\ninherits = 'llama-server'\n[environment]\nLLAMA_ARG_CTX_SIZE = '2048'";
    place.profile("mine.toml", text);
    let words = ["--profile", "mine", "--vram", "1500MiB", "./llama-server", "-m", &model];
    let (variables, line) = got(without_gpu(&place, place.launch(&words)));
    assert_eq!(variables["LLAMA_ARG_CTX_SIZE"], "2048");
    assert!(line.starts_with("little moe: "), "{line}");
}

#[test]
fn a_plan_can_be_turned_off_and_nobody_is_planned_for_who_did_not_name_a_model() {
    let (place, model) = place();
    for (words, line) in [
        (&["--no-plan", "--vram", "4GiB", "./llama-server", "-m", &*model][..], "none: --no-plan"),
        (&["--vram", "4GiB", "./llama-server"], "none: the command names no model file"),
        (
            &["--vram", "4GiB", "./llama-server", "--list-devices", "-m", &model],
            "none: the command names no model file",
        ),
        (&["--vram", "4GiB", "./llama-server", "-hf", "some/model"], "none: the command names no model file"),
    ] {
        let started = Instant::now();
        assert_eq!(got(without_gpu(&place, place.launch(words))), (only_the_profile(), line.to_owned()), "{words:?}");
        assert!(started.elapsed() < Duration::from_secs(2), "{words:?}: {:?}", started.elapsed());
    }
    let mut command = without_gpu(&place, place.launch(&["--vram", "4GiB", "./llama-server", "-m", &model]));
    command.env("GREENBOOST_DISABLE", "1");
    assert_eq!(got(command), (only_the_profile(), String::new()));
    // Programs that are no server of llama.cpp's: nobody asks.
    place.program("llama-bench", SHOW);
    let command = place.launch(&["--vram", "4GiB", "./llama-bench", "-m", &model]);
    assert_eq!(got(without_gpu(&place, command)), (variables(&STREAMING), String::new()));
    assert!(!place.path("cache").exists(), "nothing was measured");
}

#[test]
fn a_model_that_cannot_be_read_is_the_commands_to_complain_about() {
    let (place, model) = place();
    let whole = fs::read(&model).expect("model");
    fs::write(place.path("cut.gguf"), &whole[..100]).expect("written");
    fs::write(place.path("text.gguf"), "hello, world").expect("written");
    for (file, words) in [("cut.gguf", "none: "), ("text.gguf", "begins with \"hell\""), ("none.gguf", "No such file")]
    {
        let command = place.launch(&["--vram", "4GiB", "./llama-server", "-m", file]);
        let (variables, line) = got(without_gpu(&place, command));
        assert_eq!(variables, only_the_profile(), "{file}");
        assert!(line.starts_with("none: ") && line.contains(words), "{file}: {line}");
    }
    // What is no file would be waited for, or is a slip.
    assert!(std::process::Command::new("mkfifo").arg(place.path("fifo")).status().is_ok_and(|status| status.success()));
    for (file, words) in [("/", "is a folder"), ("/dev/null", "is no regular file"), ("fifo", "is no regular file")] {
        let command = place.launch(&["--vram", "4GiB", "./llama-server", "-m", file]);
        refused(&mut without_gpu(&place, command), 2, &["the model", file, words, "give the .gguf file"]);
    }
}

/// gb-launch in a folder of its own, with this script as the program that plans.
fn launcher_with(place: &Place, planner: Option<&str>) -> PathBuf {
    let launcher = place.launcher_at("bin/gb-launch");
    if let Some(script) = planner {
        place.program("bin/greenboost", &format!("#!/bin/sh\n{script}\n"));
    }
    launcher
}

#[test]
fn a_planner_that_is_missing_or_talks_nonsense_changes_nothing() {
    for (planner, words) in [
        (None, "greenboost cannot be started"),
        (Some("echo hello"), "gave no answer"),
        (Some("echo a plan; echo LD_PRELOAD=/x; echo end"), "gave no answer"),
        (Some("echo noise >&2; kill -SEGV $$"), "gave no answer"),
    ] {
        let (place, model) = place();
        let mut command = Command::new(launcher_with(&place, planner));
        // The environment of a test, with another program.
        let template = without_gpu(&place, place.launch(&[]));
        for (name, value) in template.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.current_dir(place.path("")).args(["--vram", "4GiB", "./llama-server", "-m", &model]);
        let (variables, line) = got(command);
        assert_eq!(variables, only_the_profile(), "{planner:?}");
        assert!(line.starts_with("none: ") && line.contains(words), "{planner:?}: {line}");
    }
}

/// A folder with a driver that never comes back from being loaded.
fn hanging_driver(place: &Place) -> PathBuf {
    let folder = place.path("driver");
    fs::create_dir_all(&folder).expect("folder");
    let source = "#include <unistd.h>\n__attribute__((constructor)) static void hang(void) { for (;;) pause(); }";
    fs::write(place.path("hang.c"), source).expect("written");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(folder.join("libcuda.so.1")).arg(place.path("hang.c"));
    assert!(compiler.status().expect("a C compiler").success());
    folder
}

/// The children of a process.
fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn within(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while started.elapsed() < limit {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

#[test]
fn a_driver_that_hangs_is_given_up_and_the_command_starts() {
    let (place, model) = place();
    let driver = hanging_driver(&place);
    let mut command = without_gpu(&place, place.launch(&["./llama-server", "-m", &model]));
    command.env("LD_LIBRARY_PATH", &driver);
    let started = Instant::now();
    let (variables, line) = got(command);
    assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
    assert_eq!(variables, only_the_profile());
    assert!(line.starts_with("none: "), "{line}");
}

#[test]
fn a_planner_that_is_killed_leaves_nobody_behind_who_talks_to_the_driver() {
    let (place, model) = place();
    let driver = hanging_driver(&place);
    let mut planner = greenboost(&place, &["answer", "--", "-m", &model]);
    let mut planner = planner.env("LD_LIBRARY_PATH", &driver).stdout(Stdio::null()).spawn().expect("starts");
    let mut left = Vec::new();
    let seen = within(Duration::from_secs(5), || {
        left = children(planner.id());
        // It has become the program that loads the driver, and said that it dies with its parent.
        left.iter()
            .any(|pid| fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.contains("libcuda")))
    });
    planner.kill().expect("killed");
    planner.wait().expect("gone");
    assert!(seen, "no child loaded the driver");
    let gone = |pid: &u32| !PathBuf::from(format!("/proc/{pid}/exe")).exists();
    assert!(within(Duration::from_secs(5), || left.iter().all(gone)), "{left:?} are still there");
}

#[test]
fn a_dry_run_shows_the_plan_and_whose_word_each_variable_is() {
    let (place, model) = place();
    known_machine(&place, 40.0, 40.0);
    let words = ["--dry-run", "--vram", "1500MiB", "--ram", "4GiB", "./llama-server", "-m", &model];
    let (status, stdout, stderr) = run(&mut without_gpu(&place, place.launch(&words)));
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    for part in [
        "plan         little moe: extend-in-place, ",
        "    LLAMA_ARG_N_GPU_LAYERS=999\n",
        "    LLAMA_ARG_CTX_SIZE=8192\n",
        "    LLAMA_ARG_CTX_SIZE: the profile's 8192, the plan sets it",
    ] {
        assert!(stdout.contains(part), "{part:?} is not in\n{stdout}");
    }
    let (_, stdout, _) = run(&mut without_gpu(&place, place.launch(&["--dry-run", "--profile", "ollama", "env"])));
    assert!(stdout.contains("plan         for each model, by the llama-server that runs it (asks /"), "{stdout}");
    let (_, stdout, _) = run(&mut place.launch(&["--dry-run", "env"]));
    assert!(stdout.contains("plan         none: the profile asks for none"), "{stdout}");
}

#[test]
fn a_launcher_inside_a_launcher_plans_for_itself() {
    let (place, model) = place();
    known_machine(&place, 40.0, 40.0);
    let inner = env!("CARGO_BIN_EXE_gb-launch");
    place.program("llama-cli", &format!("#!/bin/sh\nexec {inner} --vram 4GiB ./llama-server -m '{model}' -c 4096\n"));
    let outer = place.launch(&["--vram", "1500MiB", "./llama-cli", "-m", &model]);
    let (variables, _) = got(without_gpu(&place, outer));
    let direct = place.launch(&["--vram", "4GiB", "./llama-server", "-m", &model, "-c", "4096"]);
    assert_eq!(variables, got(without_gpu(&place, direct)).0);
}
