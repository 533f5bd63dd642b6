//! Weights outside VRAM that stay in the page cache of the model file: the same bytes as in RAM, once, whatever the
//! program does to its mapping, to the weights, or somebody else to the file.

mod model;

use greenboost_contract::settings::{self, GRANULE};
use integration_tests::World;
use integration_tests::streamed::IN_RAM;
use integration_tests::tier_map::TierMap;
use model::{Loaded, Model, PAGE_CACHE, bytes_in, run, sums, world, write};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

#[test]
fn weights_outside_vram_stay_in_the_page_cache_and_are_the_same() {
    let model = Model::new(2);
    let expected = model.expected(&[]);
    for (backing, program) in [("host-numa", "mapped-like"), ("memfd", "mapped-now")] {
        let ram = ["off", "on"].map(|page_cache| {
            let world = world("32MiB", page_cache).env(settings::BACKINGS, backing);
            let loaded = Loaded::start(&world, program, &model, &[]);
            let (map, record) = (loaded.map(), loaded.record());
            let in_files = record.devices[0].page_cache.load(Relaxed);
            assert_eq!(in_files, bytes_in(&map, PAGE_CACHE), "{map:?}");
            let ram = record.ram_used.load(Relaxed);
            assert_eq!(bytes_in(&map, backing), ram);
            match page_cache {
                "on" => assert!(in_files > model.bytes() / 2, "{map:?}\n{}", loaded.target.log()),
                _ => assert_eq!(in_files, 0),
            }
            let own = loaded.own_memory();
            assert_eq!(loaded.status()["devices"][0]["page_cache_bytes"], in_files);
            loaded.finish(&expected);
            (ram, in_files, own)
        });
        let [(copied, _, own_before), (ram, in_files, own)] = ram;
        // One copy: what is in the page cache is not in RAM as well. A page for each tensor may be one granule more.
        assert!(
            copied.abs_diff(ram + in_files) <= GRANULE,
            "{copied} bytes of RAM, then {ram} and {in_files} in files"
        );
        assert!(own + in_files <= own_before + 2 * GRANULE, "{own_before} bytes of memory, then {own}");
    }
}

#[test]
fn a_model_runs_whose_weights_outside_vram_are_more_than_the_ram_it_may_take() {
    let model = Model::new(2);
    let world = |page_cache| world("32MiB", page_cache).env(settings::RAM, "52MiB");
    let without = world("off").run_with("mapped-like", &model.arguments(&[]));
    assert!(without.stderr.contains("cuMemAlloc"), "{}", without.report());
    let world = world("on");
    let loaded = Loaded::start(&world, "mapped-like", &model, &["reload"]);
    assert!(loaded.record().ram_used.load(Relaxed) <= 52 << 20);
    loaded.finish(&model.expected(&[]));
}

#[test]
fn a_write_to_such_a_weight_is_right_and_the_file_stays_as_it_is() {
    let model = Model::new(1);
    let (expected, files) = (model.expected(&["write"]), model.files());
    assert_ne!(expected, model.expected(&[]));
    for (backing, stream) in [("host-numa", "off"), ("memfd", "off"), ("memfd", "on")] {
        let world = world("40MiB", "on").env(settings::BACKINGS, backing).env(settings::STREAM, stream);
        let world = world.env(settings::PLACE, "").env(settings::RING, "32MiB").delays(7);
        let mut loaded = Loaded::start(&world, "mapped-like", &model, &["write"]);
        let before = bytes_in(&loaded.map(), PAGE_CACHE);
        loaded.until("ready");
        let after = bytes_in(&loaded.map(), PAGE_CACHE);
        assert!(after > 0 && after < before, "{before}, then {after} bytes: {}", loaded.target.log());
        assert_eq!(sums(loaded.lines.iter().map(String::as_str)), expected, "{}", loaded.target.log());
        assert!(model.files() == files, "the file was written");
    }
}

