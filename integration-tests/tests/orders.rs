//! Memory in the order of streams: what is freed and allocated again, and on which device.

use greenboost_contract::settings;
use integration_tests::{Outcome, World};

/// No RAM stands in for VRAM.
fn without_ram() -> World {
    World::new().env(settings::THRESHOLD, "4MiB").env(settings::RAM, "0").hooked()
}

/// Until the program went on, in seconds.
fn seconds(outcome: &Outcome) -> f64 {
    let line = outcome.stdout.lines().last().unwrap_or_default();
    let number = line.split_whitespace().nth(2).and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("no time\n{}", outcome.report()))
}

/// Bytes that are not free any more.
fn lost(outcome: &Outcome) -> i64 {
    let number = outcome.stdout.split_whitespace().last().and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("no number\n{}", outcome.report()))
}

const FORMS: [&[&str]; 4] = [&[], &["per-thread"], &["legacy"], &["pool"]];

#[test]
fn what_a_stream_has_freed_is_its_next_allocations_without_a_wait() {
    for form in FORMS {
        World::new().run_with("freed", &[&["same", "one-size"], form].concat()).ok();
        let arguments = [&["same"], form].concat();
        let outcome = without_ram().run_with("freed", &arguments).ok();
        assert_eq!(lost(&outcome), 0, "{form:?}\n{}", outcome.report());
    }
}

#[test]
fn what_a_stream_has_freed_in_ram_is_its_next_allocations_too() {
    for backing in ["host-numa", "memfd"] {
        // A third of it is in VRAM.
        let world = World::new().env(settings::VRAM, "4MiB").env(settings::THRESHOLD, "4MiB");
        let world = world.env(settings::RAM, "10MiB").env("GREENBOOST_BACKINGS", backing).hooked();
        let outcome = world.run_with("freed", &["same", "one-size"]).ok();
        assert_eq!(lost(&outcome), 0, "{}", outcome.report());
    }
}

#[test]
fn what_another_stream_has_freed_is_waited_for_while_vram_is_short() {
    for form in FORMS {
        let outcome = without_ram().run_with("freed", &[&["other"], form].concat()).ok();
        assert_eq!(lost(&outcome), 0, "{form:?}\n{}", outcome.report());
    }
}

/// The stream goes on only when the program does: memory that waits for it comes from RAM meanwhile.
#[test]
fn a_stream_that_waits_for_the_program_does_not_keep_it_from_allocating() {
    let world = World::new().env(settings::THRESHOLD, "4MiB").hooked();
    let outcome = world.run_with("freed", &["stuck"]).ok();
    assert!(seconds(&outcome) < 8.0 && lost(&outcome) == 0, "{}", outcome.report());
}

#[test]
fn a_capture_on_another_stream_keeps_nothing_from_being_given_back() {
    for form in FORMS {
        let outcome = without_ram().run_with("freed", &[&["capturing"], form].concat()).ok();
        assert_eq!(lost(&outcome), 0, "{form:?}\n{}", outcome.report());
    }
}
