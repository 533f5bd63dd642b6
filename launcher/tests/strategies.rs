//! The user's word about how a model is run: the strategy itself, what it is made of, and that nothing may leave VRAM.

mod common;

use common::gpu::{known_machine, with_gpu};
use common::planned::{got, only_the_profile, place, variables};
use common::{refused, run};
use std::process::Command;

#[test]
fn a_way_that_was_asked_for_reaches_the_command_whole() {
    let (place, model) = place();
    known_machine(&place, 5.0, 40.0);
    let launch = |options: &[&str], more: &[&str]| {
        let budgets = ["--vram", "1500MiB", "--ram", "4GiB"];
        let words = [&budgets[..], options, &["./llama-server", "-m", &model], more].concat();
        with_gpu(&place, place.launch(&words), "40")
    };
    let (combined, line) = got(launch(&["--strategy", "combined"], &[]));
    assert!(line.contains("combined (the CPU computes in "), "{line}");
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
        ("GREENBOOST_HOST_COPY_PREFETCH", "on"),
    ] {
        assert_eq!(combined.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!combined.contains_key("GGML_CUDA_DISABLE_GRAPHS"), "of experts nothing is copied in answers");
    let mut by_variable = launch(&[], &[]);
    by_variable.env("GREENBOOST_STRATEGY", "combined");
    assert_eq!(got(by_variable).0, combined);
    let (prefetched, line) = got(launch(&["--strategy", "host-copy-prefetch"], &[]));
    assert!(line.contains("host-copy-prefetch") && prefetched["GREENBOOST_HOST_COPY_PREFETCH"] == "on", "{line}");
    assert!(prefetched.contains_key("LLAMA_ARG_N_CPU_MOE") && !prefetched.contains_key("GGML_CUDA_DISABLE_GRAPHS"));
    let (streamed, _) = got(launch(&["--strategy", "extend", "--ring", "64MiB"], &[]));
    assert_eq!((&*streamed["GREENBOOST_STREAM"], &*streamed["GREENBOOST_RING"]), ("on", "67108864"));
    assert_eq!(streamed["GGML_CUDA_DISABLE_GRAPHS"], "1");

    // The user's own words stay.
    let mut command = launch(&["--strategy", "combined"], &["-t", "2"]);
    command.env("LLAMA_ARG_LOAD_MODE", "mmap");
    let mut own = combined.clone();
    own.remove("LLAMA_ARG_THREADS");
    own.extend(variables(&[("LLAMA_ARG_LOAD_MODE", "mmap")]));
    assert_eq!(got(command).0, own);
    let mut command = launch(&["--strategy", "extend"], &[]);
    command.env("GGML_CUDA_DISABLE_GRAPHS", "0");
    assert_eq!(got(command).0["GGML_CUDA_DISABLE_GRAPHS"], "0");
    // What cannot be had is an error before anything starts, and so is a name that is none.
    let impossible = &["--strategy", "combined", "--stream", "off"];
    let said =
        ["the strategy combined cannot be had: you have turned streaming off; what can be had: extend-in-place, "];
    refused(&mut launch(impossible, &[]), 2, &said);
    let mut by_variable = launch(&["--stream", "off"], &[]);
    refused(by_variable.env("GREENBOOST_STRATEGY", "combined"), 2, &said);
    let (none, line) = got(launch(&[&["--force"][..], impossible].concat(), &[]));
    assert!(line.starts_with("none: combined was asked for: you have turned streaming off"), "{line}");
    assert_eq!(none["GREENBOOST_STREAM"], "off");
    refused(
        &mut launch(&["--strategy", "fastest"], &[]),
        2,
        &["--strategy", "allowed are vram, extend, extend-in-place"],
    );
    refused(
        &mut place.launch(&["--strategy", "extend", "env"]),
        2,
        &["--strategy", "nothing is planned for", "generic"],
    );
    // Each variable is set once.
    let (_, shown, _) = run(&mut launch(&["--dry-run", "-v", "--strategy", "extend"], &[]));
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
        let mut command = with_gpu(&place, place.launch(&words), "50");
        command.env("GREENBOOST_EXPERTS", "off");
        command
    };
    let (open, line) = got(launch(&[]));
    assert!(line.contains("extend-in-place") && open["GREENBOOST_STREAM"] == "off", "the profile said on: {line}");
    let (fixed, line) = got(launch(&["--stream", "on"]));
    assert!(line.contains(": extend, ") && fixed["GREENBOOST_STREAM"] == "on", "{line}");

    // A faster strategy that streams is not taken where it is off.
    known_machine(&place, 5.0, 40.0);
    let (open, line) = got(launch(&["--strategy", "extend"]));
    assert!(line.contains(": extend, ") && open["GREENBOOST_STREAM"] == "on", "{line}");
    for off in ["--stream", "variable", "profile"] {
        let options = match off {
            "--stream" => vec!["--strategy", "extend", "--stream", "off"],
            "profile" => vec!["--strategy", "extend", "--profile", "mine"],
            _ => vec!["--strategy", "extend"],
        };
        place.profile("mine.toml", "name = 'mine'\ninherits = 'llama-server'\n[memory]\nstream = 'off'");
        let mut command = launch(&options);
        if off == "variable" {
            command.env("GREENBOOST_STREAM", "off");
        }
        refused(&mut command, 2, &["the strategy extend cannot be had", "you have turned streaming off"]);
    }
}

