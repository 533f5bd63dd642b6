//! Memory at one range of addresses, whatever tier it is in: copies, queries, eviction, scratch, several devices.

use integration_tests::World;

#[test]
fn copies_and_memsets_of_every_kind_match_a_host_model() {
    for seed in 1..=6u64 {
        let backing = if seed % 2 == 0 { "memfd" } else { "host-numa" };
        let form: &[&str] = if seed % 3 == 0 { &["per-thread"] } else { &[] };
        let world = World::new().hooked().delays(seed).env("GREENBOOST_BACKINGS", backing);
        let seed = seed.to_string();
        let arguments: Vec<_> = std::iter::once(seed.as_str()).chain(form.iter().copied()).collect();
        let outcome = world.run_with("copies", &arguments).ok();
        assert!(outcome.caught(), "{}", outcome.report());
    }
}

#[test]
fn the_copies_fixture_agrees_with_the_plain_driver() {
    for arguments in [&["7"][..], &["8", "per-thread"]] {
        let world = World::new().vram("64MiB").env("GB_FIXTURE_BYTES", (30 << 20).to_string());
        let outcome = world.run_with("copies", arguments).ok();
        assert!(outcome.caught(), "{}", outcome.report());
    }
}

#[test]
fn queries_tell_one_consistent_story() {
    const VRAM: u64 = 16 << 20;
    const RAM: u64 = 256 << 20;
    for backing in ["host-numa", "memfd"] {
        let world = World::new().hooked().env("GREENBOOST_RAM", "256MiB").env("GREENBOOST_BACKINGS", backing);
        let outcome = world.run("queries").ok();
        let json = outcome.json();
        let value = |key: &str| json[key].as_u64().unwrap_or_else(|| panic!("no {key}\n{}", outcome.report()));
        let (base, bytes) = (value("base"), value("bytes"));
        assert_eq!(value("alloc"), 0);
        for when in ["before", "during", "after"] {
            let of = |key: &str| value(&format!("{when}_{key}"));
            // Total is physical: Ollama derives its default context from it. Free may exceed it.
            for key in ["total", "total_alone", "nvml_total", "nvml_v2_total"] {
                assert_eq!(of(key), VRAM, "{when}_{key}\n{}", outcome.report());
            }
            for key in ["free_alone", "nvml_free", "nvml_v2_free"] {
                assert_eq!(of(key), of("free"), "{when}_{key}\n{}", outcome.report());
            }
            assert!(of("free") <= VRAM + RAM, "{when}: free {}\n{}", of("free"), outcome.report());
        }
        assert!(value("before_free") > RAM, "free is not extended\n{}", outcome.report());
        assert!(value("during_free") <= value("before_free") - bytes, "{}", outcome.report());
        assert!(value("after_free").abs_diff(value("before_free")) <= 4 << 20, "{}", outcome.report());
        for place in ["first", "middle", "last"] {
            let of = |key: &str| value(&format!("{place}_{key}"));
            assert_eq!(of("type"), 2, "device memory\n{}", outcome.report());
            assert_eq!((of("ordinal"), of("same_pointer")), (0, 1), "{}", outcome.report());
            assert_eq!((of("start"), of("size")), (base, bytes), "{place}\n{}", outcome.report());
            assert_eq!((of("range_start"), of("range_size")), (base, bytes), "{place}\n{}", outcome.report());
        }
        assert_ne!(value("ipc_large"), 0, "a handle to memory that cannot be shared");
        assert_ne!(value("free_inside"), 0);
        assert_ne!(value("free_twice"), 0);
        assert_ne!(value("attribute_after_free"), 0);
    }
}

#[test]
fn queries_that_do_not_concern_us_are_answered_as_without_us() {
    let plain = World::new().run("queries").ok().json();
    let hooked = World::new().hooked().run("queries").ok().json();
    for key in ["device_total", "zero_bytes", "null_pointer", "too_large", "ipc_small", "small_type", "free_null"] {
        assert_eq!(plain[key], hooked[key], "{key}");
    }
}

#[test]
fn later_allocations_find_vram_and_every_byte_survives_the_move() {
    for seed in 1..=4u64 {
        let backing = if seed % 2 == 0 { "memfd" } else { "host-numa" };
        let outcome = World::new().hooked().delays(seed).env("GREENBOOST_BACKINGS", backing).run("pressure").ok();
        assert!(outcome.caught(), "{}", outcome.report());
    }
}

#[test]
fn ggmls_scratch_pool_gets_vram_and_never_spills() {
    for seed in 1..=2u64 {
        let outcome = World::new().hooked().delays(seed).run("vmm-pool").ok();
        assert!(outcome.caught(), "{}", outcome.report());
    }
}

#[test]
fn stream_ordered_and_captured_allocations_hold_their_bytes() {
    for seed in 1..=4u64 {
        let outcome = World::new().hooked().delays(seed).run("async-alloc").ok();
        assert!(outcome.caught(), "{}", outcome.report());
    }
    let missed = World::new().run("async-alloc").ok();
    assert!(!missed.caught(), "{}", missed.report());
}

#[test]
fn the_devices_fixture_agrees_with_the_plain_driver() {
    let world = World::new().vram("32MiB,32MiB").env("GB_FIXTURE_BYTES", (10 << 20).to_string());
    let outcome = world.run("devices").ok();
    assert_eq!(outcome.stdout.matches("caught=1").count(), 2, "{}", outcome.report());
}

#[test]
fn every_device_has_a_budget_of_its_own() {
    let outcome = World::new().vram("16MiB,8MiB").hooked().run("devices").ok();
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{}", outcome.report());
    assert!(lines[0].starts_with("device=0 caught=1") && lines[1].starts_with("device=1 caught=1"), "{lines:?}");
}

#[test]
fn a_program_that_must_not_spill_gets_out_of_memory() {
    let outcome = World::new().hooked().env("GREENBOOST_SPILL", "never").run("dlsym").ok();
    assert!(!outcome.caught(), "{}", outcome.report());
}

#[test]
fn ordinary_memory_has_no_handles_wherever_it_is() {
    let plain = World::new().vram("64MiB").run("handles").ok();
    for vram in ["48MiB", "12MiB"] {
        let world = World::new().vram("64MiB").env("GREENBOOST_VRAM", vram).env("GREENBOOST_THRESHOLD", "4MiB");
        let outcome = world.hooked().run("handles").ok();
        // Chunks are no DMA-BUF; programs copy then.
        let expected = plain.stdout.replace("alloc range=0", "alloc range=801");
        assert_eq!(outcome.stdout, expected, "{vram}\n{}", outcome.report());
    }
}
