//! Host-copy prefetch: a framework's own copies of weights from its model file are served from VRAM, and whatever
//! happens to mapping and file, every copy is what the program saw at its source.

use greenboost_contract::record;
use greenboost_contract::settings;
use integration_tests::{Outcome, World};
use std::sync::atomic::Ordering::Relaxed;

const TENSORS: u64 = 12;

/// Tensors of about 5 MiB in all, served through `ring`.
fn prefetching(ring: &str) -> World {
    World::new().vram("64MiB").env(settings::HOST_COPY_PREFETCH, "on").env(settings::RING, ring).hooked()
}

#[track_caller]
fn right(world: &World, arguments: &[&str]) -> Outcome {
    let outcome = world.run_with("host-copies-like", arguments).ok();
    assert!(outcome.stdout.starts_with("right "), "{arguments:?}\n{}", outcome.report());
    outcome
}

/// What the status record says at the end of a run.
#[derive(Debug)]
struct Counters {
    copies: u64,
    served: u64,
    served_bytes: u64,
    streamed: u64,
    hits: u64,
    file_bytes: u64,
    ring: u64,
}

/// The same run, with a look at the record before the program ends.
#[track_caller]
fn counted(world: &World, arguments: &[&str]) -> Counters {
    let arguments: Vec<_> = arguments.iter().copied().chain(["wait"]).collect();
    let mut program = world.start("host-copies-like", &arguments);
    let lines = program.until("done");
    let copies = lines.iter().find_map(|line| line.strip_prefix("right ")).expect("it says so").parse();
    let record = record::of_process(program.pid()).expect("a record");
    let device = &record.devices[0];
    let counters = Counters {
        copies: copies.expect("a number"),
        served: device.prefetched_copies.load(Relaxed),
        served_bytes: device.prefetched_bytes.load(Relaxed),
        streamed: device.streamed.load(Relaxed),
        hits: device.slot_hits.load(Relaxed),
        file_bytes: record.file_bytes.load(Relaxed),
        ring: device.vram_ring.load(Relaxed),
    };
    program.go_on();
    assert!(program.finish().success());
    counters
}

const FORMS: [&[&str]; 4] = [&[], &["async"], &["thread"], &["per-thread"]];

#[test]
fn the_program_is_right_without_us() {
    let world = World::new().vram("64MiB").delays(1);
    for options in [&[][..], &["async", "random"], &["thread", "experts", "ggml"], &["per-thread", "threads"]] {
        right(&world, &[&["1", "4"], options].concat());
    }
    for change in ["unmap", "syscall", "remap", "cow", "rights", "write", "truncate", "replace", "reset"] {
        right(&world, &["2", "5", change]);
    }
    for change in ["free", "set", "reset", "allocated"] {
        right(&world, &["2", "5", "pinned", change]);
    }
}

#[test]
fn what_comes_again_is_served_from_vram() {
    for (seed, form) in FORMS.iter().enumerate() {
        let arguments = [&["3", "5"], *form].concat();
        let counters = counted(&prefetching("2MiB").delays(seed as u64), &arguments);
        assert_eq!(counters.copies, 5 * TENSORS, "{form:?} {counters:?}");
        // The first pass shows what there is.
        assert_eq!(counters.served, 4 * TENSORS, "{form:?} {counters:?}");
        assert!(counters.served_bytes >= counters.served * (64 << 10), "{form:?} {counters:?}");
        // From the third pass on, all but a few are on their way before they are asked for.
        assert!(counters.hits >= 2 * TENSORS, "{form:?} {counters:?}");
        assert!(counters.streamed >= counters.served_bytes * 9 / 10, "the ring holds a part only: {counters:?}");
        assert!(counters.file_bytes > 0 && counters.ring == 2 << 20, "{counters:?}");
    }
}