#[test]
fn boxes_and_batches_into_such_weights_are_right_and_the_file_stays_as_it_is() {
    let model = Model::new(1);
    let (unwritten, files) = (model.expected(&[]), model.files());
    for way in ["boxes", "batches"] {
        let expected = model.expected(&[way]);
        assert_eq!(expected.iter().zip(&unwritten).filter(|(one, other)| one != other).count(), 4, "{way}");
        for (backing, stream) in [("host-numa", "off"), ("memfd", "off"), ("memfd", "on")] {
            let world = world("40MiB", "on").env(settings::BACKINGS, backing).env(settings::STREAM, stream);
            let world = world.env(settings::PLACE, IN_RAM).env(settings::RING, "32MiB").delays(5);
            let mut loaded = Loaded::start(&world, "mapped-like", &model, &[way]);
            let before = loaded.map();
            loaded.until("ready");
            let after = loaded.map();
            for (what, tier, times) in [("written", backing, 4), ("source", PAGE_CACHE, 1)] {
                let ranges = ranges(&loaded.lines, what);
                assert_eq!(ranges.len(), times);
                for range in ranges {
                    assert!(is_in(PAGE_CACHE, &before, range), "{what} {way} {backing}: {before:?}");
                    assert!(is_in(tier, &after, range), "{what} {way} {backing}: {after:?}");
                }
            }
            assert_eq!(sums(loaded.lines.iter().map(String::as_str)), expected, "{}", loaded.target.log());
            assert!(model.files() == files, "the file was written");
        }
    }
}

/// Addresses and bytes that lines give after a word.
fn ranges(lines: &[String], word: &str) -> Vec<(u64, u64)> {
    let range = |line: &String| {
        let (at, bytes) = line.strip_prefix(word)?.trim().split_once(' ')?;
        Some((at.parse().ok()?, bytes.parse().ok()?))
    };
    lines.iter().filter_map(range).collect()
}

/// Whether every granule that a range touches is in this tier.
fn is_in(tier: &str, map: &TierMap, (at, bytes): (u64, u64)) -> bool {
    let allocation = map.allocations.iter().find(|it| it.has(at)).expect("its allocation");
    allocation.granules[allocation.touched(at, bytes)].iter().all(|granule| granule == tier)
}

#[test]
fn streamed_weights_are_copied_out_of_the_page_cache() {
    let model = Model::new(2);
    let world = world("64MiB", "on").env(settings::STREAM, "on").env(settings::RING, "32MiB");
    let mut loaded = Loaded::start(&world, "mapped-like", &model, &["again"]);
    assert!(bytes_in(&loaded.map(), PAGE_CACHE) > 32 << 20, "{:?}", loaded.map());
    loaded.until("again");
    let streamed = loaded.record().devices[0].streamed.load(Relaxed);
    assert!(streamed > bytes_in(&loaded.map(), PAGE_CACHE), "{streamed} bytes streamed: {}", loaded.target.log());
    loaded.finish(&[model.expected(&[]), model.expected(&[])].concat());
}

#[test]
fn a_captured_write_is_refused_since_it_would_fault_later() {
    let model = Model::new(1);
    let (printed, log) = run(&world("8MiB", "on"), "mapped-like", &model, &["captured"]);
    // What writes nothing new is no reason to refuse.
    assert!(printed.contains("captured 801\nuploaded 0\n"), "{printed}");
    assert!(log.contains("cannot be written"), "{log}");
    assert_eq!(sums(printed.lines()), model.expected(&[]));
    let (printed, _) = run(&world("8MiB", "off"), "mapped-like", &model, &["captured"]);
    assert!(printed.contains("captured 0\nuploaded 0\n"), "{printed}");
}

#[test]
fn what_becomes_of_the_programs_mapping_changes_nothing() {
    let model = Model::new(2);
    let expected = model.expected(&["reuse"]);
    let world = world("32MiB", "on");
    let loaded = Loaded::start(&world, "mapped-like", &model, &["reuse"]);
    assert!(bytes_in(&loaded.map(), PAGE_CACHE) > 32 << 20);
    loaded.finish(&expected);
}

