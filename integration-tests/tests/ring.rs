//! The ring is a part of the VRAM budget: it shrinks before hot memory is evicted, and never for other weights.

use greenboost_contract::{record, settings};
use integration_tests::World;
use std::sync::atomic::Ordering::Relaxed;

const MIB: u64 = 1 << 20;

/// Weights of 26 MiB, in a budget of 24 MiB, of which 12 are the ring's.
fn world() -> World {
    World::new()
        .vram("128MiB")
        .env(settings::VRAM, "24MiB")
        .env(settings::STREAM, "on")
        .env(settings::RING, "12MiB")
        .env(settings::THRESHOLD, "4MiB")
        .delays(7)
        .hooked()
}

/// The first line of a run, and bytes of the ring and of weights in VRAM before its end.
fn run(world: &World, arguments: &[&str]) -> (String, u64, u64) {
    let mut program = world.start("choices", arguments);
    let sums = program.until("done").join("\n");
    let (ring, chunks) = record::of_process(program.pid()).map_or((0, 0), |record| {
        let device = &record.devices[0];
        (device.vram_ring.load(Relaxed), device.vram_chunks.load(Relaxed))
    });
    program.go_on();
    assert!(program.finish().success());
    (sums, ring, chunks)
}

#[test]
fn scratch_takes_the_weights_vram_then_half_of_the_slots_and_every_byte_stays_right() {
    let (expected, ..) = run(&World::new().vram("128MiB"), &["6"]);
    let (sums, ring, chunks) = run(&world(), &["6", "4"]);
    assert_eq!((sums.as_str(), ring), (expected.as_str(), 12 * MIB), "weights give way first");
    assert!(chunks > 0, "{chunks} bytes of weights are left");
    let (sums, ring, chunks) = run(&world(), &["6", "16"]);
    assert_eq!((sums.as_str(), chunks), (expected.as_str(), 0));
    assert!((6 * MIB..12 * MIB).contains(&ring), "{ring} bytes of slots are left");
}

#[test]
fn slots_that_a_graph_has_stay_where_they_are() {
    let (expected, ..) = run(&World::new().vram("128MiB"), &["6"]);
    // What finds no room in VRAM goes to RAM.
    let (sums, ring, _) = run(&world(), &["6", "16", "graph"]);
    assert_eq!((sums, ring), (expected, 12 * MIB));
}
