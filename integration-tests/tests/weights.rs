//! Weights that are streamed from, when other things are done to them or beside them than loading and reading.

use greenboost_contract::settings;
use integration_tests::World;
use integration_tests::streamed::{IN_RAM, right, world};

/// Weights of 12 MiB, all in RAM.
fn in_ram() -> World {
    world("4MiB").env(settings::PLACE, IN_RAM)
}

/// Where the processor sees them, weights are written there directly; and where they are large, by several threads.
#[test]
fn an_upload_comes_after_what_its_stream_has_to_do() {
    for how in ["cleared", "null", "pinned", "called"] {
        for backing in ["memfd", "host-numa"] {
            let world = in_ram().env(settings::BACKINGS, backing).env(settings::UPLOAD_THREADS, "2");
            right(&world, "stream-writes", &[how]);
        }
        right(&World::new().vram("128MiB"), "stream-writes", &[how]);
    }
}

#[test]
fn tensors_of_batches_are_not_kept() {
    let outcome = right(&in_ram(), "stream-writes", &["batches"]);
    assert!(outcome.number("grown") < 4096, "{}", outcome.report());
}
