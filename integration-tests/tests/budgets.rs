//! How much of what a program takes, as the driver counts it and as we say it is.

use greenboost_contract::record::{self, DeviceRecord};
use integration_tests::{Toy, World, toy};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const MIB: u64 = 1 << 20;

fn model() -> Toy {
    toy("32MiB", 4)
}

fn arguments(model: &Toy) -> [&str; 5] {
    ["-m", model.file(), "-n", "4", "--hold"]
}

/// VRAM in use on the world's first GPU, asked by a process that is not hooked.
#[track_caller]
fn used(world: &World) -> u64 {
    let outcome = world.run_outside("queries", &["memory"]).ok();
    outcome.json()["before_nvml_used"].as_u64().expect("a number")
}

fn taken(device: &DeviceRecord) -> u64 {
    device.vram_chunks.load(Relaxed) + device.vram_plain.load(Relaxed) + device.vram_mapped.load(Relaxed)
}

fn in_ram(device: &DeviceRecord) -> u64 {
    device.ram.iter().map(|bytes: &AtomicU64| bytes.load(Relaxed)).sum()
}

#[test]
fn the_vram_budget_holds_as_the_driver_counts_it_and_as_the_record_says() {
    for backing in ["host-numa", "memfd"] {
        let model = model();
        let world =
            World::new().vram("64MiB").hooked().env("GREENBOOST_VRAM", "12MiB").env("GREENBOOST_BACKINGS", backing);
        let mut target = world.start("toy-llm", &arguments(&model));
        assert_eq!(target.until("ready").join("\n"), model.answer.trim_end());
        let used = used(&world);
        assert!((8 * MIB..=12 * MIB).contains(&used), "{} MiB of 12 in use\n{}", used / MIB, target.log());

        let record = record::of_process(target.pid()).expect("a status record");
        let device = &record.devices[0];
        assert_eq!(record.devices_used.load(Relaxed), 1);
        assert_eq!(device.vram_budget.load(Relaxed), 12 * MIB);
        assert!(taken(device).abs_diff(used) <= 2 * MIB, "the record says {}, the driver {used}", taken(device));
        assert!(device.vram_peak.load(Relaxed) <= 12 * MIB);
        assert!(in_ram(device) >= 20 * MIB, "{} bytes in RAM", in_ram(device));
        assert!(record.ram_used.load(Relaxed) >= in_ram(device));
        assert!(record.backings.iter().any(|name| name.get() == backing));
        assert!(target.finish().success());
    }
}

#[test]
fn room_for_later_allocations_is_made_in_vram() {
    let world = World::new().hooked();
    let mut target = world.start("pressure", &["hold"]);
    target.until("ready");
    let record = record::of_process(target.pid()).expect("a status record");
    let device = &record.devices[0];
    // Four blocks of a sixteenth of the VRAM each, and small ones: all where the driver put them.
    assert!(device.vram_plain.load(Relaxed) >= 4 * MIB, "{} bytes", device.vram_plain.load(Relaxed));
    assert!(device.moved_out.load(Relaxed) >= 4 * MIB, "{} bytes moved", device.moved_out.load(Relaxed));
    assert!(taken(device) <= 16 * MIB && used(&world) <= 16 * MIB);
    assert!(target.finish().success());
}

#[test]
fn the_driver_may_know_less_vram_than_the_budget_says() {
    // Another program takes VRAM that our budget counts on: the driver's own refusal is the first we hear of it.
    let model = model();
    let world = World::new().vram("64MiB").hooked().env("GREENBOOST_VRAM", "40MiB");
    let mut other = world.start_outside("ballast", &["9000000"]);
    other.until("ready");
    let outcome = world.run_with("toy-llm", &["-m", model.file(), "-n", "4"]).ok();
    assert_eq!(outcome.stdout, model.answer, "{}", outcome.report());
    assert!(other.finish().success());
}

#[test]
fn two_programs_share_a_gpu() {
    let model = model();
    let world = World::new().vram("24MiB").hooked();
    let mut first = world.start("toy-llm", &arguments(&model));
    assert_eq!(first.until("ready").join("\n"), model.answer.trim_end());
    // The first took all VRAM its budget allowed, by default what was free. The second must run all the same, if it is
    // given room for what cannot live elsewhere.
    let second = world.run_with("toy-llm", &["-m", model.file(), "-n", "4"]);
    let honest = second.stderr.contains("out of memory");
    assert!(honest || second.stdout == model.answer, "{}", second.report());
    assert!(first.finish().success());
}

#[test]
fn greenboost_status_shows_the_process_and_its_tiers() {
    let model = model();
    let world = World::new().vram("64MiB").hooked().env("GREENBOOST_VRAM", "12MiB");
    let mut target = world.start("toy-llm", &arguments(&model));
    target.until("ready");
    let status = world.run_outside("greenboost", &["status"]).ok();
    assert!(status.stdout.contains(&target.pid().to_string()), "{}", status.report());
    target.kill();
}
