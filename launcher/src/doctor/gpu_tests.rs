//! Checks of the GPU, on what a made-up driver has said.

use super::finding::{Facts, Finding, Level};
use super::gpu_checks::{backings, cuda, devices, driver, file_pages, host_numa, link, mig, pin, vmm};
use crate::driver::report::{Device, Event, GpuReport, Link, Outcome};
use crate::machine::tests::made_of;

fn facts(events: Vec<Event>, outcome: Outcome) -> Facts {
    let (_gone, machine) = made_of(&[]);
    Facts { machine, gpu: GpuReport { events, outcome }, hook: Err(String::new()) }
}

fn device(change: impl FnOnce(&mut Device)) -> Event {
    let link = Link { generation: 5, max_generation: 5, width: 16, max_width: 16 };
    let mut device = Device {
        index: 0,
        name: "Test GPU".to_owned(),
        uuid: "GPU-0".to_owned(),
        compute: (9, 0),
        vmm: true,
        host_numa: true,
        link: Some(link),
        mig: Some(false),
    };
    change(&mut device);
    Event::Device(device)
}

fn backing(name: &str, problem: Option<&str>) -> Event {
    Event::Backing { device: 0, backing: name.to_owned(), problem: problem.map(str::to_owned), detail: String::new() }
}

fn driver_event(cuda: i32) -> Event {
    Event::Driver { cuda, version: Some("580.65.06".to_owned()) }
}

#[test]
fn a_missing_driver_fails_and_says_what_to_install() {
    let failed = Event::Failed { problem: "libcuda.so.1: cannot open shared object file".to_owned() };
    let facts = facts(vec![failed], Outcome::Finished);
    let found = driver(&facts);
    assert_eq!(found[0].level, Level::Fail);
    assert!(found[0].found.contains("libcuda.so.1") && found[0].action.contains("nvidia-driver"));
    for check in [devices, link, vmm, host_numa, backings, mig] {
        assert_eq!(check(&facts)[0].found, "not checked: no GPU answers");
    }
}

#[test]
fn driver_versions_are_judged() {
    for (version, level, words) in [(11_080, Level::Fail, "525"), (12_010, Level::Warn, "535"), (13_000, Level::Ok, "")]
    {
        let found = driver(&facts(vec![driver_event(version), device(|_| {})], Outcome::Finished));
        assert_eq!((found.len(), found[0].level), (1, level), "{version}");
        assert!(found[0].action.contains(words));
    }
    assert_eq!(cuda(12_020), "CUDA 12.2");
}

#[test]
fn a_driver_that_hangs_is_a_failure_of_its_own() {
    let step = Event::Step { doing: "trying memfd memory on GPU 0".to_owned() };
    let found = driver(&facts(vec![driver_event(13_000), step], Outcome::TimedOut));
    assert_eq!(found[1].level, Level::Fail);
    assert_eq!(found[1].found, "the driver did not answer in time while trying memfd memory on GPU 0");
}

#[test]
fn no_visible_gpu_points_at_the_variable_that_hides_it() {
    let found = devices(&facts(vec![driver_event(13_000)], Outcome::Finished));
    assert_eq!(found[0].level, Level::Fail);
    assert!(found[0].action.contains("CUDA_VISIBLE_DEVICES"));
}

#[test]
fn hidden_gpus_are_not_the_drivers_fault() {
    for (value, words) in [("", "set and empty"), ("-1", "CUDA_VISIBLE_DEVICES=-1")] {
        let failed = Event::Failed { problem: "cuInit returned CUDA_ERROR_NO_DEVICE".to_owned() };
        let mut hidden = facts(vec![driver_event(13_000), failed], Outcome::Finished);
        hidden.machine.visible_devices = Some(value.to_owned());
        let found = driver(&hidden);
        assert!(found[1].level == Level::Fail && found[1].found.contains(words), "{found:?}");
        assert!(found[1].action.contains("Unset CUDA_VISIBLE_DEVICES"));
        hidden.gpu.events.pop();
        assert!(devices(&hidden)[0].found.contains(words));
    }
}

#[test]
fn what_was_tried_is_judged_and_what_does_not_work_is_not_supported_in_words_alone() {
    let judged = |what: &str, problem: Option<&str>| {
        let tried = Event::Tried { device: 0, what: what.to_owned(), problem: problem.map(str::to_owned) };
        let facts = facts(vec![device(|_| {}), tried], Outcome::Finished);
        let check = [("vmm", vmm as fn(&Facts) -> Vec<Finding>), ("pin", pin), ("file-pages", file_pages)];
        let check = check.iter().find(|(name, _)| *name == what).expect("a check").1;
        check(&facts).remove(0)
    };
    for (what, level) in [("vmm", Level::Fail), ("pin", Level::Warn), ("file-pages", Level::Note)] {
        assert_eq!(judged(what, None).level, Level::Ok, "{what}");
        let bad = judged(what, Some("it says no"));
        assert!(bad.level == level && bad.found.contains("it says no"), "{bad:?}");
        assert!(!bad.meaning.is_empty() && !bad.action.is_empty());
    }
}

#[test]
fn a_gpu_without_free_vram_is_not_ready() {
    let memory = |free| Event::Memory { device: 0, free, total: 8 << 30 };
    let judged = |free| devices(&facts(vec![device(|_| {}), memory(free)], Outcome::Finished)).remove(0).level;
    assert_eq!((judged(4 << 30), judged(100 << 20)), (Level::Ok, Level::Warn));
}

#[test]
fn a_narrow_link_is_a_warning_and_a_sleeping_one_is_not() {
    let narrow = Link { generation: 4, max_generation: 4, width: 4, max_width: 16 };
    let asleep = Link { generation: 1, max_generation: 5, width: 16, max_width: 16 };
    let judged = |value| link(&facts(vec![device(|device| device.link = value)], Outcome::Finished)).remove(0);
    assert_eq!(judged(Some(narrow)).level, Level::Warn);
    assert!(judged(Some(narrow)).meaning.contains("4/16"));
    assert_eq!(judged(Some(asleep)).level, Level::Note);
    assert!(judged(Some(asleep)).found.contains("63 GB/s"), "{}", judged(Some(asleep)).found);
    assert_eq!(judged(None).level, Level::Note);
}

#[test]
fn one_working_backing_is_enough_and_none_is_a_failure() {
    let judged = |events: [Event; 2], host_numa: bool| {
        let mut all = vec![device(|device| device.host_numa = host_numa)];
        all.extend(events);
        backings(&facts(all, Outcome::Finished)).remove(0).level
    };
    assert_eq!(judged([backing("host-numa", None), backing("memfd", None)], true), Level::Ok);
    assert_eq!(judged([backing("host-numa", Some("x")), backing("memfd", None)], true), Level::Warn);
    assert_eq!(judged([backing("host-numa", Some("not offered")), backing("memfd", None)], false), Level::Ok);
    assert_eq!(judged([backing("host-numa", Some("x")), backing("memfd", Some("y"))], true), Level::Fail);
    assert_eq!(judged([backing("kmod", Some("x")), backing("memfd", None)], false), Level::Warn);
    assert_eq!(judged([backing("kmod", None), backing("host-numa", Some("not offered"))], false), Level::Ok);
}

#[test]
fn several_gpus_are_told_apart() {
    let found =
        vmm(&facts(vec![device(|_| {}), device(|second| (second.index, second.vmm) = (1, false))], Outcome::Finished));
    assert_eq!((found[0].found.as_str(), found[0].level), ("GPU 0: supported", Level::Ok));
    assert_eq!((found[1].found.as_str(), found[1].level), ("GPU 1: not supported", Level::Fail));
}
