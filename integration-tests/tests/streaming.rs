//! Streaming: whatever a program does, its kernels read what they would have read without it.
//!
//! The program (`fixtures/c/stream_like.c`) is made of chance and compares every byte that a kernel read with a plain copy
//! on the host. Its seed and that of the simulated GPU's delays are in the command that a failure shows.

use greenboost_contract::settings;
use integration_tests::tier_map::TierMap;
use integration_tests::{Outcome, World};

/// Weights of about 7 MiB where half of that is left of the VRAM, streamed through a ring of `ring`.
fn streaming(ring: &str) -> World {
    World::new()
        .vram("128MiB")
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

/// What the engine says of itself at its end.
#[derive(Debug, Default)]
struct Counts {
    hits: u64,
    misses: u64,
    in_place: u64,
    /// Whether bytes were copied outside of graphs, and inside.
    direct: bool,
    captured: bool,
}

fn counts(world: &World) -> Counts {
    let log = std::fs::read_to_string(world.file("hook.log")).expect("a log");
    let line = log.lines().rfind(|line| line.contains(": streamed ")).unwrap_or_else(|| panic!("{log}"));
    let words: Vec<_> = line.split([' ', ',', ';', '(']).filter(|word| !word.is_empty()).collect();
    let before = |word: &str, back: usize| {
        let at = words.iter().position(|found| *found == word).unwrap_or_else(|| panic!("no '{word}' in {line}"));
        words[at - back].to_owned()
    };
    let number =
        |word, back| before(word, back).parse().unwrap_or_else(|_| panic!("no number before '{word}' in {line}"));
    Counts {
        hits: number("found", 2),
        misses: number("ask", 3),
        in_place: number("read", 1),
        direct: !line.contains("streamed 0 B,"),
        captured: before("more", 2) != "0",
    }
}

#[test]
fn the_program_is_right_without_us() {
    right(&World::new().vram("128MiB").delays(1), &["1", "10"]);
    right(&World::new().vram("128MiB").delays(1), &["1", "3", "large"]);
}

#[test]
fn weights_in_place_are_right() {
    right(&streaming("2MiB").env(settings::STREAM, "off").delays(2), &["1", "5"]);
}

/// 500 programs, each with other delays: rings from one slot on, both backings, orders that can be guessed and not.
#[test]
fn random_programs_read_the_right_bytes() {
    const THREADS: u64 = 5;
    let some = |process: u64| {
        let ring = ["2MiB", "4MiB", "6MiB"][process as usize % 3];
        let mut arguments = vec![(process * 10).to_string(), "10".to_owned()];
        arguments.extend((process % 5 == 1).then(|| "in-order".to_owned()));
        arguments.extend((process % 7 == 2).then(|| "no-graphs".to_owned()));
        let world =
            streaming(ring).env(settings::BACKINGS, ["host-numa", "memfd"][process as usize % 2]).delays(process);
        right(&world, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    };
    // They mostly wait for the delays.
    std::thread::scope(|scope| {
        (0..THREADS).for_each(|first| drop(scope.spawn(move || (first..50).step_by(THREADS as usize).for_each(some))));
    });
}

#[test]
fn one_slot_is_enough_to_be_right() {
    for seed in 0..6u64 {
        let world = streaming("2MiB").delays(seed);
        right(&world, &[&(seed * 100).to_string(), "2", "large"]);
        let counts = counts(&world);
        assert!(counts.misses > 100 && counts.hits * 4 < counts.misses, "{counts:?}");
    }
}

#[test]
fn an_order_that_repeats_is_guessed_and_graphs_copy_by_themselves() {
    let world = streaming("4MiB").delays(3);
    right(&world, &["7", "1", "in-order", "no-writes", "no-graphs", "no-reloads"]);
    let guessed = counts(&world);
    assert!(guessed.direct && !guessed.captured && guessed.in_place == 0, "{guessed:?}");
    assert!(guessed.hits > guessed.misses, "{guessed:?}");
    let world = streaming("4MiB").delays(3);
    right(&world, &["7", "3"]);
    assert!(counts(&world).captured);
}

#[test]
fn kernels_of_a_library_are_streamed_for_as_functions_of_a_module_are() {
    let streamed = |options: &[&str]| {
        let world = streaming("4MiB").delays(4);
        right(&world, &[&["3", "2", "no-graphs"], options].concat());
        let counts = counts(&world);
        (counts.hits + counts.misses, counts.in_place)
    };
    assert_eq!(streamed(&["library"]), streamed(&[]));
}

#[test]
fn without_room_for_slots_weights_are_read_in_place() {
    let world = streaming("64MiB").delays(5);
    right(&world, &["1", "3"]);
    let log = std::fs::read_to_string(world.file("hook.log")).expect("a log");
    assert!(log.contains("of VRAM to stream through"), "{log}");
    // The budget has it, the driver does not.
    let world = streaming("2MiB").env("SIMGPU_FAIL", "cuStreamCreate:5").delays(5);
    right(&world, &["1", "3"]);
}

#[test]
fn what_is_streamed_survives_the_end_of_its_context() {
    right(&streaming("4MiB").delays(6), &["1", "2", "reset"]);
}

#[test]
fn planted_faults_are_noticed() {
    for fault in ["missing-readers", "missing-copy", "stale-slot", "no-hand-over"] {
        let noticed = (0..12u64).any(|seed| {
            let world = streaming("2MiB").env("GREENBOOST_PLANT", fault).delays(seed);
            let outcome = world.run_with("stream-like", &[&(seed * 10).to_string(), "5"]);
            assert!(outcome.status.success() || outcome.stderr.contains("read wrong bytes"), "{}", outcome.report());
            !outcome.status.success()
        });
        assert!(noticed, "{fault} went unnoticed");
    }
}

/// A weight that lies outside VRAM in part needs a slot as large as one that lies there whole.
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
        let homes: Vec<_> = map.tensors.iter().map(|tensor| map.homes(&tensor.name)).collect();
        let in_vram = homes.iter().filter(|homes| homes.iter().all(|home| *home == "vram")).count();
        let in_ram = homes.iter().filter(|homes| homes.iter().all(|home| *home != "vram")).count();
        (in_vram, in_ram, homes.len() - in_vram - in_ram)
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
