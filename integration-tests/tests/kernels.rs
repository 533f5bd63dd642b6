//! How kernels read weights outside VRAM: as the rules say, and where these say nothing, as is quicker.

use greenboost_contract::settings;
use integration_tests::{Outcome, World};

/// Weights of 26 MiB where most are outside, on a GPU whose link is slow enough to be timed.
fn world(rules: &str) -> World {
    World::new()
        .vram("128MiB")
        // Enough that no part of a weight has to make way: what lies outside, lies there whole.
        .env(settings::VRAM, "25MiB")
        .env(settings::STREAM, "on")
        .env(settings::RING, "12MiB")
        .env(settings::THRESHOLD, "2MiB")
        .env("SIMGPU_LINK_GBPS", "0.5")
        .env("SIMGPU_IN_PLACE_GBPS", "0.4")
        .env(settings::KERNELS, rules)
        .hooked()
}

#[track_caller]
fn run(world: &World) -> Outcome {
    let plain = World::new().vram("128MiB").run_with("choices", &["4"]).ok();
    let outcome = world.run_with("choices", &["4"]).ok();
    assert_eq!(outcome.stdout, plain.stdout, "{}", outcome.report());
    outcome
}

/// How many launches read in place, as the log's last line has it.
fn in_place(outcome: &Outcome) -> u64 {
    let (_, end) = outcome.log.rsplit_once("had to ask for it, ").unwrap_or_else(|| panic!("{}", outcome.report()));
    end.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn a_kernel_that_no_rule_names_is_measured_and_reads_as_is_quicker() {
    let outcome = run(&world("nothing\t\tstream"));
    let said = |kernel: &str, how: &str| {
        outcome.log.lines().any(|line| line.contains(kernel) && line.contains("ms to copy") && line.ends_with(how))
    };
    assert!(said("gb_matvec_q8", "read in place"), "an eighth is read: {}", outcome.report());
    assert!(said("gb_checksum_u32", "streamed"), "all of it is read: {}", outcome.report());
}

#[test]
fn rules_decide_before_anything_is_measured() {
    for (rules, in_place_too) in [("gb_\t\tstream", false), ("gb_checksum\t\tstream\ngb_\t_up\tin-place", true)] {
        let outcome = run(&world(rules));
        assert!(!outcome.log.contains("ms to copy"), "{rules}\n{}", outcome.report());
        assert_eq!(in_place(&outcome) > 0, in_place_too, "{rules}\n{}", outcome.report());
    }
}

#[test]
fn launches_of_a_kernel_that_is_never_looked_into_are_the_programs_own() {
    let outcome = run(&world("gb_\t\tnever"));
    assert!(outcome.log.contains("streamed 0 B, 0 B more by graphs; 0 launches"), "{}", outcome.report());
    assert_eq!(in_place(&outcome), 0, "{}", outcome.report());
}

#[test]
fn a_kernel_that_reads_in_place_takes_what_others_left_in_the_ring() {
    let alone = in_place(&run(&world("gb_checksum\t\tnever\ngb_\t\tin-place")));
    let beside = in_place(&run(&world("gb_checksum\t\tstream\ngb_\t\tin-place")));
    assert!(0 < beside && beside < alone, "the link is read {beside} times, without copies to find {alone} times");
}
