//! The user's word about how a model is run: the way itself, what it is made of, and that nothing may leave VRAM.

mod common;

use common::gpu::{known_machine, with_gpu};
use common::planned::{got, only_the_profile, place, variables};
use common::{refused, run};

#[test]
fn a_way_that_was_asked_for_reaches_the_command_whole() {
    let (place, model) = place();
    known_machine(&place, 5.0, 40.0);
    let launch = |options: &[&str], more: &[&str]| {
        let budgets = ["--vram", "1500MiB", "--ram", "4GiB"];
        let words = [&budgets[..], options, &["./llama-server", "-m", &model], more].concat();
        with_gpu(&place, place.launch(&words), "40")
    };
    let (combined, line) = got(launch(&["--way", "combined"], &[]));
    assert!(line.contains("CPU and link together (the CPU computes in "), "{line}");
    let pattern = &combined["LLAMA_ARG_OVERRIDE_TENSOR"];
    assert!(
        pattern.starts_with(r"blk\.(0|") && pattern.ends_with(r")\.ffn_(up|down|gate|gate_up)_exps\.=CPU"),
        "{pattern}"
    );
    for (name, value) in [
        ("LLAMA_ARG_N_GPU_LAYERS", "999"),
        ("LLAMA_ARG_LOAD_MODE", "none"),
        ("LLAMA_ARG_THREADS", "4"),
        ("GREENBOOST_STREAM", "on"),
        ("GREENBOOST_ASSIST", "on"),
    ] {
        assert_eq!(combined.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!combined.contains_key("GGML_CUDA_DISABLE_GRAPHS"), "of experts nothing is copied in answers");
    let mut by_variable = launch(&[], &[]);
    by_variable.env("GREENBOOST_WAY", "combined");
    assert_eq!(got(by_variable).0, combined);
    let (assisted, line) = got(launch(&["--way", "assist"], &[]));
    assert!(line.contains("assisted CPU offload") && assisted["GREENBOOST_ASSIST"] == "on", "{line}");
    assert!(assisted.contains_key("LLAMA_ARG_N_CPU_MOE") && !assisted.contains_key("GGML_CUDA_DISABLE_GRAPHS"));
    let (streamed, _) = got(launch(&["--way", "extend", "--ring", "64MiB"], &[]));
    assert_eq!((&*streamed["GREENBOOST_STREAM"], &*streamed["GREENBOOST_RING"]), ("on", "67108864"));
    assert_eq!(streamed["GGML_CUDA_DISABLE_GRAPHS"], "1");

    // The user's own words stay.
    let mut command = launch(&["--way", "combined"], &["-t", "2"]);
    command.env("LLAMA_ARG_LOAD_MODE", "mmap");
    let mut own = combined.clone();
    own.remove("LLAMA_ARG_THREADS");
    own.extend(variables(&[("LLAMA_ARG_LOAD_MODE", "mmap")]));
    assert_eq!(got(command).0, own);
    let mut command = launch(&["--way", "extend"], &[]);
    command.env("GGML_CUDA_DISABLE_GRAPHS", "0");
    assert_eq!(got(command).0["GGML_CUDA_DISABLE_GRAPHS"], "0");
    // What cannot be had stops nobody, and a name that is none is refused.
    let (none, line) = got(launch(&["--way", "combined", "--stream", "off"], &[]));
    let why = "none: CPU and link together was asked for: you have turned streaming off; what can be had: ";
    assert!(line.starts_with(why), "{line}");
    assert_eq!(none["GREENBOOST_STREAM"], "off");
    refused(&mut launch(&["--way", "fastest"], &[]), 2, &["--way", "allowed are vram, extend, extend-in-place"]);
    refused(&mut place.launch(&["--way", "extend", "env"]), 2, &["--way", "nothing is planned for", "generic"]);
    // Each variable is set once.
    let (_, shown, _) = run(&mut launch(&["--dry-run", "--way", "extend"], &[]));
    for name in ["GREENBOOST_STREAM", "GREENBOOST_RING", "GGML_CUDA_DISABLE_GRAPHS"] {
        assert_eq!(shown.matches(&format!("    {name}=")).count(), 1, "{name} in\n{shown}");
    }
}

#[test]
fn streaming_is_as_the_plan_says_unless_the_user_or_a_profile_has_turned_it_off_or_on() {
    let (place, model) = place();
    known_machine(&place, 50.0, 5.0);
    let launch = |options: &[&str]| {
        let words = [&["--vram", "1500MiB", "--ram", "4GiB"], options, &["./llama-server", "-m", &model]].concat();
        with_gpu(&place, place.launch(&words), "50")
    };
    let (open, line) = got(launch(&[]));
    assert!(line.contains("extend, by tensor") && open["GREENBOOST_STREAM"] == "off", "the profile said on: {line}");
    let (fixed, line) = got(launch(&["--stream", "on"]));
    assert!(line.contains("extend, streaming") && fixed["GREENBOOST_STREAM"] == "on", "{line}");

    // A faster way that streams is not taken where it is off.
    known_machine(&place, 5.0, 40.0);
    let (open, line) = got(launch(&["--way", "extend"]));
    assert!(line.contains("extend, streaming") && open["GREENBOOST_STREAM"] == "on", "{line}");
    for off in ["--stream", "variable", "profile"] {
        let options = match off {
            "--stream" => vec!["--way", "extend", "--stream", "off"],
            "profile" => vec!["--way", "extend", "--profile", "mine"],
            _ => vec!["--way", "extend"],
        };
        place.profile("mine.toml", "name = 'mine'\ninherits = 'llama-server'\n[memory]\nstream = 'off'");
        let mut command = launch(&options);
        if off == "variable" {
            command.env("GREENBOOST_STREAM", "off");
        }
        let (set, line) = got(command);
        assert!(line.contains("you have turned streaming off"), "{off}: {line}");
        assert_eq!(set["GREENBOOST_STREAM"], "off", "{off}");
    }
}

#[test]
fn a_model_that_may_not_leave_vram_and_does_not_fit_fails_and_is_not_slow_in_silence() {
    let (place, model) = place();
    known_machine(&place, 40.0, 40.0);
    place.profile("mine.toml", "name = 'mine'\ninherits = 'llama-server'\n[memory]\nspill = 'never'");
    let launch = |vram: &str, more: &[&str]| {
        let words = ["--profile", "mine", "--vram", vram, "./llama-server", "-m", &model];
        with_gpu(&place, place.launch(&[&words[..], more].concat()), "40")
    };
    let (set, line) = got(launch("1500MiB", &[]));
    let mut expected = only_the_profile();
    expected.extend(variables(&[("LLAMA_ARG_FIT", "off"), ("LLAMA_ARG_N_GPU_LAYERS", "999")]));
    assert_eq!(set, expected);
    assert!(
        line.starts_with("none: needs ") && line.ends_with("every layer is put there and loading has to fail"),
        "{line}"
    );
    let (set, line) = got(launch("1500MiB", &["-ngl", "3"]));
    assert_eq!(set, only_the_profile(), "the user's placement");
    assert!(!line.contains("every layer"), "{line}");
    let mut command = launch("1500MiB", &[]);
    command.env("LLAMA_ARG_FIT", "on");
    assert_eq!(got(command).0["LLAMA_ARG_FIT"], "on");
    let (set, line) = got(launch("3500MiB", &[]));
    assert!(line.contains("all in VRAM") && !set.contains_key("LLAMA_ARG_FIT"), "{line}");
}
