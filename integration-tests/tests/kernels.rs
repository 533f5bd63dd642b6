//! How kernels read weights outside VRAM: as the rules say, and from copies where these say nothing.

use greenboost_contract::settings;
use integration_tests::streamed::Counts;
use integration_tests::{Outcome, World};

/// Weights of 26 MiB where most are outside.
fn world(rules: &str) -> World {
    World::new()
        .vram("128MiB")
        // Enough that no part of a weight has to make way: what lies outside, lies there whole.
        .env(settings::VRAM, "25MiB")
        .env(settings::STREAM, "on")
        .env(settings::RING, "12MiB")
        .env(settings::THRESHOLD, "2MiB")
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
fn what_a_kernel_that_no_rule_names_reads_is_streamed() {
    for rules in ["nothing\t\tin-place", "gb_checksum\t\tstream"] {
        let outcome = run(&world(rules));
        assert_eq!(in_place(&outcome), 0, "{rules}\n{}", outcome.report());
        assert!(Counts::of(&outcome).streamed > 0.0, "{rules}\n{}", outcome.report());
    }
}

#[test]
fn the_first_rule_that_fits_decides() {
    for (rules, in_place_too) in [("gb_\t\tstream", false), ("gb_checksum\t\tstream\ngb_\t_up\tin-place", true)] {
        let outcome = run(&world(rules));
        assert_eq!(in_place(&outcome) > 0, in_place_too, "{rules}\n{}", outcome.report());
    }
}

#[test]
fn a_kernel_that_may_write_gets_no_copies() {
    let outcome = run(&world("gb_\t\tnever"));
    assert!(outcome.log.contains("streamed 0 B, 0 B more captured in graphs; 0 launches"), "{}", outcome.report());
    assert_eq!(in_place(&outcome), 0, "{}", outcome.report());
}

#[test]
fn a_kernel_that_reads_in_place_takes_what_others_left_in_the_ring() {
    let alone = in_place(&run(&world("gb_checksum\t\tnever\ngb_\t\tin-place")));
    let beside = in_place(&run(&world("gb_checksum\t\tstream\ngb_\t\tin-place")));
    assert!(0 < beside && beside < alone, "the link is read {beside} times, without copies to find {alone} times");
}