#[test]
fn pinned_weights_that_come_again_are_served_from_vram() {
    for (seed, form) in FORMS.iter().enumerate() {
        for kind in [&["pinned"][..], &["pinned", "allocated"]] {
            let counters = counted(&prefetching("2MiB").delays(seed as u64), &[&["18", "5"], kind, *form].concat());
            assert_eq!(counters.served, 4 * TENSORS, "{form:?} {counters:?}");
            assert!(counters.hits >= 2 * TENSORS, "{form:?} {counters:?}");
            assert_eq!(counters.file_bytes, 0, "nothing of a file is registered: {counters:?}");
        }
    }
    let counters = counted(&prefetching("4MiB").delays(3), &["18", "6", "pinned", "experts", "async"]);
    assert!(counters.served > counters.copies / 2, "{counters:?}");
}

#[test]
fn pinned_memory_that_nobody_said_holds_weights_is_left_to_the_program() {
    let counters = counted(&prefetching("2MiB"), &["18", "4", "pinned", "unmarked"]);
    assert_eq!((counters.served, counters.ring), (0, 0), "{counters:?}");
    // Nor does anybody say so where ggml cannot be listened to.
    let counters = counted(&prefetching("2MiB").layers("inline,preload"), &["18", "4", "pinned"]);
    assert_eq!((counters.served, counters.ring), (0, 0), "{counters:?}");
}

#[test]
fn pinned_memory_that_goes_is_read_no_more() {
    for (seed, form) in FORMS.iter().enumerate() {
        // Pages of the program's own become weights again, at the same addresses; the driver's become ordinary memory.
        for (kind, more) in [(&["pinned"][..], 2), (&["pinned", "allocated"], 0)] {
            let world = prefetching("4MiB").delays(seed as u64);
            let counters = counted(&world, &[&["19", "6", "free"], kind, *form].concat());
            assert!(counters.served >= TENSORS * (1 + more), "{kind:?} {form:?} {counters:?}");
            assert!(
                counters.served <= counters.copies - 2 * TENSORS + more * TENSORS,
                "{kind:?} {form:?} {counters:?}"
            );
        }
        let number = seed.to_string();
        right(&prefetching("4MiB").delays(seed as u64), &[&[number.as_str(), "6", "pinned", "reset"], *form].concat());
    }
}

#[test]
fn pinned_weights_that_ggml_writes_are_served_as_they_are_now() {
    for (seed, form) in FORMS.iter().enumerate() {
        let counters =
            counted(&prefetching("4MiB").delays(seed as u64), &[&["20", "6", "pinned", "set"], *form].concat());
        assert!(counters.served >= 4 * TENSORS, "{form:?} {counters:?}");
    }
}

#[test]
fn not_noticing_that_pinned_weights_go_or_change_is_noticed() {
    for (fault, change) in [("pinned-stays", "free"), ("stale-slot", "set")] {
        let world = prefetching("4MiB").env("GREENBOOST_PLANT", fault);
        let outcome = world.run_with("host-copies-like", &["20", "6", "pinned", change]);
        assert!(!outcome.status.success(), "{change}\n{}", outcome.report());
    }
}

#[test]
fn nothing_is_served_unless_it_is_asked_for() {
    let world = prefetching("2MiB").env(settings::HOST_COPY_PREFETCH, "off");
    let counters = counted(&world, &["3", "3"]);
    assert_eq!((counters.served, counters.file_bytes, counters.ring), (0, 0, 0), "{counters:?}");
}

#[test]
fn copies_are_right_in_every_order_and_ring() {
    for seed in 0..12u64 {
        let form = FORMS[seed as usize % FORMS.len()];
        let order: &[&str] = [&[][..], &["random"], &["reverse"]][seed as usize % 3];
        let (ring, size): (_, &[&str]) = if seed % 2 == 0 { ("2MiB", &["large"]) } else { ("4MiB", &[]) };
        let number = seed.to_string();
        right(&prefetching(ring).delays(seed), &[&[number.as_str(), "5"], form, order, size].concat());
    }
}

#[test]
fn a_ring_with_room_for_one_tensor_serves_one_after_the_other() {
    let counters = counted(&prefetching("2MiB").delays(5), &["6", "4", "large", "async"]);
    assert_eq!(counters.served, 3 * TENSORS, "{counters:?}");
}