#[test]
fn a_private_mapping_serves_as_well_and_a_context_that_is_reset_or_a_model_that_is_loaded_anew_leave_nothing() {
    let model = Model::new(2);
    let expected = model.expected(&[]);
    for option in ["private", "reload", "reset"] {
        let world = world("32MiB", "on").env(settings::BACKINGS, "memfd");
        let loaded = Loaded::start(&world, "mapped-like", &model, &[option]);
        let in_files = bytes_in(&loaded.map(), PAGE_CACHE);
        assert!(in_files > 32 << 20, "{option}: {in_files}\n{}", loaded.target.log());
        assert_eq!(loaded.record().devices[0].page_cache.load(Relaxed), in_files);
        loaded.finish(&expected);
    }
}

#[test]
fn copies_that_are_served_ahead_do_not_write_to_a_file() {
    let model = Model::new(1);
    let world = world("40MiB", "on")
        .env(settings::STREAM, "on")
        .env(settings::HOST_COPY_PREFETCH, "on")
        .env(settings::RING, "24MiB");
    let mut loaded = Loaded::start(&world, "mapped-like", &model, &["reload"]);
    assert!(bytes_in(&loaded.map(), PAGE_CACHE) > 16 << 20, "{}", loaded.target.log());
    loaded.until("ready");
    // What host-copy prefetch has registered stays so until the context ends.
    assert_eq!(sums(loaded.lines.iter().map(String::as_str)), model.expected(&[]), "{}", loaded.target.log());
    assert!(!loaded.target.log().contains(" ERROR "), "{}", loaded.target.log());
}

#[test]
fn a_forked_child_has_no_part_in_the_pages() {
    let model = Model::new(1);
    let (printed, _) = run(&world("8MiB", "on"), "mapped-like", &model, &["fork"]);
    assert!(printed.contains("inherited 0\n"), "{printed}");
    assert_eq!(sums(printed.lines()), model.expected(&[]));
}

#[test]
fn what_is_hot_takes_vram_from_weights_and_they_stay_right() {
    let model = Model::new(2);
    let world = world("48MiB", "on");
    let mut loaded = Loaded::start(&world, "mapped-like", &model, &["hot"]);
    let before = loaded.record().devices[0].page_cache.load(Relaxed);
    loaded.until("ready");
    let after = loaded.record();
    assert!(after.devices[0].moved_out.load(Relaxed) > 16 << 20, "{}", loaded.target.log());
    // What leaves VRAM goes where it came from; only granules that tensors share are copied.
    let in_files = after.devices[0].page_cache.load(Relaxed);
    assert!(in_files > before + (8 << 20), "{before}, then {in_files} bytes: {}", loaded.target.log());
    assert_eq!(sums(loaded.lines.iter().map(String::as_str)), model.expected(&["hot"]), "{}", loaded.target.log());
}

#[test]
fn weights_that_were_written_in_vram_are_copied_when_they_leave_it() {
    let model = Model::new(1);
    let (expected, files) = (model.expected(&["write", "hot"]), model.files());
    for (backing, stream) in [("host-numa", "off"), ("memfd", "on")] {
        let world = world("80MiB", "on").env(settings::BACKINGS, backing).env(settings::STREAM, stream).delays(3);
        let mut loaded = Loaded::start(&world, "mapped-like", &model, &["write", "hot"]);
        assert_eq!(bytes_in(&loaded.map(), PAGE_CACHE), 0, "all of it fits: {}", loaded.target.log());
        loaded.until("ready");
        let map = loaded.map();
        assert!(bytes_in(&map, PAGE_CACHE) > 0 && bytes_in(&map, backing) > 8 << 20, "{map:?}");
        assert_eq!(sums(loaded.lines.iter().map(String::as_str)), expected, "{}", loaded.target.log());
        assert!(model.files() == files, "the file was written");
    }
}

#[test]
fn bytes_that_are_not_uploaded_from_the_mapping_are_taken_as_they_come() {
    let model = Model::new(2);
    let expected = model.expected(&["read"]);
    for (option, times) in [("read", 1), ("no-map", 0), ("no-map-again", 1)] {
        let world = world("32MiB", "on");
        let loaded = Loaded::start(&world, "mapped-like", &model, &[option]);
        assert_eq!(bytes_in(&loaded.map(), PAGE_CACHE), 0, "{option}: {}", loaded.target.log());
        let log = loaded.finish(&expected);
        assert_eq!(log.matches("in the page cache of the model file").count(), times, "{option}: {log}");
    }
}

