//! Experts that are used most have copies in VRAM, chosen while the program runs: what it computes is the same, and each of the things
//! that keep it so is missed when it is left out.
//!
//! The program (`fixtures/c/experts.c`) launches what llama.cpp does, with its names and parameters, which the shipped profile's
//! rules know.

use greenboost_contract::{kernel, settings};
use greenboost_profiles::Profiles;
use integration_tests::{Outcome, World};

/// Experts of 27 MiB in two layers, of which about a third has a place in VRAM.
const MODEL: [&str; 2] = ["experts=128", "layers=2"];
const PLANT: &str = "GREENBOOST_PLANT";

fn rules() -> String {
    let profiles = Profiles::load(&[]).expect("the shipped profiles are valid");
    kernel::to_text(&profiles.find_by_name("llama-server").expect("shipped").settings.kernels)
}

fn plain() -> World {
    World::new().vram("256MiB")
}

fn world(seed: u64) -> World {
    let world = plain().env(settings::VRAM, "40MiB").env(settings::THRESHOLD, "2MiB").env(settings::RING, "4MiB");
    let world = world.env(settings::STREAM, "on").env(settings::EXPERTS, "on").env(settings::KERNELS, rules());
    world.hooked().delays(seed).env("SIMGPU_DELAY_US", "100")
}

#[track_caller]
fn run(world: &World, arguments: &[&str]) -> Outcome {
    let outcome = world.run_with("experts", &[arguments, &MODEL].concat()).ok();
    assert!(outcome.stdout.contains("checksum 0x"), "{arguments:?}\n{}", outcome.report());
    outcome
}

/// Reads that found their expert in VRAM, and experts that were brought in, as the log says at the end.
fn counts(outcome: &Outcome) -> (u64, u64) {
    let line = outcome.log.lines().rfind(|line| line.contains("reads found them there")).unwrap_or_default();
    let number_before = |what: &str| {
        let before = line.split(what).next().unwrap_or_default();
        before.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    let hits = line.split("in VRAM; ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0);
    (hits, number_before(" brought in"))
}

/// Runs with experts in VRAM, and compares with a run without us.
#[track_caller]
fn same(world: &World, arguments: &[&str]) -> (u64, u64) {
    let wanted = run(&plain(), arguments).stdout;
    let outcome = run(world, arguments);
    let ended = ["streaming ends", "internal failure", "the driver refused"].iter().any(|it| outcome.log.contains(it));
    assert!(outcome.stdout == wanted && !ended, "{arguments:?}: wanted {wanted}\n{}", outcome.report());
    counts(&outcome)
}

#[test]
fn what_is_computed_is_the_same_while_experts_come_and_go() {
    for (seed, way) in ["plain", "graph", "batches", "mixed"].iter().enumerate() {
        let (hits, moves) = same(&world(seed as u64), &["3", way, "tokens=80", "each"]);
        assert!(hits > 100 && moves > 60, "{way}: {hits} hits, {moves} brought in");
    }
    for (seed, form) in ["merged", "unfused", "packed", "no-overlap", "uniform"].iter().enumerate() {
        same(&world(seed as u64 + 10), &["4", "mixed", form, "tokens=30", "each"]);
    }
}

#[test]
fn what_happens_to_weights_and_memory_is_survived() {
    let cases: [&[&str]; 7] = [
        &["writes"],
        &["reload"],
        &["pressure", "prompts"],
        &["prompts", "writes"],
        &["models=2", "writes"],
        &["contexts=2"],
        &["streams=2", "prompts"],
    ];
    for (seed, options) in cases.iter().enumerate() {
        same(&world(seed as u64 + 20), &[&["9", "mixed", "tokens=40", "each"], *options].concat());
    }
}

/// What programs may do beside what llama.cpp does: each has given other bytes, or ended the program, before.
#[test]
fn graphs_contexts_and_models_may_come_as_they_like() {
    let cases: [&[&str]; 6] = [
        &["graph", "early", "tokens=40"],
        &["graph", "child", "tokens=40"],
        &["graph", "null", "models=2", "tokens=40"],
        &["halves", "once", "streams=2", "swap", "tokens=40"],
        &["graph", "once", "contexts=2", "lastfirst", "latewrites", "tokens=40"],
        &["reload", "regrow", "occupied", "uniform", "tokens=60"],
    ];
    for (seed, options) in cases.iter().enumerate() {
        same(&world(seed as u64 + 40), &[&["2", "each"], *options].concat());
    }
}

/// Nobody has said what was written: copies are not read any more.
#[test]
fn after_an_internal_failure_no_copy_is_read() {
    let arguments = ["2", "tokens=40", "writes", "each"];
    let wanted = run(&plain(), &arguments).stdout;
    for seed in 0..2 {
        assert_eq!(run(&world(seed).env(PLANT, "write-panics"), &arguments).stdout, wanted);
    }
}

/// Whether an injected fault changes what is computed, with any of some seeds.
fn is_noticed(fault: &str, arguments: &[&str]) -> bool {
    (0..8).any(|seed| {
        let wanted = run(&plain(), arguments).stdout;
        let world = world(seed).env(PLANT, fault).env("SIMGPU_DELAY_US", "400");
        // Another expert's bytes may be anything, also what ends the program.
        world.run_with("experts", &[arguments, &MODEL].concat()).stdout != wanted
    })
}

#[test]
fn a_table_that_names_a_slot_before_the_copy_is_noticed() {
    assert!(is_noticed("table-before-copy", &["2", "tokens=100", "uniform", "each"]));
}

#[test]
fn a_slot_that_is_filled_while_it_is_read_is_noticed() {
    assert!(is_noticed("slot-too-early", &["2", "tokens=100", "uniform", "used=8", "each"]));
}

#[test]
fn copies_of_weights_that_are_written_are_noticed() {
    assert!(is_noticed("stale-slot", &["2", "tokens=60", "writes", "each"]));
}

#[test]
fn an_id_that_names_another_slot_is_noticed() {
    assert!(is_noticed("wrong-expert", &["2", "tokens=30", "each"]));
}
