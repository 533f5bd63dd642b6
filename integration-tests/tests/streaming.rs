//! Streaming: whatever a program does, its kernels read what they would have read without it.
//!
//! The program (`fixtures/c/stream_like.c`) is made of chance and compares every byte that a kernel read with a plain copy
//! on the host. Its seed and that of the simulated GPU's delays are in the command that a failure shows.

use greenboost_contract::settings;
use integration_tests::streamed::{self, Counts, IN_RAM, world};
use integration_tests::tier_map::TierMap;
use integration_tests::{Outcome, World};
use std::ops::Range;
use std::sync::Mutex;

#[track_caller]
fn right(world: &World, arguments: &[&str]) -> Outcome {
    streamed::right(world, "stream-like", arguments)
}

#[test]
fn the_program_is_right_without_us() {
    let updated = right(&World::new().vram("128MiB").delays(1), &["1", "10"]).number("updated");
    assert!(updated > 5, "graphs were hardly ever captured again: {updated}");
    right(&World::new().vram("128MiB").delays(1), &["1", "3", "large"]);
}

#[test]
fn weights_in_place_are_right() {
    right(&world("2MiB").env(settings::STREAM, "off").delays(2), &["1", "5"]);
}

/// Choices that a seed makes.
struct Dice(u64);

impl Dice {
    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        choices[(self.0 >> 33) as usize % choices.len()]
    }
}

/// What the seed chooses for a world: a ring from one staging slot to more than all weights, budgets that hold few of them or all
/// until something else is allocated, placement by rule, kernels in place or streamed by rule, or streamed without a rule, both
/// backings, new addresses or the old ones again, a link that takes its time.
fn any_world(seed: u64) -> (World, Vec<&'static str>) {
    let mut dice = Dice(seed);
    dice.one_of(&[()]);
    let place = dice.one_of(&[
        "",
        "",
        IN_RAM,
        "blk\\.[0-9]\\.\tvram\t90\t\t0",
        "[02468]\\.ffn\tram\t50\t\t0\nffn\tauto\t20\t\t300000",
        "ffn\tvram\t10\t3-9\t0\nffn\tauto\t80\t10-15\t0",
    ]);
    let kernels = dice.one_of(&["", "", "gb_checksum_u32\t\tin-place", "early\t\tin-place\ngb\t\\.1.\\.\tstream"]);
    let world = world(dice.one_of(&["2MiB", "4MiB", "6MiB", "12MiB"]))
        .env(settings::VRAM, dice.one_of(&["6MiB", "9MiB", "12MiB", "14MiB", "17MiB"]))
        .env(settings::BACKINGS, dice.one_of(&["host-numa", "memfd"]))
        .env(settings::PLACE, place)
        .env(settings::KERNELS, kernels)
        .env("SIMGPU_ADDRESS_HINTS", dice.one_of(&["0", "1"]))
        .env("SIMGPU_LINK_GBPS", dice.one_of(&["", "", "1"]))
        .delays(seed);
    let mut options = vec![dice.one_of(&["streams=1", "streams=2", "streams=3", "streams=4"])];
    options.extend(
        ["in-order", "no-graphs", "no-pressure", "no-null"]
            .into_iter()
            .filter(|_| dice.one_of(&[true, false, false, false, false])),
    );
    (world, options)
}

/// 500 seeds, or `GB_STREAM_SEEDS=1000..4000` for a longer soak.
fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("GB_STREAM_SEEDS") else { return 0..500 };
    let ends = text.split_once("..").and_then(|(first, end)| Some(first.parse().ok()?..end.parse().ok()?));
    ends.unwrap_or_else(|| panic!("GB_STREAM_SEEDS is FIRST..END, not '{text}'"))
}

/// Programs, each in a world of its own and with other delays.
#[test]
fn random_programs_read_the_right_bytes() {
    // They mostly wait for the delays.
    const AT_ONCE: usize = 6;
    let seeds = seeds();
    let (next, happened) = (Mutex::new(seeds.clone()), Mutex::new([0; 3]));
    let some = || {
        while let Some(seed) = next.lock().ok().and_then(|mut seeds| seeds.next()) {
            let (world, options) = any_world(seed);
            let outcome = right(&world, &[&[seed.to_string().as_str(), "1"], options.as_slice()].concat());
            let moved = outcome.log.contains("from VRAM to RAM").into();
            let counts = outcome.log.contains(": streamed ").then(|| Counts::of(&outcome));
            let in_place = counts.map_or(0, |counts| counts.in_place);
            let mut happened = happened.lock().expect("no panic in here");
            [moved, in_place, outcome.number("updated")]
                .iter()
                .zip(&mut *happened)
                .for_each(|(more, sum)| *sum += more);
        }
    };
    std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(some))));
    // Else chance leaves out what this is about.
    let happened = happened.into_inner().expect("no thread has panicked");
    let often = (seeds.end - seeds.start) / 5;
    assert!(happened.iter().all(|times| *times > often), "weights moved, read in place, graphs updated: {happened:?}");
}

#[test]
fn one_slot_is_enough_to_be_right() {
    for seed in 0..6u64 {
        let world = world("2MiB").delays(seed);
        let counts = Counts::of(&right(&world, &[&(seed * 100).to_string(), "2", "large"]));
        assert!(counts.misses > 100 && counts.hits * 4 < counts.misses, "{counts:?}");
    }
}