/// Where each tensor is, from the first one on.
fn places(printed: &str) -> Vec<u64> {
    let address = |line: &str| line.strip_prefix("tensor ")?.split(' ').nth(1)?.parse::<u64>().ok();
    let all: Vec<_> = printed.lines().filter_map(address).collect();
    all.iter().map(|at| at - all[0]).collect()
}

#[test]
fn nothing_is_put_elsewhere_with_the_feature_off_or_where_ggmls_calls_are_not_seen() {
    let model = Model::new(2);
    let expected = model.expected(&[]);
    let plain = run(&World::new().vram("512MiB"), "mapped-like", &model, &[]).0;
    let (shifted, _) = run(&world("32MiB", "on"), "mapped-like", &model, &[]);
    assert_ne!(places(&plain), places(&shifted));
    for (program, page_cache, option) in [
        ("mapped-like", "off", "again"),
        ("mapped-sizes", "on", "again"),
        ("mapped-bare", "on", "again"),
        ("mapped-like", "on", "no-map"),
    ] {
        let (printed, log) = run(&world("32MiB", page_cache), program, &model, &[option]);
        assert_eq!(places(&printed), places(&plain), "{program} {page_cache} {option}");
        assert!(!log.contains("in the page cache of the model file"), "{program} {page_cache}: {log}");
        assert_eq!(sums(printed.lines())[..expected.len()], expected);
    }
}

#[test]
fn a_driver_that_does_not_register_the_pages_gets_ram() {
    let model = Model::new(2);
    let expected = model.expected(&[]);
    for (name, how) in [("SIMGPU_HOST_REGISTER", "fail"), ("SIMGPU_READ_ONLY", "unsupported")] {
        assert_says_why(&world("32MiB", "on").env(name, how), "the device says that it cannot", &model, &expected);
    }
    let first = world("32MiB", "on").env("SIMGPU_FAIL", "cuMemHostRegister:1:999");
    assert_says_why(&first, "registering them failed with CUDA_ERROR_UNKNOWN", &model, &expected);

    let sometimes = "cuMemHostRegister:2:2,cuMemHostRegister:5:999,cuMemHostGetDevicePointer:4:1";
    let sometimes = world("32MiB", "on").env("SIMGPU_FAIL", sometimes);
    let loaded = Loaded::start(&sometimes, "mapped-like", &model, &[]);
    assert!(bytes_in(&loaded.map(), PAGE_CACHE) > 32 << 20);
    assert!(loaded.target.log().contains("was not registered: CUDA_ERROR_UNKNOWN"), "{}", loaded.target.log());
    loaded.finish(&expected);
}

#[test]
fn a_board_whose_kernels_do_not_read_files_whatever_it_says_gets_ram() {
    let model = Model::new(1);
    let expected = model.expected(&[]);
    let ways = [
        ("unreadable", "the probe kernel failed with CUDA_ERROR_ILLEGAL_ADDRESS"),
        ("stale", "other bytes than the file has"),
    ];
    for (how, why) in ways {
        for backing in ["host-numa", "memfd"] {
            let world = world("16MiB", "on").env("SIMGPU_READ_ONLY", how).env(settings::BACKINGS, backing);
            assert_says_why(&world, why, &model, &expected);
        }
    }
}

/// Runs where weights stay in RAM and in no file; what the status says of it.
#[track_caller]
fn assert_says_why(world: &World, why: &str, model: &Model, expected: &[String]) {
    let loaded = Loaded::start(world, "mapped-like", model, &[]);
    assert_eq!(bytes_in(&loaded.map(), PAGE_CACHE), 0, "{why}");
    assert!(loaded.record().ram_used.load(Relaxed) > 0, "{why}");
    let status = loaded.status();
    let reason = status["backing_reason"].as_str().expect("text");
    let (ram, files) = reason.split_once("; not file pages: ").unwrap_or_else(|| panic!("{reason}"));
    assert!(ram.ends_with("a kernel reads and writes it") && files.contains(why), "{reason}");
    loaded.finish(expected);
}

