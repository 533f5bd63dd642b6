//! Mixtures of experts: whatever is done with their weights, kernels read those of the experts that their ids name.
//!
//! The program (`fixtures/c/experts.c`) launches what llama.cpp does, with its parameters. Each kernel's output goes into the
//! next one's input, and all of it into one sum, which must be the one of a run without us. The weights' seed and the
//! routing's are arguments; the seed of the simulated GPU's delays is in the command that a failure shows.

use greenboost_contract::settings;
use integration_tests::{Outcome, World};

const TYPES: [&str; 4] = ["type=q4_k", "type=mxfp4", "type=nvfp4", "type=half"];
const WAYS: [&str; 4] = ["plain", "graph", "batches", "mixed"];

/// A board that holds everything.
fn plain() -> World {
    World::new().vram("256MiB")
}

/// Experts of 14 to 19 MiB, most of which are outside VRAM.
fn world() -> World {
    plain().env(settings::VRAM, "8MiB").env(settings::THRESHOLD, "2MiB").hooked()
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
    let wanted = run(&plain().delays(0), arguments).stdout;
    let outcome = run(world, arguments);
    let ended = ["streaming ends", "internal failure"].iter().any(|line| outcome.log.contains(line));
    assert!(outcome.stdout == wanted && !ended, "{arguments:?}: wanted {wanted}\n{}", outcome.report());
    outcome
}

#[test]
fn the_program_computes_the_same_whatever_the_delays() {
    for (seed, way) in WAYS.iter().enumerate() {
        let arguments = ["5", way, "tokens=12", "streams=2", "writes", "prompts"];
        let first = run(&plain().delays(seed as u64), &arguments).stdout;
        assert_eq!(first, run(&plain().delays(seed as u64 + 90), &arguments).stdout, "{way}");
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
    for way in ["graph", "no-overlap", "packed"] {
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
            let world = world().delays((10 * seed + index) as u64);
            same(&world, &["3", kind, way, "tokens=10"]);
        }
    }
    for form in ["merged", "unfused", "packed", "no-overlap"] {
        same(&world().delays(7), &["4", "mixed", form, "tokens=10"]);
    }
}

#[test]
fn experts_survive_what_happens_to_their_weights() {
    let cases: [&[&str]; 6] = [
        &["writes", "streams=2"],
        &["reload"],
        &["pressure"],
        &["prompts", "writes"],
        &["models=2", "writes"],
        &["contexts=2"],
    ];
    for (seed, options) in cases.iter().enumerate() {
        for stream in ["on", "off"] {
            let world = world().env(settings::STREAM, stream).env(settings::RING, "4MiB").delays(seed as u64);
            same(&world, &[&["9", "mixed", "tokens=16"], *options].concat());
        }
    }
}
