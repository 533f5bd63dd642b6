//! Weights that are streamed from, when other things are done to them or beside them than loading and reading.

use greenboost_contract::settings;
use integration_tests::World;
use integration_tests::streamed::{IN_RAM, right, world};

/// Weights of 12 MiB, all in RAM.
fn in_ram() -> World {
    world("4MiB").env(settings::PLACE, IN_RAM)
}

#[test]
fn tensors_of_batches_are_not_kept() {
    let outcome = right(&in_ram(), "stream-writes", &["batches"]);
    assert!(outcome.number("grown") < 4096, "{}", outcome.report());
}
