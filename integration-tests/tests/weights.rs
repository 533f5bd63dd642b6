//! Weights that are streamed from, when other things are done to them or beside them than loading and reading.

use greenboost_contract::settings;
use integration_tests::World;
use integration_tests::streamed::{Counts, IN_RAM, right, world};

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

/// Kernels that write to weights are known by the types of their parameters or by a rule.
#[test]
fn what_a_kernel_writes_to_a_weight_is_read() {
    for seed in 0..3 {
        for (how, rules) in
            [("kernel", ""), ("graph", ""), ("rule", "gb_fill\t\tnever\n\t\tstream"), ("rule", "fill\tup\tnever")]
        {
            let world = in_ram().env(settings::RING, "10MiB").env(settings::KERNELS, rules).delays(seed);
            let counts = Counts::of(&right(&world, "stream-writes", &[how]));
            assert!(counts.streamed > 0.0, "{how}: {counts:?}");
        }
    }
    for how in ["kernel", "rule", "graph"] {
        right(&World::new().vram("128MiB"), "stream-writes", &[how]);
    }
}

/// No rule names this kernel, nor does its name say anything.
#[test]
fn programs_that_train_are_not_streamed_for() {
    let world = in_ram().env(settings::TRAINS, "^stream-(writes|none)$").env(settings::HOST_COPY_PREFETCH, "on");
    let outcome = right(&world, "stream-writes", &["rule"]);
    assert!(
        outcome.log.contains("stream-writes trains") && !outcome.log.contains(": streamed "),
        "{}",
        outcome.report()
    );
}

#[test]
fn gb_launch_says_where_nothing_is_streamed() {
    let world = World::new().launched(&["--profile", "llama-tools", "--dry-run"]).env(settings::TRAINS, "^untouched$");
    let outcome = world.run("untouched").ok();
    assert!(outcome.stdout.contains("off in untouched, which trains"), "{}", outcome.report());
    let outcome = World::new().launched(&["--profile", "llama-tools", "--dry-run"]).run("untouched").ok();
    assert!(!outcome.stdout.contains("trains"), "{}", outcome.report());
}

#[test]
fn tensors_of_batches_are_not_kept() {
    let outcome = right(&in_ram(), "stream-writes", &["batches"]);
    assert!(outcome.number("grown") < 4096, "{}", outcome.report());
}
