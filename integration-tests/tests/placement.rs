//! Weights are placed by name: a program that loads a model as llama.cpp does, through a library that looks like ggml.

use greenboost_contract::settings::{BACKINGS, GRANULE, MAP, PLACE, THRESHOLD};
use integration_tests::{Outcome, World};
use serde_json::Value;
use std::path::Path;

/// The lines that must not depend on where memory lives.
fn sums(outcome: &Outcome) -> Vec<&str> {
    let sums: Vec<_> = outcome.stdout.lines().filter(|line| line.starts_with("sum ")).collect();
    assert!(sums.len() > 10, "{}", outcome.report());
    sums
}

/// A GPU that holds about half of a model, and the hook.
fn tight() -> World {
    World::new().vram("64MiB").hooked().env(THRESHOLD, "4MiB")
}

#[test]
fn answers_do_not_depend_on_placement_whatever_the_program_does() {
    for kind in ["dense", "moe"] {
        for options in
            [&[][..], &["launch-first"], &["no-usage"], &["free-first"], &["reload"], &["small"], &["big-kv"]]
        {
            let arguments = [&[kind][..], options].concat();
            let reference = World::new().vram("512MiB").run_with("llama-like", &arguments).ok();
            for backing in ["host-numa", "memfd"] {
                let outcome = tight().env(BACKINGS, backing).run_with("llama-like", &arguments).ok();
                assert_eq!(sums(&outcome), sums(&reference), "{}", outcome.report());
            }
        }
    }
}

#[test]
fn however_the_library_is_linked_tensors_are_known_and_without_an_accessor_allocations_are() {
    let reference = World::new().vram("512MiB").run_with("llama-like", &["dense"]).ok();
    for (program, known) in [("llama-like", true), ("llama-now", true), ("llama-noplt", true), ("llama-bare", false)] {
        let outcome = tight().run_with(program, &["dense"]).ok();
        assert_eq!(sums(&outcome), sums(&reference), "{}", outcome.report());
        assert_eq!(outcome.log.contains("placed by tensor"), known, "{}", outcome.report());
    }
}

/// Whether every granule that lies wholly inside a tensor is in VRAM, or out of it.
fn interior(map: &Value, wanted: impl Fn(&str) -> bool, in_vram: bool) {
    let number = |value: &Value, key: &str| value[key].as_u64().unwrap_or_else(|| panic!("no {key} in {value}"));
    let chunks: Vec<_> = map["allocations"]
        .as_array()
        .expect("allocations")
        .iter()
        .flat_map(|it| it["chunks"].as_array().expect("chunks"))
        .collect();
    let mut seen = 0;
    for tensor in map["tensors"].as_array().expect("tensors") {
        let name = tensor["name"].as_str().expect("a name");
        if !wanted(name) {
            continue;
        }
        let (at, end) = (number(tensor, "at"), number(tensor, "at") + number(tensor, "bytes"));
        let mut granule = at.next_multiple_of(GRANULE);
        while granule + GRANULE <= end {
            let inside = |chunk: &&&Value| {
                (number(chunk, "at")..number(chunk, "at") + number(chunk, "bytes")).contains(&granule)
            };
            let chunk = chunks.iter().find(inside).unwrap_or_else(|| panic!("{name}: nothing at {granule:#x}"));
            assert_eq!(chunk["home"] == "vram", in_vram, "{name} at {granule:#x}: {chunk}");
            seen += 1;
            granule += GRANULE;
        }
    }
    assert!(seen > 0, "no tensor has a granule of its own");
}

fn read(map: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(map).expect("the tier map")).expect("JSON")
}

#[test]
fn a_rule_puts_exactly_the_tensors_it_names_into_ram() {
    let world = tight();
    let map = world.file("map.json");
    let world = world.env(MAP, &map).env(PLACE, "_exps\tram\t0\t\t0");
    let mut target = world.start("llama-like", &["moe", "step"]);
    let told = target.until("loaded");
    let drawn = read(&map);
    interior(&drawn, |name| name.contains("_exps"), false);
    interior(&drawn, |name| !name.contains("_exps"), true);
    // The registry is what the program did.
    let known: Vec<_> = drawn["tensors"]
        .as_array()
        .expect("tensors")
        .iter()
        .map(|it| format!("tensor {} {} {} 0", it["name"].as_str().unwrap_or_default(), it["at"], it["bytes"]))
        .collect();
    let told: Vec<_> = told.iter().filter(|line| line.starts_with("tensor ")).cloned().collect();
    assert_eq!(known, told);
    for word in ["ready", "freed"] {
        target.go_on();
        target.until(word);
    }
    target.go_on();
    assert!(target.finish().success());
}

#[test]
fn what_is_wanted_least_makes_way_for_the_kv_cache_and_scratch() {
    let world = tight();
    let map = world.file("map.json");
    let world = world.env(MAP, &map).env(PLACE, "_exps\tauto\t10\t\t0");
    let mut target = world.start("llama-like", &["moe", "step"]);
    target.until("loaded");
    let in_vram = |map: &Value| {
        let chunks =
            map["allocations"].as_array().expect("allocations")[0]["chunks"].as_array().expect("chunks").clone();
        chunks.iter().filter(|chunk| chunk["home"] == "vram").filter_map(|chunk| chunk["bytes"].as_u64()).sum::<u64>()
    };
    let before = in_vram(&read(&map));
    target.go_on();
    target.until("ready");
    let after = read(&map);
    assert!(in_vram(&after) < before, "weights must have made way");
    interior(&after, |name| !name.contains("_exps"), true);
    target.kill();
}
