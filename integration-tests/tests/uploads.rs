//! Uploads by our own threads: the same bytes in the same order as the driver's, and whether they were ours.

use greenboost_contract::{record, settings};
use integration_tests::World;
use std::sync::atomic::Ordering::Relaxed;

/// Bytes that our threads have uploaded when the program has made all its uploads, which must be right.
#[track_caller]
fn uploaded(world: &World) -> u64 {
    let mut target = world.start("uploads", &["hold"]);
    target.until("uploaded");
    let record = record::of_process(target.pid()).expect("a status record");
    let bytes = record.devices[0].uploaded.load(Relaxed);
    drop(record);
    target.go_on();
    let log = target.log();
    assert!(target.finish().success(), "{log}");
    assert!(!log.contains(" ERROR "), "{log}");
    bytes
}

fn world(backing: &str, threads: &str) -> World {
    let world = World::new().hooked().env("GB_FIXTURE_BYTES", (24 << 20).to_string());
    world.env(settings::BACKINGS, backing).env(settings::UPLOAD_THREADS, threads)
}

#[test]
fn what_our_threads_upload_is_what_was_there_at_the_call() {
    for (seed, backing) in (1..=4).zip(["host-numa", "memfd"].iter().cycle()) {
        let threads = (1 + seed).to_string();
        let bytes = uploaded(&world(backing, &threads).delays(seed));
        // Twice 24 MiB whole, and parts, in both contexts; of memfd, what is between seams is too small.
        assert!(bytes > if *backing == "memfd" { 0 } else { 96 << 20 }, "{backing}, {threads} threads: {bytes} bytes");
    }
}

#[test]
fn without_threads_uploads_are_the_drivers() {
    for threads in ["0", "1"] {
        assert_eq!(uploaded(&world("host-numa", threads)), 0);
    }
}

#[test]
fn the_uploads_fixture_agrees_with_the_plain_driver() {
    let world = World::new().vram("64MiB").env("GB_FIXTURE_BYTES", (30 << 20).to_string());
    assert!(world.run("uploads").ok().caught());
}

#[test]
fn what_the_driver_refuses_our_threads_the_programs_own_call_does() {
    // Pinned memory in the first context, an event and a copy in the middle of an upload. Which copies are ours depends on which
    // streams are found idle, so that the whole is the most of some runs.
    let whole = (0..4).map(|_| uploaded(&world("host-numa", "2"))).max().unwrap_or(0);
    for call in ["cuMemHostAlloc:1", "cuEventCreate:2", "cuMemcpyAsync:7"] {
        let bytes = uploaded(&world("host-numa", "2").env("SIMGPU_FAIL", call).delays(3));
        assert!(0 < bytes && bytes < whole, "{call}: {bytes} of {whole} bytes");
    }
    // A record may be one that asks whether a stream is idle, and then nothing is lost but the answer.
    for record in [9, 14] {
        let world = world("host-numa", "2").env("SIMGPU_FAIL", format!("cuEventRecord:{record}")).delays(3);
        assert!(uploaded(&world) > 0);
    }
}

#[test]
fn gb_launch_says_how_many_threads() {
    let world = World::new().launched(&["--upload-threads", "3", "--vram", "16MiB", "--ram", "1GiB", "--no-plan"]);
    let outcome = world.run("uploads").ok();
    assert!(outcome.caught(), "{}", outcome.report());
}