#[test]
fn parts_of_a_tensor_are_served_from_the_whole() {
    for (seed, form) in FORMS.iter().enumerate() {
        for known in [&["experts"][..], &["experts", "ggml"]] {
            let arguments = [&["4", "6"], *form, known].concat();
            let counters = counted(&prefetching("4MiB").delays(seed as u64), &arguments);
            assert!(counters.served > counters.copies / 2, "{arguments:?} {counters:?}");
        }
    }
}

#[test]
fn a_tensor_of_which_little_is_used_is_not_brought_whole() {
    let counters = counted(&prefetching("4MiB"), &["4", "6", "few", "ggml"]);
    assert_eq!((counters.served, counters.streamed), (0, 0), "{counters:?}");
    assert!(counters.copies >= 6 * TENSORS, "{counters:?}");
}

#[test]
fn an_address_that_is_used_anew_is_never_read_from_the_file() {
    for seed in 0..8u64 {
        let change = ["unmap", "remap"][seed as usize % 2];
        let form = FORMS[seed as usize / 2];
        let number = seed.to_string();
        let counters = counted(&prefetching("4MiB").delays(seed), &[&[number.as_str(), "6", change], form].concat());
        assert!(counters.served > 2 * TENSORS, "the rest is still served: {counters:?}");
        // Without the first pass, and without what was another's memory.
        let others = if change == "remap" { TENSORS } else { 1 };
        assert!(counters.served <= counters.copies - TENSORS - others, "{counters:?}");
    }
}

#[test]
fn a_kernel_that_cannot_be_asked_at_every_use_is_followed_through_the_hooks() {
    let world = |form| prefetching("4MiB").delays(2).env("GREENBOOST_PLANT", form);
    for change in ["unmap", "remap", "cow", "write", "truncate", "replace"] {
        let counters = counted(&world("old-kernel"), &["15", "6", change]);
        assert!(counters.served > 0, "{change} {counters:?}");
    }
    // Where there are none, nothing is believed.
    let counters = counted(&world("old-kernel").layers("inline,preload"), &["15", "6"]);
    assert_eq!(counters.served, 0, "{counters:?}");
}

#[test]
fn not_following_the_programs_mappings_is_noticed() {
    for change in ["unmap", "remap"] {
        let world = prefetching("4MiB").env("GREENBOOST_PLANT", "blind");
        let outcome = world.run_with("host-copies-like", &["15", "6", change]);
        assert!(!outcome.status.success(), "{change}\n{}", outcome.report());
    }
}

/// Where the kernel can be asked at every use.
fn kernel_can_be_asked() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 11)
}

#[test]
fn system_calls_past_the_c_library_are_noticed() {
    if kernel_can_be_asked() {
        for layers in ["inline,got,preload", "inline,preload"] {
            let world = prefetching("4MiB").delays(3).layers(layers);
            let counters = counted(&world, &["7", "6", "syscall"]);
            assert!(counters.served > 2 * TENSORS, "{counters:?}");
        }
    }
}

#[test]
fn pages_of_its_own_that_a_program_has_in_a_private_mapping_are_what_it_gets() {
    let private = counted(&prefetching("4MiB").delays(1), &["8", "5", "cow"]);
    let counters = counted(&prefetching("4MiB").delays(1), &["8", "5", "private"]);
    assert_eq!(counters.served, 4 * TENSORS, "{counters:?}");
    assert!(private.served > 0 && private.served < counters.served, "{private:?}");
    // Nobody would notice that it becomes writable.
    let counters = counted(&prefetching("4MiB").layers("inline,preload"), &["8", "5", "private"]);
    assert_eq!(counters.served, 0, "{counters:?}");
}

/// Whether the kernel can be asked at every use or not: its rights are what they were.
#[test]
fn pages_that_were_written_past_the_c_library_are_what_a_program_gets() {
    for form in ["", "old-kernel"] {
        let world = prefetching("4MiB").delays(2).env("GREENBOOST_PLANT", form);
        let counters = counted(&world, &["8", "6", "private", "rights"]);
        assert!(counters.served > 2 * TENSORS, "the rest is still served: {counters:?}");
    }
}

