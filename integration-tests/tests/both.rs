//! CPU and link together: layers that the CPU computes with lie between layers that are streamed, and the CPU's own are
//! served where a prompt copies them.

use greenboost_contract::{record, settings};
use integration_tests::World;
use std::sync::atomic::Ordering::Relaxed;

const LAYERS: u64 = 18;
/// Those whose feed-forward weights are the CPU's.
const CPUS: u64 = 6;
/// Prompts of two batches, and tokens after each.
const RUN: [&str; 2] = ["3", "6"];

/// The first line of a run, and what the record says before its end: copies served, hits and misses of the ring, bytes streamed.
fn run(world: &World) -> (String, [u64; 4]) {
    let mut program = world.start("both", &RUN);
    let sums = program.until("done").join("\n");
    let counters = record::of_process(program.pid()).map_or([0; 4], |record| {
        let device = &record.devices[0];
        [&device.prefetched_copies, &device.slot_hits, &device.slot_misses, &device.streamed].map(|it| it.load(Relaxed))
    });
    program.go_on();
    assert!(program.finish().success());
    (sums, counters)
}

fn both(seed: u64) -> World {
    World::new()
        .vram("64MiB")
        .env(settings::VRAM, "16MiB")
        .env(settings::STREAM, "on")
        .env(settings::HOST_COPY_PREFETCH, "on")
        .env(settings::RING, "4MiB")
        .env(settings::THRESHOLD, "2MiB")
        .delays(seed)
        .hooked()
}

#[test]
fn layers_of_the_cpu_are_served_between_layers_that_are_streamed() {
    let (expected, _) = run(&World::new().vram("64MiB"));
    for seed in 0..4 {
        let (sums, [served, hits, misses, streamed]) = run(&both(seed));
        assert_eq!(sums, expected, "seed {seed}");
        // All batches of prompts but the first, which shows what there is.
        assert_eq!(served, 5 * CPUS, "seed {seed}");
        assert!(streamed > 0 && hits > 0, "seed {seed}: {streamed} bytes, {hits} hits");
        // Prompts and answers have orders of their own: after the first of each, few have to ask.
        assert!(misses * 6 < hits, "seed {seed}: {misses} misses, {hits} hits of {} reads", LAYERS * 2 * 24);
    }
}

#[test]
fn a_missing_wait_between_the_two_is_noticed() {
    let (expected, _) = run(&World::new().vram("64MiB"));
    for fault in ["missing-copy", "missing-readers"] {
        let differs = (0..8).any(|seed| {
            let world = both(seed).env("GREENBOOST_PLANT", fault).env("SIMGPU_LINK_GBPS", "1");
            run(&world).0 != expected
        });
        assert!(differs, "{fault} makes no difference");
    }
}