#[test]
fn files_are_tried_in_the_context_of_the_backing_and_only_where_they_are_wanted() {
    let model = Model::new(1);
    let [off, on] = ["off", "on"].map(|page_cache| {
        let world = world("16MiB", page_cache);
        let trace = world.file("calls");
        let world = world.env("SIMGPU_TRACE", &trace);
        let (_, log) = run(&world, "mapped-like", &model, &[]);
        assert_eq!(log.contains("file pages: a kernel reads them"), page_cache == "on", "{log}");
        let calls = fs::read_to_string(trace).expect("calls");
        let made = |name| calls.lines().filter(|call| call.starts_with(name)).count();
        ["cuCtxCreate", "cuModuleLoadData", "cuModuleGetFunction"].map(made)
    });
    assert_eq!(on, [off[0], off[1], off[2] + 1]);
}

#[test]
fn a_file_that_was_just_written_is_not_believed() {
    let model = Model::new(1);
    let file = File::options().write(true).open(&model.parts[0]).expect("our own");
    file.set_modified(SystemTime::now() + Duration::from_secs(1)).expect("our own");
    let world = world("32MiB", "on");
    let loaded = Loaded::start(&world, "mapped-like", &model, &[]);
    assert_eq!(bytes_in(&loaded.map(), PAGE_CACHE), 0);
    loaded.finish(&model.expected(&[]));
}

#[test]
fn a_file_that_is_replaced_by_another_name_goes_on_being_read() {
    let model = Model::new(1);
    let expected = [model.expected(&[]), model.expected(&[])].concat();
    let world = world("16MiB", "on");
    let mut loaded = Loaded::start(&world, "mapped-like", &model, &["again"]);
    loaded.until("again");
    let new = model.parts[0].with_extension("new");
    write(&new, 9);
    fs::rename(&new, &model.parts[0]).expect("our own");
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(loaded.record().files_changed.load(Relaxed), 0);
    loaded.finish(&expected);
}

#[test]
fn a_file_that_is_changed_or_cut_off_in_place_is_reported_at_the_next_launches() {
    type Change = (&'static str, fn(&File));
    let changes: [Change; 2] = [
        ("written", |file| file.write_all_at(b"GGUF", 0).expect("our own")),
        // The last granule is not the file's, so that nothing is missing.
        ("cut off", |file| file.set_len(file.metadata().expect("our own").len() - 32).expect("our own")),
    ];
    for (name, change) in changes {
        let model = Model::new(1);
        let expected = model.expected(&[]);
        let world = world("16MiB", "on");
        let mut loaded = Loaded::start(&world, "mapped-like", &model, &["again"]);
        loaded.until("again");
        assert!(!loaded.target.log().contains("changed while weights are read"));
        change(&File::options().write(true).open(&model.parts[0]).expect("our own"));
        std::thread::sleep(Duration::from_millis(1100));
        loaded.until("ready");
        let log = loaded.target.log();
        assert_eq!(log.matches("changed while weights are read").count(), 1, "{name}: {log}");
        assert_eq!(loaded.record().files_changed.load(Relaxed), 1);
        assert_eq!(loaded.status()["model_files_changed"], 1);
        // Neither change is one of bytes that are weights.
        assert_eq!(sums(loaded.lines.iter().map(String::as_str)), [&expected[..], &expected[..]].concat());
    }
}

#[test]
fn gb_launch_turns_it_on() {
    let model = Model::new(1);
    let world = World::new().vram("512MiB").env(settings::THRESHOLD, "2MiB").env(settings::CHUNK, "2MiB");
    let map = world.file("map.json").display().to_string();
    let flags = ["--vram", "16MiB", "--ram", "1GiB", "--stream", "off", "--page-cache", "on", "--map", &map];
    let world = world.launched(&flags);
    let loaded = Loaded::start(&world, "mapped-like", &model, &[]);
    assert!(bytes_in(&loaded.map(), PAGE_CACHE) > 16 << 20);
    loaded.finish(&model.expected(&[]));
}