#[test]
fn experts_are_in_vram_by_use_where_that_is_fastest_and_where_they_cannot_be_it_says_why() {
    let (place, model) = place();
    known_machine(&place, 50.0, 5.0);
    let launch = |vram: &str, options: &[&str]| {
        let words = [&["--vram", vram, "--ram", "4GiB"], options, &["./llama-server", "-m", &model]].concat();
        with_gpu(&place, place.launch(&words), "50")
    };
    let (set, line) = got(launch("1500MiB", &[]));
    let hits = "little moe: experts: 19 of 64 a layer in VRAM, 84% of reads expected to hit, 1.4";
    assert!(line.starts_with(hits) && line.len() < 192, "{line}");
    let expected = [
        ("GREENBOOST_EXPERTS", "on"),
        ("GREENBOOST_STREAM", "on"),
        ("GREENBOOST_HOST_COPY_PREFETCH", "off"),
        ("LLAMA_ARG_N_GPU_LAYERS", "999"),
    ];
    for (name, value) in expected {
        assert_eq!(set.get(name).map(String::as_str), Some(value), "{name}");
    }
    for name in ["GGML_CUDA_DISABLE_GRAPHS", "LLAMA_ARG_THREADS", "LLAMA_ARG_LOAD_MODE", "LLAMA_ARG_OVERRIDE_TENSOR"] {
        assert!(!set.contains_key(name), "{name}: {set:?}");
    }
    assert_eq!(got(launch("1500MiB", &["--strategy", "experts"])), (set.clone(), line));
    // Where the model fits nothing is kept twice, but it can be asked for.
    let (fits, line) = got(launch("3500MiB", &[]));
    assert!(line.contains(": vram, ") && fits["GREENBOOST_EXPERTS"] == "off", "{line}");
    let (_, line) = got(launch("3500MiB", &["--strategy", "experts"]));
    assert!(line.contains("64 of 64 a layer in VRAM, 100% of reads"), "{line}");

    let wanted = ["--strategy", "experts"];
    let cannot = |command: &mut Command, why: &str| {
        refused(
            command,
            2,
            &[&format!("the strategy experts cannot be had: {why}"), "what can be had: extend-in-place"],
        );
    };
    let few = "VRAM is left for 0 experts of a layer, and a token uses 8";
    cannot(&mut launch("1000MiB", &wanted), few);
    cannot(&mut launch("1500MiB", &[&wanted[..], &["--stream", "off"]].concat()), "you have turned streaming off");
    let off = "you have turned experts in VRAM off";
    cannot(launch("1500MiB", &wanted).env("GREENBOOST_EXPERTS", "off"), off);
    let profile = "name = 'mine'\nplan = 'command'\n[match]\nexecutable = '^llama-server$'\n[memory]\nstream = 'on'\n";
    place.profile("mine.toml", profile);
    let without_rules = [&wanted[..], &["--profile", "mine"]].concat();
    cannot(&mut launch("1500MiB", &without_rules), "no kernel rule of the profile has read = \"experts\"");
    let (_, line) = got(launch("1500MiB", &["--profile", "mine"]));
    assert!(line.contains(": extend-in-place, "), "{line}");
    // A profile that has them on by itself has said so for every plan.
    place.profile("mine.toml", "name = 'mine'\ninherits = 'llama-server'\n[memory]\nexperts = 'on'");
    let why = ["the strategy extend cannot be had: you have turned experts in VRAM on; what can be had: experts"];
    refused(&mut launch("1500MiB", &["--profile", "mine", "--strategy", "extend"]), 2, &why);
    let (kept, _) = got(launch("1500MiB", &["--profile", "mine"]));
    assert_eq!(kept, set);
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
    assert!(line.contains(": vram, ") && !set.contains_key("LLAMA_ARG_FIT"), "{line}");
}

#[test]
fn names_of_before_are_taken_for_what_they_are_called_now() {
    let (place, model) = place();
    known_machine(&place, 5.0, 40.0);
    let launch = |options: &[&str]| {
        let words = [&["--vram", "1500MiB", "--ram", "4GiB"], options, &["./llama-server", "-m", &model]].concat();
        with_gpu(&place, place.launch(&words), "40")
    };
    let now = got(launch(&["--strategy", "host-copy-prefetch"]));
    assert_eq!(got(launch(&["--way", "assist"])), now);
    let mut by_variable = launch(&[]);
    by_variable.env("GREENBOOST_WAY", "assist");
    assert_eq!(got(by_variable), now);
    let (off, _) = got(launch(&["--assist", "off"]));
    assert_eq!(off["GREENBOOST_HOST_COPY_PREFETCH"], "off");
    let mut by_variable = launch(&[]);
    by_variable.env("GREENBOOST_ASSIST", "off");
    assert_eq!(got(by_variable).0["GREENBOOST_HOST_COPY_PREFETCH"], "off");
    place.profile("mine.toml", "name = 'mine'\ninherits = 'llama-server'\n[memory]\nassist = 'on'");
    let (on, _) = got(launch(&["--profile", "mine", "--no-plan"]));
    assert_eq!(on["GREENBOOST_HOST_COPY_PREFETCH"], "on");
    let (_, help, _) = run(&mut place.launch(&["--help"]));
    assert!(help.contains("--strategy") && !help.contains("--way") && !help.contains("--assist"), "{help}");
}
