//! Streaming where something particular happens: orders that defeat the guess, weights that go while they are copied,
//! graphs that change, children. What happens by chance is in `streaming`.

use greenboost_contract::settings;
use integration_tests::streamed::{Counts, IN_RAM, right, world};
use integration_tests::{Outcome, World};

/// Weights of 12 MiB, all in RAM, through a ring that holds a third of them.
fn in_ram() -> World {
    world("4MiB").env(settings::PLACE, IN_RAM)
}

#[track_caller]
fn ordered(order: &str, passes: u64) -> (Outcome, Counts) {
    // Nothing that is counted here depends on times.
    let world = in_ram().delays(passes).env("SIMGPU_DELAY_US", "20");
    let outcome = right(&world, "stream-orders", &[order, &passes.to_string()]);
    let counts = Counts::of(&outcome);
    assert_eq!(counts.hits + counts.misses, outcome.number("reads"), "{order}: {counts:?}\n{}", outcome.report());
    (outcome, counts)
}

/// Weights of `stream-orders`.
const WEIGHTS: u64 = 20;

#[test]
fn an_order_that_repeats_is_missed_once() {
    let (_, counts) = ordered("forwards", 12);
    assert!(counts.misses <= WEIGHTS + 1 && counts.in_place == 0, "{counts:?}");
}

#[test]
fn orders_that_take_turns_are_each_learned() {
    for order in ["alternating", "reversing"] {
        let (_, counts) = ordered(order, 12);
        assert!(counts.misses <= 2 * WEIGHTS + 4 && counts.in_place == 0, "{order}: {counts:?}");
    }
}

/// A wrong guess costs time: not more than a copy for each that is needed, and never a byte.
#[test]
fn an_order_made_to_defeat_the_guess_reads_the_right_bytes() {
    let (outcome, counts) = ordered("defeating", 12);
    assert!(counts.misses > counts.hits, "it was not defeated: {counts:?}");
    let needed = outcome.number("reads") as f64 * 600.0 / 1024.0;
    assert!(counts.streamed < 2.0 * needed, "{counts:?}, where {needed} MiB were needed");
}

/// After a change only the places where the orders part are missed, and only in the pass that follows it.
#[test]
fn prompts_and_decoding_of_the_same_weights_are_missed_in_one_pass_at_most() {
    let parting = WEIGHTS.div_ceil(3);
    // Cycles of two passes of a prompt and three of decoding.
    let misses = |cycles: u64| ordered("phases", 5 * cycles).1.misses;
    let (few, many) = (misses(2), misses(6));
    assert!(few <= 2 * WEIGHTS + 3 * parting, "{few}");
    assert!(many - few <= 2 * 4 * parting, "{few}, then {many}");
}

#[test]
fn a_tensor_larger_than_the_ring_is_read_in_place_and_the_others_are_streamed() {
    let (_, counts) = ordered("large", 12);
    assert_eq!(counts.in_place, 12, "{counts:?}");
    assert!(counts.misses <= WEIGHTS + 1, "{counts:?}");
}

/// Also where the address is part of a value, in a list of parameters or packed.
#[test]
fn a_launch_of_any_form_is_streamed_for() {
    let (_, counts) = ordered("forms", 12);
    assert_eq!(counts.in_place, 0, "{counts:?}");
}

#[test]
fn weights_that_a_rule_keeps_in_ram_are_streamed_where_all_would_fit() {
    let world = in_ram().env(settings::VRAM, "64MiB").delays(1);
    let counts = Counts::of(&right(&world, "stream-orders", &["forwards", "3"]));
    assert!(counts.in_place == 0 && counts.hits > counts.misses, "{counts:?}");
}

/// Frees with copies of what goes on a link that takes milliseconds for each. `hints`: whether addresses are new each time.
fn frees(how: &str, hints: bool, fault: &str) -> Outcome {
    let world = in_ram().delays(7).env("SIMGPU_LINK_GBPS", "0.1").env("GREENBOOST_PLANT", fault);
    world.env("SIMGPU_ADDRESS_HINTS", if hints { "1" } else { "0" }).run_with("stream-frees", &[how, "6"])
}

const FREES: [&str; 4] = ["free", "stream", "other", "null"];

#[test]
fn weights_may_be_freed_while_they_are_copied_and_their_addresses_come_again() {
    for (how, hints) in FREES.iter().flat_map(|how| [(how, true), (how, false)]) {
        let outcome = frees(how, hints, "").ok();
        assert!(outcome.number("right") > 0, "{how}\n{}", outcome.report());
        assert_eq!(outcome.number("reused"), if hints { 0 } else { 5 }, "{how}\n{}", outcome.report());
        assert_eq!(outcome.number("waited"), 6, "{how}: nothing was on its way\n{}", outcome.report());
    }
}

#[test]
fn a_free_that_does_not_wait_for_copies_is_noticed() {
    // The driver's own free waits for everything.
    for how in FREES.into_iter().filter(|how| *how != "free") {
        let outcome = frees(how, false, "missing-join");
        assert!(outcome.stderr.contains("= 700"), "{how}: it read what was freed\n{}", outcome.report());
    }
}

#[test]
fn graphs_with_slots_in_them_can_be_changed() {
    for seed in 0..6u64 {
        let ring = ["2MiB", "4MiB", "6MiB"][seed as usize % 3];
        let world = world(ring).env(settings::PLACE, IN_RAM).delays(seed);
        let counts = Counts::of(&right(&world, "stream-updates", &[]));
        assert!(counts.captured, "{counts:?}");
    }
    right(&World::new().vram("128MiB").delays(1), "stream-updates", &[]);
}

#[test]
fn a_graph_that_only_writes_a_weight_leaves_no_copy_of_it() {
    right(&in_ram().delays(2), "stream-updates", &["writes"]);
}

#[test]
fn children_of_a_program_that_streams_disturb_nobody() {
    const FORKS: usize = 12;
    for seed in 0..4u64 {
        let outcome = right(&in_ram().delays(seed), "stream-forks", &[&FORKS.to_string()]);
        assert!(outcome.stderr.is_empty(), "{}", outcome.report());
        // It reports at its end, and so do those that became other programs; the rest have nothing to say.
        let reports = outcome.log.lines().filter(|line| line.contains(": streamed ")).count();
        assert_eq!(reports, 1 + FORKS / 4, "{}", outcome.report());
    }
    right(&World::new().vram("128MiB").delays(1), "stream-forks", &[&FORKS.to_string()]);
}
