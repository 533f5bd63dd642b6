//! `greenboost plan` as a program: without a GPU, and on the simulated one.

mod common;

use common::gpu::{greenboost, known_machine, model, on_gpu};
use common::{Place, run};
use greenboost_gguf::write::Writer;
use serde_json::Value;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

const MIB: u64 = 1 << 20;

/// Measuring takes gigabytes and every core for a moment: two at once measure each other.
fn measuring() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn json(command: &mut Command) -> Value {
    let (status, stdout, stderr) = run(command);
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{stdout}");
    serde_json::from_str(&stdout).expect("JSON")
}

fn prediction<'a>(plan: &'a Value, strategy: &str) -> &'a Value {
    let all = plan["predictions"].as_array().expect("predictions");
    all.iter()
        .find(|prediction| prediction["strategy"] == strategy)
        .unwrap_or_else(|| panic!("no {strategy} in {plan:#}"))
}

#[test]
fn without_a_gpu_and_without_vram_it_says_what_to_give() {
    let place = Place::new();
    let path = model(&place);
    let (status, stdout, stderr) = run(&mut greenboost(&place, &["plan", path.to_str().expect("path")]));
    assert_eq!((status, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("--vram 24GiB") && stderr.contains("libcuda.so.1"), "{stderr}");
}

#[test]
fn without_a_gpu_it_plans_memory_and_names_the_missing_figures() {
    let place = Place::new();
    let path = model(&place);
    let path = path.to_str().expect("path");
    let (status, text, stderr) = run(&mut greenboost(&place, &["plan", path, "--vram", "1500MiB", "--ram", "8GiB"]));
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    for part in [
        "little moe (qwen3moe)",
        "64 experts, 8 used",
        "KV cache 32 KiB a token",
        "Chosen: extend-in-place. No speed can be predicted",
        "of VRAM, 1.46 GiB may be used",
        "gb-launch --vram 1572864000 --ram 8589934592 --stream off llama-server -m '",
        "-c 8192 -ub 512 -ngl 999",
        "OLLAMA_CONTEXT_LENGTH=8192",
        "Missing: GPU: libcuda.so.1",
        "Missing: not measured: VRAM read, link to GPU",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    // Around options for llama-server: a quarter of the cache for each slot, and in RAM.
    let options =
        ["plan", path, "--vram", "1500MiB", "--ram", "8GiB", "--json", "--", "-nkvo", "-np", "4", "-c", "8000"];
    let around = json(&mut greenboost(&place, &options));
    let placement = &prediction(&around, "extend-in-place")["placement"];
    assert_eq!(
        (&placement["kv_inside"], &placement["kv_outside"]),
        (&0.into(), &(4 * 2048 * 16 * 2 * 1024_u64).into())
    );
    assert_eq!((&around["setting"]["unified"], &around["setting"]["parallel"]), (&false.into(), &4.into()));
    let ctx = ["plan", path, "--vram", "1500MiB", "--json", "--ctx", "16384", "--parallel", "4", "--kv", "q8_0"];
    let plan = json(&mut greenboost(&place, &ctx));
    let placement = &prediction(&plan, "extend-in-place")["placement"];
    assert_eq!(placement["kv_inside"], 16384 * 16 * 2 * 512 / 32 * 34_u64);
    let environment = &plan["commands"]["llama_server_environment"];
    assert_eq!(environment["LLAMA_ARG_CACHE_TYPE_K"], "q8_0");
    assert_eq!(environment["LLAMA_ARG_CTX_SIZE"], "16384");
    assert_eq!(environment["LLAMA_ARG_N_PARALLEL"], "4");
    assert_eq!(environment["LLAMA_ARG_KV_UNIFIED"], "1", "what was planned for: they share the context");
    assert!(plan["commands"]["llama_server"].as_str().expect("text").contains(" -np 4 -kvu -ub "), "{plan:#}");
    let ollama = plan["commands"]["ollama"].as_str().expect("text");
    assert!(ollama.contains("OLLAMA_CONTEXT_LENGTH=4096 OLLAMA_NUM_PARALLEL=4"), "{ollama}");
}

#[test]
fn on_a_gpu_speeds_are_measured_once_and_again_when_asked() {
    let _one = measuring();
    let place = Place::new();
    let path = model(&place);
    let path = path.to_str().expect("path");
    let arguments = ["plan", path, "--vram", "1500MiB", "--ram", "8GiB", "--json"];
    let started = Instant::now();
    // Slower than the simulated VRAM is on a busy machine.
    let plan = json(&mut on_gpu(&place, &arguments, "0.4"));
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
    let rates = |plan: &Value| plan["machine"]["gpu"]["rates"].clone();
    let first = rates(&plan);
    for rate in ["to_gpu", "to_host", "in_place"] {
        let measured = first[rate].as_f64().expect("measured");
        assert!((0.1..0.45).contains(&measured), "{rate}: {measured}");
    }
    assert!(first["vram"].as_f64() > first["in_place"].as_f64(), "{first}");
    assert_eq!(plan["machine"]["missing"], Value::Array(Vec::new()));
    assert!(plan["machine"]["cpu"]["reads"][0][1].as_f64() > Some(0.5));
    let together = &plan["machine"]["together"];
    assert!((0.1..0.45).contains(&together["link"].as_f64().expect("measured")), "{together}");
    assert!(together["cpu"].as_f64() > Some(0.5), "{together}");

    let conditions = &plan["machine"]["conditions"];
    assert!(conditions["at"].as_u64() > Some(1_700_000_000) && conditions["spread"].is_f64(), "{conditions}");

    // The link is another one now, and remembered.
    let again = json(&mut on_gpu(&place, &arguments, "0.2"));
    assert_eq!(rates(&again), first);
    let mut remeasure = arguments.to_vec();
    remeasure.push("--remeasure");
    let slow = json(&mut on_gpu(&place, &remeasure, "0.2"));
    let to_gpu = rates(&slow)["to_gpu"].as_f64().expect("measured");
    assert!((0.1..0.25).contains(&to_gpu), "{to_gpu}");
    // Other figures were kept for the machine without this GPU: none.
    let file = std::fs::read_to_string(place.path("cache/greenboost/machine.json")).expect("kept");
    assert!(file.contains("GPU-53494d47"), "{file}");
}

#[test]
fn figures_that_an_older_version_kept_are_completed_and_not_thrown_away() {
    let _one = measuring();
    let place = Place::new();
    let path = model(&place);
    let path = path.to_str().expect("path");
    known_machine(&place, 1.0, 40.0);
    let file = place.path("cache/greenboost/machine.json");
    let mut kept: Value = serde_json::from_str(&std::fs::read_to_string(&file).expect("kept")).expect("JSON");
    for row in kept["machines"].as_array_mut().expect("machines") {
        row["figures"].as_object_mut().expect("figures").remove("together");
    }
    std::fs::write(&file, kept.to_string()).expect("written");
    let plan = json(&mut on_gpu(&place, &["plan", path, "--vram", "1500MiB", "--ram", "8GiB", "--json"], "1"));
    assert_eq!(plan["machine"]["gpu"]["rates"]["vram"], 500.0, "as it was kept");
    assert_eq!(plan["machine"]["cpu"]["reads"], serde_json::json!([[4, 40.0]]));
    assert_eq!(plan["machine"]["together"]["threads"], 4);
    assert_eq!(plan["machine"]["missing"], Value::Array(Vec::new()));
    let now = std::fs::read_to_string(&file).expect("kept");
    assert!(now.contains("\"together\": {"), "{now}");
}

#[test]
fn a_way_can_be_asked_for_and_says_what_it_does_or_why_it_cannot() {
    let place = Place::new();
    let path = model(&place);
    let path = path.to_str().expect("path");
    known_machine(&place, 10.0, 40.0);
    let ask = |more: &[&str]| {
        let words = ["plan", path, "--vram", "1500MiB", "--ram", "8GiB"];
        run(&mut on_gpu(&place, &[&words[..], more].concat(), "10"))
    };
    let (status, text, _) = ask(&["--strategy", "combined"]);
    assert_eq!(ask(&["--way", "combined"]).1, text, "its name of before");
    assert_eq!(status, Some(0), "{text}");
    for part in [
        "* combined",
        "Asked for: combined, ",
        "The CPU computes experts of ",
        "\n  gb-launch --vram 1572864000 --ram 8589934592 --ring 109051904 --host-copy-prefetch on llama-server -m '",
        "-ot 'blk\\.(",
        ")\\.ffn_(up|down|gate|gate_up)_exps\\.=CPU' -lm none -t 4",
        "LLAMA_ARG_OVERRIDE_TENSOR='blk",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let (status, text, stderr) = ask(&["--strategy", "combined", "--stream", "off"]);
    assert_eq!(status, Some(2));
    let why = "combined was asked for: you have turned streaming off; what can be had: extend-in-place, ";
    assert!(text.contains(why), "{text}");
    assert!(stderr.starts_with("greenboost plan: ") && stderr.contains(why), "{stderr}");
    let (status, text, _) = ask(&["--strategy", "vram"]);
    assert_eq!(status, Some(2));
    let (status, _, stderr) = ask(&["--ctx", "1000000"]);
    assert_eq!(status, Some(2));
    assert!(stderr.contains("nothing fits; the nearest to it, ") && stderr.contains(" needs "), "{stderr}");
    assert!(text.contains("vram was asked for: needs ") && text.contains("of VRAM, 1.46 GiB may be used"), "{text}");
    let (status, _, stderr) = ask(&["--strategy", "fastest"]);
    assert_eq!(status, Some(2));
    assert!(
        stderr.contains("allowed are vram, extend, extend-in-place, offload, host-copy-prefetch, combined"),
        "{stderr}"
    );
    let (_, text, _) = ask(&["--strategy", "extend", "--ring", "64MiB"]);
    assert!(text.contains("ring 64 MiB") && text.contains(" --ring 67108864 "), "{text}");
    assert!(text.contains("GGML_CUDA_DISABLE_GRAPHS=1 gb-launch --vram "), "{text}");
}

#[test]
fn what_is_expected_of_experts_in_vram_is_said_with_its_source() {
    let place = Place::new();
    let path = model(&place);
    let path = path.to_str().expect("path");
    known_machine(&place, 50.0, 5.0);
    let ask =
        |more: &[&str]| on_gpu(&place, &[&["plan", path, "--vram", "1500MiB", "--ram", "8GiB"], more].concat(), "50");
    let (status, text, _) = run(&mut ask(&[]));
    assert_eq!(status, Some(0), "{text}");
    for part in [
        "* experts  ",
        "Fastest: experts, ",
        "experts: 19 of 64 a layer in VRAM, 84% of reads expected to hit, by recorded routing of other models.",
        "copies of experts 580.5 MiB",
        "\n  GREENBOOST_EXPERTS=on gb-launch --vram 1572864000 --ram 8589934592 --ring 109051904 llama-server -m '",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let plan = json(&mut ask(&["--json"]));
    let slots = &prediction(&plan, "experts")["placement"]["expert_slots"];
    assert_eq!((&slots["slots"], &slots["experts"], &slots["used"]), (&19.into(), &64.into(), &8.into()));
    assert_eq!(slots["hit_rate_from"], "recorded routing of other models");
    assert!(slots["hit_rate"].as_f64().is_some_and(|rate| (0.83..0.85).contains(&rate)), "{slots}");
    assert_eq!(slots["bytes"], plan["tiers"]["vram"]["copies of experts"]);
    assert_eq!(prediction(&plan, "extend")["placement"]["expert_slots"], Value::Null);
    assert_eq!(plan["commands"]["llama_server_environment"]["GREENBOOST_EXPERTS"], "on");
    assert_eq!(plan["passed_over_for_cpu"], Value::Null);
    // What the hook has counted of this model says more: 19 of 64 that are used alike are 30%.
    let counts = (0..16).map(|layer| (layer, vec![100; 64])).collect();
    let key = greenboost_contract::counts::key(std::path::Path::new(path)).expect("a file");
    assert!(greenboost_contract::counts::keep(&place.path("cache/greenboost"), &key, &counts));
    let (_, text, _) = run(&mut ask(&["--strategy", "experts"]));
    let counted = "19 of 64 a layer in VRAM, 28% of reads expected to hit, by this model's own counts.";
    assert!(text.contains(counted), "{text}");
    let (_, text, _) = run(&mut ask(&["--experts", "off"]));
    assert!(text.contains("* extend-in-place") && text.contains("you have turned experts in VRAM off"), "{text}");
}

#[test]
fn a_strategy_that_needs_no_cpu_is_taken_where_the_cpu_is_faster_by_little() {
    let place = Place::new();
    let path = model(&place);
    let path = path.to_str().expect("path");
    let ask = |link: f64, more: &[&str]| {
        known_machine(&place, link, 8.0);
        let words = ["plan", path, "--vram", "1500MiB", "--ram", "8GiB", "--experts", "off"];
        on_gpu(&place, &[&words[..], more].concat(), "10")
    };
    let seconds = |plan: &Value, strategy: &str| prediction(plan, strategy)["request"].as_f64().expect("known");
    let advantage = |plan: &Value| {
        let of =
            |strategies: &[&str]| strategies.iter().map(|strategy| seconds(plan, strategy)).fold(f64::MAX, f64::min);
        of(&["extend-in-place", "extend"]) / of(&["offload", "host-copy-prefetch", "combined"])
    };
    // From a link that is as fast as the CPU down to one that is much slower.
    let mut seen = [0; 3];
    for step in 0..24 {
        let link = 12.0 * 0.9_f64.powi(step);
        let plan = json(&mut ask(link, &["--json"]));
        let needs_cpu =
            ["offload", "host-copy-prefetch", "combined"].iter().any(|strategy| plan["winner"] == **strategy);
        let advantage = advantage(&plan);
        assert_eq!(needs_cpu, advantage >= 1.15, "{link}: {advantage}");
        assert_eq!(plan["passed_over_for_cpu"].is_string(), (1.0..1.15).contains(&advantage), "{link}: {advantage}");
        seen[if needs_cpu { 2 } else { usize::from(advantage > 1.0) }] += 1;
        if seen[1] == 1 && advantage > 1.0 && !needs_cpu {
            let (_, text, _) = run(&mut ask(link, &[]));
            assert!(text.contains("% faster, but needs the CPU, and slows down when that has other work."), "{text}");
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn a_slow_link_makes_the_cpu_win_and_greenboost_says_so() {
    let place = Place::new();
    let path = model(&place);
    let path = path.to_str().expect("path");
    let arguments = ["plan", path, "--vram", "1500MiB", "--ram", "8GiB", "--json"];
    known_machine(&place, 0.5, 40.0);
    let plan = json(&mut on_gpu(&place, &arguments, "0.5"));
    assert_eq!(plan["winner"], "offload", "{plan:#}");
    let command = plan["commands"]["llama_server"].as_str().expect("text");
    assert!(command.starts_with("llama-server -m '") && command.contains(" -ncmoe ") && command.contains(" -lm none"));
    let offload = prediction(&plan, "offload");
    assert!(offload["decode"].as_f64() > prediction(&plan, "extend-in-place")["decode"].as_f64());
    let vram: u64 = ["kv_inside", "scratch", "pools"].iter().filter_map(|key| offload["placement"][key].as_u64()).sum();
    let weights = &offload["placement"]["inside"];
    let weights =
        weights["dense"]["bytes"].as_u64().expect("bytes") + weights["experts"]["bytes"].as_u64().expect("bytes");
    assert!(vram + weights <= 1500 * MIB);
}

#[test]
fn what_fits_runs_in_vram_without_greenboost() {
    let place = Place::new();
    let path = model(&place);
    known_machine(&place, 5.0, 40.0);
    let plan = json(&mut on_gpu(&place, &["plan", path.to_str().expect("path"), "--json"], "5"));
    assert_eq!(plan["winner"], "vram");
    assert_eq!(plan["setting"]["vram"], 4096 * MIB - 512 * MIB, "what is free, less the reserve");
    assert_eq!(plan["tiers"]["ram"]["weights"], 0);
    let command = plan["commands"]["llama_server"].as_str().expect("text");
    assert!(command.starts_with("llama-server "), "{command}");
}

#[test]
fn a_model_that_fits_two_gpus_and_neither_alone_is_put_on_both() {
    let place = Place::new();
    let path = model(&place);
    let path = path.to_str().expect("path");
    known_machine(&place, 10.0, 40.0);
    let on = |vram: &str, more: &[&str]| {
        let devices = vram.split(',').count().to_string();
        let mut command = on_gpu(&place, &[&["plan", path, "--ram", "8GiB"], more].concat(), "10");
        run(command.env("SIMGPU_DEVICES", devices).env("SIMGPU_VRAM", vram))
    };
    let (status, text, stderr) = on("2200MiB,2200MiB", &[]);
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{text}");
    assert!(text.contains("2 GPUs: ") && text.contains("* vram"), "{text}");
    assert!(text.contains("\n  llama-server -m '") && text.contains(" -ngl 999 -ts 2200,2200\n"), "{text}");
    // Unequal ones get layers by what they have free, and each needs a buffer of its own.
    let (status, text, _) = on("3GiB,1800MiB", &[]);
    assert_eq!(status, Some(0), "{text}");
    let (status, _, stderr) = on("1500MiB,1500MiB", &[]);
    assert_eq!(status, Some(2));
    for part in ["GPU 0 of 2 needs ", "only what is there whole is planned", "CUDA_VISIBLE_DEVICES"] {
        assert!(stderr.contains(part), "{part:?} is not in {stderr}");
    }
    // One of them was chosen: it is planned for alone, with what it has.
    let (status, text, _) = on("1500MiB,3GiB", &["--", "-sm", "none", "-mg", "1"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("* vram") && text.contains("2.62 GiB of VRAM"), "{text}");
}

#[test]
fn a_gpu_that_reads_other_bytes_is_not_measured_and_not_remembered() {
    let _one = measuring();
    let place = Place::new();
    let path = model(&place);
    let path = path.to_str().expect("path");
    let arguments = ["plan", path, "--json"];
    let mut broken = on_gpu(&place, &arguments, "5");
    let plan = json(broken.env("SIMGPU_FAIL", "cuLaunchKernel:1"));
    let missing = plan["machine"]["missing"].to_string();
    assert!(missing.contains("cuLaunchKernel returned") && missing.contains("not measured: VRAM read"), "{missing}");
    let plan = json(&mut on_gpu(&place, &arguments, "5"));
    assert!(plan["machine"]["gpu"]["rates"]["vram"].is_f64(), "measured the next time");
}

#[test]
fn an_ollama_name_is_looked_up_in_its_store() {
    let place = Place::new();
    let path = model(&place);
    let store = place.path("store");
    let digest = "c0".repeat(32);
    let manifest = store.join("manifests/registry.ollama.ai/library/little/moe");
    std::fs::create_dir_all(manifest.parent().expect("parent")).expect("folder");
    std::fs::create_dir_all(store.join("blobs")).expect("folder");
    let layer = format!(r#"{{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:{digest}","size":1}}"#);
    std::fs::write(&manifest, format!(r#"{{"schemaVersion":2,"layers":[{layer}]}}"#)).expect("written");
    let blob = store.join(format!("blobs/sha256-{digest}"));
    std::fs::rename(path, &blob).expect("moved");
    let mut command = greenboost(&place, &["plan", "ollama:little:moe", "--vram", "4GiB", "--json"]);
    let plan = json(command.env("OLLAMA_MODELS", &store));
    assert_eq!(plan["model"]["path"], blob.to_str().expect("path"));
    let mut command = greenboost(&place, &["plan", "ollama:other", "--vram", "4GiB"]);
    let (status, _, stderr) = run(command.env("OLLAMA_MODELS", &store));
    assert_eq!(status, Some(2));
    assert!(stderr.contains("ollama pull other"), "{stderr}");
}

#[test]
fn what_is_no_model_is_refused_with_advice() {
    let place = Place::new();
    let empty = place.path("vocabulary.gguf");
    Writer::default().text("general.architecture", "llama").save(&empty).expect("written");
    std::fs::write(place.path("text.gguf"), "hello, world").expect("written");
    for (model, words) in [
        ("vocabulary.gguf", "it has no layers, so it is no language model"),
        ("text.gguf", "begins with \"hell\" and not with \"GGUF\""),
        ("none.gguf", "none.gguf: it cannot be read: No such file"),
    ] {
        let (status, stdout, stderr) = run(&mut greenboost(&place, &["plan", model, "--vram", "4GiB"]));
        assert_eq!((status, stdout.as_str()), (Some(2), ""));
        assert!(stderr.starts_with("greenboost plan: ") && stderr.contains(words), "{words:?} is not in: {stderr}");
        assert_eq!(stderr.lines().count(), 2, "what, and what next: {stderr}");
    }
    let none = run(&mut greenboost(&place, &["plan", "text.gguf", "--ctx", "0"]));
    assert_eq!(none.0, Some(2));
}
