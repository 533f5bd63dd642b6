//! Mixtures of experts: whatever is done with their weights, kernels read those of the experts that their ids name.
//!
//! The program (`fixtures/c/experts.c`) launches what llama.cpp does, with its parameters. Each kernel's output goes into the
//! next one's input, and all of it into one sum, which must be the one of a run without us. The weights' seed and the
//! routing's are arguments; the seed of the simulated GPU's delays is in the command that a failure shows.

use greenboost_contract::settings;
use integration_tests::{Outcome, World};
use std::sync::atomic::{AtomicUsize, Ordering};

const TYPES: [&str; 4] = ["type=q4_k", "type=mxfp4", "type=nvfp4", "type=half"];
const WAYS: [&str; 4] = ["plain", "graph", "batches", "mixed"];

/// A board that holds everything.
fn plain() -> World {
    World::new().vram("256MiB")
}

/// Short delays: there are forty operations for each token.
fn delays(world: World, seed: u64) -> World {
    world.delays(seed).env("SIMGPU_DELAY_US", "80")
}

/// Experts of 14 to 19 MiB, most of which are outside VRAM.
fn world(seed: u64) -> World {
    delays(plain().env(settings::VRAM, "8MiB").env(settings::THRESHOLD, "2MiB").hooked(), seed)
}

#[track_caller]
fn run(world: &World, arguments: &[&str]) -> Outcome {
    let outcome = world.run_with("experts", arguments).ok();
    assert!(outcome.stdout.contains("checksum 0x"), "{arguments:?}\n{}", outcome.report());
    outcome
}

/// Runs without us and in a world, and compares what was computed, and that the driver found nothing wrong.
#[track_caller]
fn same(world: &World, arguments: &[&str]) -> Outcome {
    let wanted = run(&plain(), arguments).stdout;
    let outcome = run(world, arguments);
    let ended = ["streaming ends", "internal failure"].iter().any(|line| outcome.log.contains(line));
    assert!(outcome.stdout == wanted && !ended, "{arguments:?}: wanted {wanted}\n{}", outcome.report());
    outcome
}

#[test]
fn the_program_computes_the_same_whatever_the_delays() {
    for (seed, way) in WAYS.iter().enumerate() {
        let arguments = ["5", way, "tokens=12", "streams=2", "writes", "prompts"];
        let first = run(&delays(plain(), seed as u64), &arguments).stdout;
        assert_eq!(first, run(&delays(plain(), seed as u64 + 90), &arguments).stdout, "{way}");
    }
}

#[test]
fn every_argument_changes_what_is_computed() {
    let sums = |arguments: &[&[&str]]| -> Vec<String> {
        arguments.iter().map(|arguments| run(&plain(), arguments).stdout).collect()
    };
    let mut all = sums(&[
        &["5", "tokens=6"],
        &["6", "tokens=6"],
        &["5", "tokens=6", "uniform"],
        &["5", "tokens=6", "unfused"],
        &["5", "tokens=6", "merged"],
        &["5", "tokens=6", "batches"],
        &["5", "tokens=6", "writes"],
        &["5", "tokens=6", "reload"],
        &["5", "tokens=6", "models=2"],
        &["5", "tokens=6", TYPES[1]],
        &["5", "tokens=6", TYPES[2]],
        &["5", "tokens=6", TYPES[3]],
    ]);
    // How a token is launched does not.
    let once = all[0].clone();
    for way in ["graph", "no-overlap", "packed", "library", "forks"] {
        assert_eq!(run(&plain(), &["5", "tokens=6", way]).stdout, once, "{way}");
    }
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "{all:?}");
}

#[test]
fn experts_outside_vram_are_read_in_every_form() {
    for (seed, kind) in TYPES.iter().enumerate() {
        for (index, way) in WAYS.iter().enumerate() {
            same(&world((10 * seed + index) as u64), &["3", kind, way, "tokens=10"]);
        }
    }
    for form in ["merged", "unfused", "packed", "no-overlap", "library"] {
        same(&world(7), &["4", "mixed", form, "tokens=10"]);
    }
}

#[test]
fn experts_survive_what_happens_to_their_weights() {
    let cases: [&[&str]; 7] = [
        &["writes", "streams=2"],
        &["reload"],
        &["pressure"],
        &["prompts", "writes"],
        &["models=2", "writes"],
        &["contexts=2"],
        &["forks", "writes"],
    ];
    for (seed, options) in cases.iter().enumerate() {
        for stream in ["on", "off"] {
            let world = world(seed as u64).env(settings::STREAM, stream).env(settings::RING, "4MiB");
            same(&world, &[&["9", "mixed", "tokens=16"], *options].concat());
        }
    }
}

/// What a seed chooses: how much is in VRAM and in what the rest is, how tokens come, and what happens between them.
#[test]
fn random_conversations_are_the_same() {
    const SEEDS: usize = 30;
    let next = AtomicUsize::new(0);
    let some = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= SEEDS {
                return;
            }
            let mut state = seed as u64;
            let mut one_of = |choices: &[&'static str]| -> &'static str {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                choices[(state >> 33) as usize % choices.len()]
            };
            one_of(&[""]);
            let world = world(seed as u64)
                .env(settings::VRAM, one_of(&["6MiB", "8MiB", "12MiB", "20MiB", "40MiB"]))
                .env(settings::BACKINGS, one_of(&["host-numa", "memfd"]))
                .env(settings::STREAM, one_of(&["on", "off"]))
                .env(settings::RING, one_of(&["2MiB", "4MiB"]))
                .env("SIMGPU_ADDRESS_HINTS", one_of(&["0", "1"]));
            let number = seed.to_string();
            let arguments = [
                &number,
                "tokens=20",
                one_of(&TYPES),
                one_of(&["mixed", "mixed", "graph", "batches"]),
                one_of(&["experts=32", "experts=16", "experts=9"]),
                one_of(&["used=4", "used=8", "used=1"]),
                one_of(&["layers=4", "layers=2"]),
                one_of(&["", "streams=2"]),
                one_of(&["", "", "models=2", "contexts=2"]),
                one_of(&["", "writes"]),
                one_of(&["", "", "prompts", "pressure"]),
                one_of(&["", "", "merged", "unfused"]),
                one_of(&["", "", "reload", "uniform"]),
                one_of(&["", "", "library", "packed", "no-overlap"]),
            ];
            same(&world, &arguments);
        }
    };
    std::thread::scope(|scope| (0..6).for_each(|_| drop(scope.spawn(some))));
}
