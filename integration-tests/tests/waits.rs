//! Waiting: what one thread's work waits for is never held up by what we do for another's, and what moves is used by nobody.

use greenboost_contract::settings;
use integration_tests::{Outcome, World};

/// Two small GPUs, on which half of an allocation has to make way for the next.
fn world() -> World {
    let world = World::new().vram("64MiB,64MiB").env(settings::VRAM, "52MiB").env(settings::THRESHOLD, "2MiB");
    world.env(settings::CHUNK, "8MiB").env(settings::UPLOAD_THREADS, "2").hooked()
}

#[track_caller]
fn right(world: &World, what: &str) -> Outcome {
    let outcome = world.run_with("waits", &[what]).ok();
    assert!(outcome.stdout.starts_with("right"), "{what}\n{}", outcome.report());
    assert!(!outcome.log.contains(" ERROR "), "{what}\n{}", outcome.report());
    outcome
}

/// Marks of a context's work that a driver before CUDA 12.5 does not make: `CUDA_ERROR_NOT_SUPPORTED`, this many times.
fn older() -> String {
    (1..=400).map(|nth| format!("cuCtxRecordEvent:{nth}:801")).collect::<Vec<_>>().join(",")
}

#[test]
fn the_waits_fixture_agrees_with_the_plain_driver() {
    let world = World::new().vram("128MiB,128MiB");
    for what in ["upload", "upload-self", "free", "copy", "reach", "peer", "context", "copies"] {
        assert!(world.run_with("waits", &[what]).ok().stdout.starts_with("right"));
    }
}

#[test]
fn an_upload_to_a_stream_that_waits_holds_up_nobody() {
    right(&world(), "upload");
    right(&world(), "upload-self");
}

#[test]
fn launches_go_on_while_room_is_made_on_a_device_that_waits_for_them() {
    for what in ["gate", "gate-same"] {
        right(&world(), what);
        right(&world().env("SIMGPU_FAIL", older()), what);
    }
}

#[test]
fn memory_of_a_device_that_waits_is_freed_while_others_allocate() {
    right(&world(), "free");
    right(&world().env("SIMGPU_FAIL", older()), "free");
}

#[test]
fn a_copy_that_waits_for_a_long_kernel_holds_up_no_other_device() {
    right(&world(), "copy");
}

#[test]
fn what_another_device_or_context_uses_does_not_move_meanwhile() {
    for what in ["peer", "context", "copies"] {
        let outcome = right(&world(), what);
        assert!(outcome.log.contains("moved "), "{what}: nothing was moved\n{}", outcome.report());
    }
    right(&world().env("SIMGPU_FAIL", older()), "peer");
}
