//! Streaming: whatever a program does, its kernels read what they would have read without it.

use greenboost_contract::record::{self, DeviceRecord};
use greenboost_contract::settings;
use integration_tests::{Outcome, World};
use std::sync::atomic::Ordering::Relaxed;

/// Weights of about 7 MiB on a GPU that holds a part of them, streamed through `ring`.
fn streaming(ring: &str) -> World {
    World::new()
        .vram("64MiB")
        .env(settings::VRAM, "9MiB")
        .env(settings::STREAM, "on")
        .env(settings::RING, ring)
        .env(settings::THRESHOLD, "2MiB")
        .hooked()
}

#[track_caller]
fn right(world: &World, arguments: &[&str]) -> Outcome {
    let outcome = world.run_with("stream-like", arguments).ok();
    assert!(outcome.stdout.starts_with("right "), "{arguments:?}\n{}", outcome.report());
    outcome
}

#[test]
fn the_program_is_right_without_us() {
    right(&World::new().vram("64MiB").delays(1), &["1", "10"]);
    right(&World::new().vram("64MiB").delays(1), &["1", "3", "large"]);
}

#[test]
fn weights_in_place_are_right() {
    right(&streaming("2MiB").env(settings::STREAM, "off").delays(2), &["1", "5"]);
}

#[test]
fn random_programs_read_the_right_bytes() {
    for seed in 0..10u64 {
        let first = (seed * 10).to_string();
        right(&streaming("2MiB").delays(seed), &[&first, "10"]);
    }
}