#[test]
fn an_order_that_repeats_is_guessed_and_graphs_copy_by_themselves() {
    let world = world("4MiB").delays(3);
    let options = ["in-order", "no-writes", "no-graphs", "no-reloads", "no-null"];
    let guessed = Counts::of(&right(&world, &[&["7", "1"], options.as_slice()].concat()));
    assert!(guessed.streamed > 0.0 && !guessed.captured && guessed.in_place == 0, "{guessed:?}");
    assert!(guessed.hits > guessed.misses, "{guessed:?}");
    assert!(Counts::of(&right(&world, &["7", "3"])).captured);
}

#[test]
fn kernels_of_a_library_are_streamed_for_as_functions_of_a_module_are() {
    let streamed = |options: &[&str]| {
        let world = world("4MiB").delays(4);
        let counts = Counts::of(&right(&world, &[&["3", "2", "no-graphs"], options].concat()));
        (counts.hits + counts.misses, counts.in_place)
    };
    assert_eq!(streamed(&["library"]), streamed(&[]));
}

#[test]
fn without_room_for_slots_weights_are_read_in_place() {
    const REFUSED: &str = "of VRAM to stream through (CUDA_ERROR_OUT_OF_MEMORY)";
    let log = right(&world("64MiB").delays(5), &["1", "3"]).log;
    assert!(log.contains(REFUSED) && !log.contains(": streamed "), "{log}");
    // The budget has it, the driver does not: at one of these calls it is asked for the slots, then for fewer.
    let refused = |call: &str, times: u64, said: &str| {
        (1..9u64).any(|nth| {
            let calls: Vec<_> = (nth..nth + times).map(|nth| format!("{call}:{nth}")).collect();
            let world = world("4MiB").env("SIMGPU_FAIL", calls.join(",")).delays(5);
            let outcome = world.run_with("stream-like", &["1", "1"]);
            // Others of these calls are the program's own.
            outcome.log.contains(said) && outcome.ok().stdout.starts_with("right ")
        })
    };
    for call in ["cuMemCreate", "cuMemAddressReserve", "cuStreamCreateWithPriority"] {
        assert!(refused(call, 3, REFUSED), "{call}");
        assert!(refused(call, 1, "streamed through 2 MiB"), "{call}");
    }
}

#[test]
fn what_is_streamed_ends_with_its_context_and_begins_with_the_next() {
    let outcome = right(&world("4MiB").delays(6), &["1", "2", "reset"]);
    for line in ["are streamed through", ": streamed "] {
        assert_eq!(outcome.log.matches(line).count(), 2, "'{line}'\n{}", outcome.report());
    }
}

#[test]
fn injected_faults_are_noticed() {
    for fault in ["missing-readers", "missing-copy", "stale-slot", "no-hand-over"] {
        let noticed = (0..60u64).any(|seed| {
            let world = world("2MiB").env("GREENBOOST_PLANT", fault).delays(seed);
            let outcome = world.run_with("stream-like", &[&seed.to_string(), "1"]);
            assert!(outcome.status.success() || outcome.stderr.contains("read wrong bytes"), "{}", outcome.report());
            !outcome.status.success()
        });
        assert!(noticed, "{fault} went unnoticed");
    }
}

/// A write whose handler panics reaches the driver alone: nobody says which copies it has staled.
#[test]
fn a_panic_while_weights_are_written_leaves_no_stale_copy() {
    for seed in 0..12u64 {
        let world = world("8MiB").env("GREENBOOST_PLANT", "write-panics").delays(seed);
        // A graph that holds copies is not the same as one that holds none.
        let outcome = world.run_with("stream-like", &[&seed.to_string(), "1", "no-graphs"]).ok();
        assert!(outcome.log.contains("weights are copied anew"), "{}", outcome.report());
    }
}

/// A weight that is partly outside VRAM needs a staging slot as large as one that is outside as a whole.
#[test]
fn weights_give_way_whole_where_they_are_streamed() {
    let world = World::new()
        .vram("192MiB")
        .hooked()
        .env(settings::VRAM, "64MiB")
        .env(settings::THRESHOLD, "2MiB")
        .env(settings::STREAM, "on")
        .env(settings::RING, "6MiB");
    let map = world.file("map.json");
    let world = world.env(settings::MAP, &map);
    let mut target = world.start("llama-like", &["moe", "big-kv", "step"]);
    let parts = |target: &mut integration_tests::Running, step| {
        target.until(step);
        let map = TierMap::read(&map);
        let tiers: Vec<_> = map.tensors.iter().map(|tensor| map.tiers(&tensor.name)).collect();
        let in_vram = tiers.iter().filter(|tiers| tiers.iter().all(|tier| *tier == "vram")).count();
        let in_ram = tiers.iter().filter(|tiers| tiers.iter().all(|tier| *tier != "vram")).count();
        (in_vram, in_ram, tiers.len() - in_vram - in_ram)
    };
    let loaded = parts(&mut target, "loaded");
    target.go_on();
    let computing = parts(&mut target, "ready");
    assert!(computing.1 > loaded.1 + 10, "(in VRAM, in RAM, in both): {loaded:?}, then {computing:?}");
    // Those that share a granule with another remain.
    assert!(computing.2 < loaded.2, "(in VRAM, in RAM, in both): {loaded:?}, then {computing:?}");
    target.go_on();
    target.until("freed");
    target.go_on();
    assert!(target.finish().success());
}
