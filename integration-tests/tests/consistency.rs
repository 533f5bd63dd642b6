//! Declared = hooked = tested: every function that the library exports is caught by look-up, and called by a fixture that
//! checks what came of it. (That every function of the table is exported, `hook/runtime/tests/loader.rs` shows.)

use greenboost_contract::settings::CALLS;
use integration_tests::World;
use integration_tests::artefacts::artefacts;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// The exported functions of CUDA and NVML, from the library itself.
fn exported() -> BTreeSet<String> {
    let bytes = fs::read(&artefacts().hook).expect("built");
    let elf = goblin::elf::Elf::parse(&bytes).expect("a library");
    let names = elf.dynsyms.iter().filter(|symbol| !symbol.is_import());
    let names = names.filter_map(|symbol| elf.dynstrtab.get_at(symbol.st_name));
    names.filter(|name| name.starts_with("cu") || name.starts_with("nvml")).map(str::to_owned).collect()
}

/// The CUDA version in which each function of the table appeared; 0 for NVML. As text: linking against the hook would
/// interpose this very test.
fn declared() -> BTreeMap<String, u32> {
    let table = include_str!("../../hook/intercept/src/table.rs");
    let words = table.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_' && letter != '@');
    words.filter_map(|word| Some((word.split_once('@')?.0.to_owned(), word.split_once('@')?.1.parse().ok()?))).collect()
}

/// The line that the fixture `lookups` reads: symbol, name to ask for, version, flags.
fn question(symbol: &str, since: u32) -> String {
    const LEGACY: u32 = 1;
    const PER_THREAD: u32 = 2;
    let stem = symbol.strip_suffix("_ptsz").or(symbol.strip_suffix("_ptds"));
    let flags = if stem.is_some() { PER_THREAD } else { LEGACY };
    let stem = stem.unwrap_or(symbol);
    let base =
        stem.rsplit_once("_v").filter(|(_, version)| version.parse::<u32>().is_ok()).map_or(stem, |(base, _)| base);
    format!("{symbol} {base} {since} {flags}\n")
}

/// What `lookups` found, by symbol: dlsym in the hook, cuGetProcAddress in the hook, the same address.
fn look_up(world: &World) -> BTreeMap<String, [bool; 3]> {
    let declared = declared();
    let since = |symbol: &str| *declared.get(symbol).unwrap_or_else(|| panic!("{symbol} is not in the table"));
    let list: String = exported().iter().map(|symbol| question(symbol, since(symbol))).collect();
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
    "assist-like 1 3 pinned free",
    "assist-like 1 3 pinned allocated free",
    "full cuModuleLoad",
    "full cuModuleLoadFatBinary",
    "full cuModuleLoadDataEx",
    "full cuLibraryLoadData",
    "full cuStreamCreateWithPriority",
    "full cuEventCreate",
    "full cuMemAllocManaged",
];

#[test]
fn every_function_is_called_by_a_fixture() {
    let mut called = BTreeSet::new();
    for program in PROGRAMS {
        let world = World::new().hooked().env("GB_ROUNDS", "600");
        let calls = world.file("calls");
        let world = world.env(CALLS, &calls);
        let mut words = program.split(' ');
        let name = words.next().unwrap_or_default();
        let outcome = world.run_with(name, &words.collect::<Vec<_>>()).ok();
        let text = fs::read_to_string(&calls).unwrap_or_else(|error| panic!("{error}\n{}", outcome.report()));
        called.extend(text.lines().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())));
    }
    let missing: Vec<_> = exported().difference(&called).cloned().collect();
    assert!(missing.is_empty(), "no fixture calls {missing:#?}");
}
