//! The trace of streaming: it can be read however the program ends, it tells what happened, and it changes nothing.

use greenboost_contract::record::{self, DeviceRecord};
use greenboost_contract::settings;
use integration_tests::World;
use integration_tests::trace::Trace;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Weights of about 7 MiB on a GPU that holds a part of them, streamed through 2 MiB, with a trace.
fn traced(seed: u64) -> (World, PathBuf) {
    let world = World::new()
        .vram("64MiB")
        .env(settings::VRAM, "9MiB")
        .env(settings::STREAM, "on")
        .env(settings::RING, "2MiB")
        .env(settings::THRESHOLD, "2MiB")
        .delays(seed)
        .hooked();
    let path = world.file("trace.json");
    (world.env(settings::TRACE, &path), path)
}

/// Programs without graphs, whose copies would be in the counters and not in the trace.
const PLAIN: &[&str] = &["1", "3", "in-order", "no-graphs", "no-writes", "no-reloads"];

#[test]
fn what_the_trace_shows_adds_up_to_what_is_counted() {
    let (world, path) = traced(3);
    let mut program = world.start("stream-like", &[PLAIN, &["hold"]].concat());
    program.until("ready");
    let record = record::of_process(program.pid()).expect("a record");
    let device: &DeviceRecord = &record.devices[0];
    let count = |counter: &AtomicU64| counter.load(Relaxed) as f64;
    let counted = [&device.streamed, &device.slot_hits, &device.slot_late, &device.slot_misses].map(count);
    assert!(counted[0] > 0.0 && counted[1] > 0.0 && counted[3] > 0.0, "{counted:?}");
    drop(record);
    assert!(program.finish().success());

    let trace = Trace::read(&path);
    let said = ["streamed_bytes", "slot_hits", "slot_late", "slot_misses"].map(|name| trace.end(name));
    assert_eq!(said, counted);
    assert_eq!(trace.end("not_measured"), 0.0);
    let (copies, launches) = (trace.bars("copy"), trace.bars("launch"));
    let bytes: f64 = copies.iter().map(|copy| copy.args["bytes"].as_f64().expect("bytes")).sum();
    let reads: usize = launches.iter().map(|launch| launch.args["reads"].as_array().expect("names").len()).sum();
    assert_eq!((bytes, reads as f64), (counted[0], counted[1] + counted[3]));
    assert_eq!((trace.instants("late") as f64, trace.instants("miss") as f64), (counted[2], counted[3]));
    assert_eq!((copies.len() as f64, launches.len() as f64), (trace.end("copies"), trace.end("launches")));
    assert!(copies.iter().all(|copy| copy.name.starts_with("blk.") && copy.track == 1));
    assert!(launches.iter().all(|launch| launch.name.contains("checksum_") && launch.track > 1));
}

#[test]
fn the_link_is_busy_while_there_is_a_copy_and_a_stream_waits_until_its_copy_is_there() {
    let (world, path) = traced(4);
    // So slow that what a copy takes is more than what the machine adds.
    let world = world.env("SIMGPU_LINK_GBPS", "0.5");
    let outcome = world.run_with("stream-like", PLAIN).ok();
    let trace = Trace::read(&path);
    let length = |category: &str| trace.bars(category).iter().map(|bar| bar.ends - bar.begins).sum::<f64>();
    let close = |a: f64, b: f64| (a - b).abs() < 0.01 * b.max(1.0);
    assert!(close(length("copy"), trace.end("copying_us")) && length("copy") > 0.0);
    assert!(close(length("wait"), trace.end("waited_us")) && length("wait") > 0.0);
    let utilisation = trace.end("copying_us") / trace.end("wall_us");
    assert!(close(utilisation, trace.end("link_utilisation")) && utilisation < 1.0, "{utilisation}");
    for wait in trace.bars("wait") {
        let ends = |copy: &integration_tests::trace::Bar| (copy.ends - wait.ends).abs() < 0.01;
        let begins = |launch: &integration_tests::trace::Bar| {
            launch.track == wait.track && (launch.begins - wait.ends).abs() < 0.01
        };
        assert!(trace.bars("copy").iter().any(ends) || trace.bars("launch").iter().any(begins), "{wait:?}");
    }
    let speeds: Vec<_> = trace.bars("copy").iter().map(|copy| copy.args["GB/s"].as_f64().expect("a speed")).collect();
    // One weight lies across the end of what is in VRAM.
    let slow = speeds.iter().filter(|speed| **speed < 0.6).count();
    assert!(slow * 10 > speeds.len() * 9, "{speeds:?}");
    assert!(outcome.log.contains("kept the link busy for"), "{}", outcome.report());
}

#[test]
fn a_launch_begins_behind_the_copy_it_reads_and_ends_in_front_of_the_next_one() {
    let (world, path) = traced(5);
    world.run_with("stream-like", PLAIN).ok();
    let trace = Trace::read(&path);
    assert!(trace.bars("launch").len() > 100, "{}", trace.bars("launch").len());
    assert_eq!(trace.wrong_reads(), Vec::<String>::new());
}

#[test]
fn a_wait_that_is_missing_shows_in_the_trace() {
    let (world, path) = traced(5);
    let world = world.env("GREENBOOST_PLANT", "missing-copy").env("SIMGPU_LINK_GBPS", "0.5");
    let outcome = world.run_with("stream-like", PLAIN);
    assert!(outcome.stderr.contains("read wrong bytes"), "{}", outcome.report());
    assert!(!Trace::read(&path).wrong_reads().is_empty());
}

