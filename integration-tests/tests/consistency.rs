//! Declared = hooked = tested: every function of the driver that the table has is caught by look-up, and every function of
//! the table is called by a fixture that checks what came of it. (That exactly the table's functions are exported,
//! `hook/runtime/tests/loader.rs` shows.)

use greenboost_contract::settings::{CALLS, HOST_COPY_PREFETCH, PAGE_CACHE};
use greenboost_intercept::slot::{self, Library, Section, Slot};
use integration_tests::World;
use integration_tests::artefacts::artefacts;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// A row's symbol.
fn name(slot: &Slot) -> String {
    slot.symbol.to_string_lossy().into_owned()
}

/// The exported functions of CUDA and NVML, from the library itself.
fn exported() -> BTreeSet<String> {
    let bytes = fs::read(&artefacts().hook).expect("built");
    let elf = goblin::elf::Elf::parse(&bytes).expect("a library");
    let names = elf.dynsyms.iter().filter(|symbol| !symbol.is_import());
    let names = names.filter_map(|symbol| elf.dynstrtab.get_at(symbol.st_name));
    names.filter(|name| name.starts_with("cu") || name.starts_with("nvml")).map(str::to_owned).collect()
}

/// The line that the fixture `lookups` reads: symbol, name to ask for, version (0 for NVML), flags.
fn question(slot: &Slot) -> String {
    const LEGACY: u32 = 1;
    const PER_THREAD: u32 = 2;
    let since = if slot.library == Library::Cuda { slot.since } else { 0 };
    let flags = if slot.per_thread() { PER_THREAD } else { LEGACY };
    format!("{} {} {since} {flags}\n", name(slot), slot.base())
}

/// What `lookups` found, by symbol: dlsym in the hook, cuGetProcAddress in the hook, the same address.
fn look_up(world: &World) -> BTreeMap<String, [bool; 3]> {
    let list: String = slot::driver().iter().map(question).collect();
    fs::write(world.file("list"), list).expect("a file");
    let outcome = world.run_with("lookups", &["list"]).ok();
    let line = |line: &str| {
        let mut words = line.split(' ');
        let symbol = words.next()?.to_owned();
        Some((symbol, [words.next()? == "1", words.next()? == "1", words.next()? == "1"]))
    };
    outcome.stdout.lines().map(|text| line(text).unwrap_or_else(|| panic!("{}", outcome.report()))).collect()
}

#[track_caller]
fn expect_all(world: &World, wanted: [bool; 3]) {
    let found = look_up(world);
    assert_eq!(found.keys().cloned().collect::<BTreeSet<_>>(), exported());
    let wrong: Vec<_> = found.iter().filter(|(_, found)| **found != wanted).collect();
    assert!(wrong.is_empty(), "(dlsym, cuGetProcAddress, same) is not {wanted:?} for {wrong:#?}");
}

#[test]
fn every_function_is_caught_by_dlsym_and_by_cu_get_proc_address() {
    expect_all(&World::new().hooked(), [true, true, true]);
    for layers in ["inline", "got", "preload"] {
        expect_all(&World::new().layers(layers), [true, true, true]);
    }
}

#[test]
fn without_layers_no_function_is() {
    expect_all(&World::new().layers("none"), [false, false, true]);
}

/// Programs that check what their calls do; together they call everything.
const PROGRAMS: &[&str] = &[
    "getproc v1",
    "getproc v2",
    "copies 1",
    "copies 2 per-thread",
    "queries",
    "vmm-pool",
    "handles",
    "full cuArray3DCreate_v2",
    "async-alloc",
    "async-alloc pool",
    "async-alloc per-thread",
    "async-alloc per-thread pool",
    "pitch",
    "launches",
    "launches per-thread",
    "captures",
    "captures per-thread",
    "contexts",
    "host-copies-like 1 3 pinned free",
    "host-copies-like 1 3 pinned allocated free",
    "full cuModuleLoad",
    "full cuModuleLoadFatBinary",
    "full cuModuleLoadDataEx",
    "full cuLibraryLoadData",
    "full cuStreamCreateWithPriority",
    "full cuEventCreate",
    "full cuMemAllocManaged",
    "waits reach",
];

/// The functions of the table that a program reached.
fn called_by(world: World, program: &str) -> BTreeSet<String> {
    let calls = world.file("calls");
    let world = world.env(CALLS, &calls);
    let mut words = program.split(' ');
    let name = words.next().unwrap_or_default();
    let outcome = world.run_with(name, &words.collect::<Vec<_>>()).ok();
    let text = fs::read_to_string(&calls).unwrap_or_else(|error| panic!("{error}\n{}", outcome.report()));
    text.lines().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect()
}

#[test]
fn every_function_of_the_driver_is_called_by_a_fixture() {
    let mut called = BTreeSet::new();
    for program in PROGRAMS {
        called.extend(called_by(World::new().hooked().env("GB_ROUNDS", "600"), program));
    }
    let missing: Vec<_> = exported().difference(&called).cloned().collect();
    assert!(missing.is_empty(), "no fixture calls {missing:#?}");
}

#[test]
fn every_function_of_another_library_is_called_by_a_fixture() {
    let world = || World::new().vram("64MiB").hooked().env(PAGE_CACHE, "on").env(HOST_COPY_PREFETCH, "on");
    let mut called = BTreeSet::new();
    for program in ["llama-like dense small", "llama-like dense small async", "mappings"] {
        called.extend(called_by(world(), program));
    }
    for part in [Section::Tensors, Section::TensorSizes, Section::Mappings] {
        let missing: Vec<_> = slot::section(part).map(name).filter(|name| !called.contains(name)).collect();
        assert!(missing.is_empty(), "no fixture calls {missing:#?} of {part:?}");
    }
}

#[test]
fn functions_nobody_asked_for_are_left_alone() {
    let world = World::new().hooked().env(PAGE_CACHE, "off").env(HOST_COPY_PREFETCH, "off");
    let called = called_by(world, "mappings");
    assert!(slot::section(Section::Mappings).all(|slot| !called.contains(&name(slot))), "{called:?}");
}