#[test]
fn a_file_that_changes_is_read_as_it_is_now() {
    for change in ["write", "truncate", "replace"] {
        for form in FORMS {
            let arguments = [&["9", "6", change], form].concat();
            let counters = counted(&prefetching("4MiB").delays(4), &arguments);
            // The second pass was served; what has just been written may be written again.
            assert!(counters.served >= TENSORS, "{change} {counters:?}");
            if change != "replace" {
                assert_eq!(counters.served, TENSORS, "{change} {counters:?}");
            }
        }
    }
}

#[test]
fn a_context_that_starts_anew_is_served_anew() {
    let counters = counted(&prefetching("4MiB").delays(2), &["10", "6", "reset"]);
    assert!(counters.served >= 4 * TENSORS, "{counters:?}");
}

#[test]
fn nothing_is_served_while_a_stream_captures() {
    let counters = counted(&prefetching("4MiB").delays(2), &["11", "4", "capture", "async"]);
    assert_eq!((counters.served, counters.file_bytes), (0, 0), "{counters:?}");
}

#[test]
fn graphs_that_read_no_weight_leave_what_was_copied_ahead() {
    // llama.cpp launches a graph for every part of a batch, so that nothing would ever be copied ahead of its use.
    for form in [&[][..], &["async"], &["thread"]] {
        let world = prefetching("2MiB").env(settings::STREAM, "on").delays(6);
        let counters = counted(&world, &[&["17", "5", "graphs"], form].concat());
        assert_eq!(counters.served, 4 * TENSORS, "{form:?} {counters:?}");
        assert!(counters.hits >= 2 * TENSORS, "{form:?} {counters:?}");
    }
}

#[test]
fn threads_are_served_side_by_side() {
    for seed in 0..6u64 {
        let form = FORMS[seed as usize % FORMS.len()];
        let number = seed.to_string();
        right(&prefetching("2MiB").delays(seed), &[&[number.as_str(), "5", "threads"], form].concat());
    }
}

#[test]
fn copies_are_served_beside_launches_that_are_streamed() {
    let world = prefetching("4MiB").env(settings::STREAM, "on").delays(3);
    let counters = counted(&world, &["16", "5", "async"]);
    assert_eq!(counters.served, 4 * TENSORS, "{counters:?}");
}

#[test]
fn without_vram_for_slots_copies_are_the_programs_own() {
    let world = prefetching("60MiB").env(settings::VRAM, "8MiB");
    let counters = counted(&world, &["12", "4"]);
    assert_eq!((counters.served, counters.ring), (0, 0), "{counters:?}");
    // Where there is some, less than was wished for is better than none.
    let world = prefetching("16MiB").env(settings::VRAM, "12MiB");
    let counters = counted(&world, &["12", "4"]);
    assert_eq!((counters.served, counters.ring), (3 * TENSORS, 8 << 20), "{counters:?}");
}

#[test]
fn a_driver_that_registers_no_files_is_left_to_copy_them() {
    let counters = counted(&prefetching("4MiB").env("SIMGPU_HOST_REGISTER", "fail"), &["13", "4"]);
    assert_eq!((counters.served, counters.file_bytes), (0, 0), "{counters:?}");
}

#[test]
fn there_is_no_second_copy_of_the_model_in_ram() {
    let field = |outcome: &Outcome, name| -> i64 { outcome.field(name).expect(name).parse().expect("a number") };
    let arguments = ["14", "4", "large"];
    let plain = right(&prefetching("4MiB").env(settings::HOST_COPY_PREFETCH, "off"), &arguments);
    let served = right(&prefetching("4MiB"), &arguments);
    let more = field(&served, "anonymous") - field(&plain, "anonymous");
    // The simulated VRAM is memory of the process, and the ring is part of it.
    let model = field(&served, "bytes");
    assert!(more < (4 << 20) + model / 4, "{more} bytes more for a model of {model}");
}

#[test]
fn a_missing_wait_is_noticed() {
    for fault in ["missing-copy", "missing-readers"] {
        let caught = (0..8u64).any(|seed| {
            let world = prefetching("2MiB").delays(seed).env("GREENBOOST_PLANT", fault).env("SIMGPU_LINK_GBPS", "1");
            let number = seed.to_string();
            !world.run_with("host-copies-like", &[&number, "6", "async", "large"]).status.success()
        });
        assert!(caught, "{fault} makes no difference");
    }
}
