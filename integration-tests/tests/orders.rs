//! Memory in the order of streams: what is freed and allocated again, and on which device.

use greenboost_contract::settings;
use integration_tests::streamed::{Counts, IN_RAM, right, world};
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

/// Twice the VRAM of each device, made and freed while the other device is current.
#[test]
fn stream_ordered_memory_is_on_the_device_of_its_stream_or_pool() {
    for arguments in [&[][..], &["default"], &["pool"], &["pool", "per-thread"]] {
        let small = World::new().vram("32MiB,16MiB").env("GB_FIXTURE_BYTES", (10 << 20).to_string());
        let plain = small.run_with("other-device", arguments).ok();
        assert_eq!(plain.stdout.matches("bytes=").count(), 2, "{}", plain.report());
        let hooked = World::new().vram("16MiB,8MiB").env(settings::THRESHOLD, "4MiB").hooked();
        let outcome = hooked.run_with("other-device", arguments).ok();
        let expected = format!("device=0 bytes={}\ndevice=1 bytes={}\n", 32 << 20, 16 << 20);
        assert_eq!(outcome.stdout, expected, "{arguments:?}\n{}", outcome.report());
        let budgets = ["device 0 (", "device 1 ("].map(|device| outcome.log.lines().find(|line| line.contains(device)));
        let sizes = budgets.map(|line| line.and_then(|line| line.split(" of ").nth(1)).unwrap_or_default().to_owned());
        assert_eq!(sizes, ["16 MiB", "8 MiB"], "{}", outcome.report());
    }
}

#[test]
fn weights_are_streamed_right_while_another_device_is_current() {
    for seed in 1..=3u64 {
        let plain = World::new().vram("128MiB,64MiB").delays(seed);
        right(&plain, "stream-elsewhere", &["2"]);
        let world = world("4MiB").vram("128MiB,64MiB").env(settings::PLACE, IN_RAM).delays(seed);
        let outcome = right(&world, "stream-elsewhere", &["2"]);
        let counts = Counts::of(&outcome);
        assert!(counts.captured && counts.hits > 0, "{counts:?}\n{}", outcome.report());
    }
}

/// How often functions of the driver were called, whoever called them.
fn called(world: &World, names: &[&str]) -> usize {
    let trace = std::fs::read_to_string(world.file("calls")).expect("what the driver was asked");
    trace.lines().filter(|line| names.iter().any(|name| line.starts_with(name))).count()
}

#[test]
fn captures_that_make_no_graph_leave_nothing_and_end_no_streaming() {
    let plain = World::new().vram("128MiB");
    right(&plain, "stream-spoiled", &["2"]);
    let made = |times: &str| {
        let world = world("4MiB").env(settings::PLACE, IN_RAM);
        let calls = world.file("calls");
        let world = world.env("SIMGPU_TRACE", calls);
        let outcome = right(&world, "stream-spoiled", &[times]);
        assert!(Counts::of(&outcome).hits > 0, "{}", outcome.report());
        (called(&world, &["cuStreamCreate"]), called(&world, &["cuEventCreate"]))
    };
    let ((few_streams, few_events), (many_streams, many_events)) = (made("2"), made("8"));
    assert_eq!(few_streams, many_streams);
    assert!(many_events <= few_events + 4, "{few_events}, then {many_events}");
}