#[test]
fn tracing_changes_no_byte_and_graphs_are_bars() {
    for seed in 0..6u64 {
        let first = (seed * 10).to_string();
        let (world, path) = traced(seed);
        let calls = world.file("calls");
        let world = world.env("SIMGPU_TRACE", &calls);
        let outcome = world.run_with("stream-like", &[&first, "5"]).ok();
        let calls = std::fs::read_to_string(calls).expect("calls");
        assert!(outcome.stdout.starts_with("right "), "{}", outcome.report());
        assert!(outcome.log.contains("kept the link busy") && !outcome.log.contains("the trace ends"));
        let trace = Trace::read(&path);
        let graphs = trace.bars("graph");
        // Those launched before any capture could have used slots are none of ours.
        assert!(graphs.len() <= calls.lines().filter(|call| call.starts_with("cuGraphLaunch")).count());
        assert_eq!(graphs.len() as f64, trace.end("graph_launches"));
        // It has the slots to itself, and what it copies into them is not made up.
        for (graph, copy) in
            graphs.iter().flat_map(|graph| trace.bars("copy").into_iter().map(move |copy| (graph, copy)))
        {
            assert!(!graph.meets(&copy), "{graph:?} {copy:?}");
        }
        assert!(!trace.bars("graph").is_empty() && !trace.bars("copy").is_empty());
        assert_eq!(trace.wrong_reads(), Vec::<String>::new());
        let untraced = world.env(settings::TRACE, "").run_with("stream-like", &[&first, "5"]).ok();
        assert_eq!(outcome.stdout, untraced.stdout);
    }
}

#[test]
fn without_a_trace_nothing_is_measured_and_nothing_said_about_it() {
    let (world, path) = traced(1);
    let world = world.env(settings::TRACE, "");
    let outcome = world.run_with("stream-like", PLAIN).ok();
    assert!(outcome.log.contains("streamed ") && !outcome.log.contains("link busy"), "{}", outcome.report());
    assert!(!path.exists());
}

#[test]
fn a_killed_program_leaves_a_trace_that_can_be_read() {
    let (world, path) = traced(2);
    let mut program = world.start("stream-like", &["1", "10", "hold"]);
    program.until("ready");
    program.kill();
    let trace = Trace::read(&path);
    assert!(!trace.bars("copy").is_empty() && !trace.bars("launch").is_empty());
    assert_eq!(trace.instants("end"), 0);
}

#[test]
fn a_program_that_leaves_its_context_to_the_driver_is_reported_all_the_same() {
    let (world, path) = traced(6);
    let outcome = world.run_with("stream-like", &[PLAIN, &["leave"]].concat()).ok();
    let trace = Trace::read(&path);
    assert_eq!(trace.end("not_measured"), 0.0, "{}", outcome.report());
    assert_eq!(trace.bars("copy").len() as f64, trace.end("copies"));
    let reports = outcome.log.lines().filter(|line| line.contains("launches found their weight")).count();
    assert_eq!(reports, 1, "{}", outcome.report());
}

#[test]
fn a_trace_that_cannot_be_written_costs_the_program_nothing() {
    let (world, _) = traced(7);
    let world = world.env(settings::TRACE, "/no/such/folder/trace.json");
    let outcome = world.run_with("stream-like", PLAIN).ok();
    assert!(
        outcome.stderr.is_empty() && outcome.stdout.starts_with("right ") && outcome.log.contains("no trace at "),
        "{}",
        outcome.report()
    );
    // A disk that is full.
    let outcome = world.env(settings::TRACE, "/dev/full").run_with("stream-like", PLAIN).ok();
    assert!(outcome.stdout.starts_with("right ") && outcome.log.contains("the trace ends"), "{}", outcome.report());
    assert!(outcome.stderr.is_empty());
    // A driver that fails in the midst of it ends the trace and nothing else.
    let (world, path) = traced(7);
    let world = world.env("SIMGPU_FAIL", "cuEventElapsedTime:20:999");
    let outcome = world.run_with("stream-like", PLAIN).ok();
    assert!(outcome.stdout.starts_with("right ") && outcome.log.contains("the trace ends"), "{}", outcome.report());
    Trace::read(&path);
}

#[test]
fn copies_that_are_served_are_bars_behind_the_copies_they_read() {
    for form in [&["3", "5"][..], &["3", "5", "async"], &["3", "5", "per-thread"]] {
        let world = World::new()
            .vram("64MiB")
            .env(settings::HOST_COPY_PREFETCH, "on")
            .env(settings::RING, "2MiB")
            .delays(8)
            .hooked();
        let path = world.file("trace.json");
        let world = world.env(settings::TRACE, &path);
        let outcome = world.run_with("host-copies-like", form).ok();
        assert!(outcome.stdout.starts_with("right "), "{}", outcome.report());
        let trace = Trace::read(&path);
        let served = trace.bars("launch");
        assert!(!served.is_empty() && served.iter().all(|bar| bar.name == "the program's copy"), "{form:?} {served:?}");
        assert_eq!(trace.wrong_reads(), Vec::<String>::new());
    }
}
