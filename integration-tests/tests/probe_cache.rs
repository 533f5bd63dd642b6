//! What one process found of a backing, the next one knows: as long as nothing has changed, and nobody else could have
//! written it. Everywhere else the worlds of tests have it switched off.

use greenboost_contract::settings::{BACKINGS, PAGE_CACHE, PROBE_CACHE};
use integration_tests::artefacts::artefacts;
use integration_tests::{World, toy};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const NOW: &str = "a kernel reads and writes it";
const EARLIER: &str = "a kernel read and wrote it earlier since the machine was started";

/// What a run did, and said of its backing.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    contexts: usize,
    modules: usize,
    reason: String,
}

impl Run {
    /// Whether a kernel was run to find out.
    #[track_caller]
    fn has_probed(&self) -> bool {
        assert_ne!(self.reason.contains(NOW), self.reason.contains(EARLIER), "{self:?}");
        self.reason.contains(NOW)
    }
}

/// A machine on which models spill, with a place to keep answers in.
fn world() -> World {
    let world = World::new();
    let place = world.file("run");
    fs::create_dir(&place).expect("a folder");
    with_place(world, &place)
}

/// The same with another's place, or one that is none.
fn with_place(world: World, place: &Path) -> World {
    let home = world.file("no home");
    world.vram("8MiB").hooked().env(PROBE_CACHE, "").env("HOME", home).env("XDG_RUNTIME_DIR", place)
}

fn folder(world: &World) -> PathBuf {
    world.file("run/greenboost")
}

/// Names of what is kept.
fn kept(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The file that is kept.
#[track_caller]
fn page(world: &World) -> PathBuf {
    let names = kept(&folder(world));
    assert_eq!(names.len(), 1, "{names:?}");
    folder(world).join(&names[0])
}

/// Runs a model that does not fit, whatever becomes of it.
fn try_to_load(world: World) -> (World, integration_tests::Outcome, Run) {
    let model = toy("32MiB", 4);
    let trace = world.file("calls");
    let _ = fs::remove_file(&trace);
    let world = world.env("SIMGPU_TRACE", &trace);
    let outcome = world.run_with("toy-llm", &["-m", model.file(), "-n", "4"]);
    let calls = fs::read_to_string(trace).expect("calls");
    let made = |name| calls.lines().filter(|call| call.starts_with(name)).count();
    let mut reasons = outcome.log.lines().filter_map(|line| Some(line.split_once("device 0: ")?.1));
    let reason = reasons.next_back().unwrap_or_else(|| panic!("no reason\n{}", outcome.report())).to_owned();
    let run = Run { contexts: made("cuCtxCreate"), modules: made("cuModuleLoadData"), reason };
    (world, outcome, run)
}

/// The same where it must be right.
#[track_caller]
fn load(world: World) -> (World, Run) {
    let (world, outcome, run) = try_to_load(world);
    let outcome = outcome.ok();
    assert_eq!(outcome.stdout, toy("32MiB", 4).answer, "{}", outcome.report());
    assert!(outcome.stderr.is_empty(), "{}", outcome.report());
    (world, run)
}

fn touch(path: &Path) {
    File::options().write(true).open(path).and_then(|it| it.set_modified(SystemTime::now())).expect("our own");
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("our own");
}

#[test]
fn the_second_process_makes_no_context_to_find_out_and_says_so() {
    for (backing, page_cache) in [("host-numa", "off"), ("memfd", "off"), ("host-numa", "on")] {
        let world = world().env(BACKINGS, backing).env(PAGE_CACHE, page_cache);
        let (world, first) = load(world);
        let (world, second) = load(world);
        assert!(first.reason.starts_with(&format!("{backing}: {NOW}")), "{first:?}");
        assert!(second.reason.starts_with(&format!("{backing}: {EARLIER}")), "{second:?}");
        assert_eq!((second.contexts, second.modules), (first.contexts - 1, first.modules - 1), "{first:?} {second:?}");
        assert_eq!(first.reason.contains("; file pages: a kernel reads them"), page_cache == "on", "{first:?}");
        assert_eq!(second.reason.contains("; file pages: a kernel read them earlier"), page_cache == "on");
        let name = kept(&folder(&world)).join(" ");
        assert!(name.starts_with("probe-GPU-") && name.ends_with(backing), "{name}");
    }
}

#[test]
fn where_there_is_no_place_or_it_is_not_wanted_every_process_finds_out() {
    let nowhere = with_place(World::new(), Path::new(""));
    for world in [World::new().vram("8MiB").hooked(), nowhere, world().env(PROBE_CACHE, "off")] {
        let (world, first) = load(world);
        let (world, second) = load(world);
        assert!(first.has_probed() && first == second, "{first:?} {second:?}");
        assert_eq!(kept(&folder(&world)), [""; 0]);
    }
    // Kept before it was switched off: not looked at.
    let (world, first) = load(world());
    let (_, second) = load(world.env(PROBE_CACHE, "off"));
    assert_eq!(first, second);
}

/// Goes from a world that knows to one that does not, and must know again after it has found out.
#[track_caller]
fn assert_forgets(what: &str, world: World, change: impl FnOnce(World) -> World) {
    let (world, first) = load(world);
    let (world, second) = load(world);
    assert!(first.has_probed() && !second.has_probed(), "{what}: {first:?} {second:?}");
    let (world, third) = load(change(world));
    assert!(third.has_probed() && third.contexts == first.contexts, "{what}: {third:?}");
    let (_, fourth) = load(world);
    assert!(!fourth.has_probed(), "{what}: {fourth:?}");
}

/// A copy of the simulated driver that a test may change.
fn own_driver(world: &World, name: &str) -> PathBuf {
    let folder = world.file(name);
    fs::create_dir(&folder).expect("a folder");
    for file in ["libcuda.so.1", "libnvidia-ml.so.1"] {
        fs::copy(artefacts().driver.join(file), folder.join(file)).expect("copied");
    }
    folder
}

#[test]
fn another_driver_finds_out_anew() {
    assert_forgets("version", world(), |world| world.env("SIMGPU_DRIVER_VERSION", "12080"));
    assert_forgets("file", world(), |world| {
        let driver = own_driver(&world, "driver");
        world.env("LD_LIBRARY_PATH", driver)
    });
    let world = world();
    let driver = own_driver(&world, "driver");
    assert_forgets("time", world.env("LD_LIBRARY_PATH", &driver), |world| {
        touch(&driver.join("libcuda.so.1"));
        world
    });
}

#[test]
fn another_hook_finds_out_anew() {
    let world = world();
    let hook = world.file("libgreenboost_hook.so");
    fs::copy(&artefacts().hook, &hook).expect("copied");
    assert_forgets("time", world.hook_file(&hook), |world| {
        touch(&hook);
        world
    });
}

#[test]
fn another_gpu_or_another_backing_is_found_out_apart_and_both_are_kept() {
    let (world, _) = load(world().vram("8MiB,8MiB").env("CUDA_VISIBLE_DEVICES", "0"));
    for (name, value) in [("CUDA_VISIBLE_DEVICES", "1"), (BACKINGS, "memfd")] {
        let other = with_place(World::new(), &world.file("run")).vram("8MiB,8MiB").env("CUDA_VISIBLE_DEVICES", "0");
        let (_, run) = load(other.env(name, value));
        assert!(run.has_probed(), "{name}: {run:?}");
    }
    assert_eq!(kept(&folder(&world)).len(), 3);
    let (_, run) = load(world);
    assert!(!run.has_probed(), "{run:?}");
}

#[test]
fn files_are_tried_when_they_are_wanted_for_the_first_time() {
    assert_forgets("files", world(), |world| world.env(PAGE_CACHE, "on"));
}

#[test]
fn what_was_changed_by_hand_or_could_have_been_by_others_is_not_believed() {
    assert_forgets("a letter", world(), |world| {
        let text = fs::read_to_string(page(&world)).expect("a page");
        assert!(text.contains("boot: \""), "{text}");
        fs::write(page(&world), text.replace("boot: \"", "boot: \"0")).expect("written");
        world
    });
    assert_forgets("half of it", world(), |world| {
        let text = fs::read(page(&world)).expect("a page");
        fs::write(page(&world), &text[..text.len() / 2]).expect("written");
        world
    });
    assert_forgets("a file that others can write", world(), |world| {
        chmod(&page(&world), 0o620);
        world
    });
    let (world, first) = load(world());
    chmod(&folder(&world), 0o770);
    let before = fs::metadata(page(&world)).and_then(|it| it.modified()).expect("a page");
    let (world, second) = load(world);
    assert_eq!(first, second, "a folder that others can write");
    assert_eq!(fs::metadata(page(&world)).and_then(|it| it.modified()).expect("a page"), before);
    chmod(&folder(&world), 0o700);
    assert!(!load(world).1.has_probed());
}

#[test]
fn a_failure_is_found_out_every_time() {
    let (world, first) = load(world().env("SIMGPU_HOST_NUMA", "unreadable"));
    let (world, second) = load(world);
    for run in [&first, &second] {
        let tail = "not host-numa: the probe kernel failed with CUDA_ERROR_ILLEGAL_ADDRESS";
        assert!(run.reason.starts_with("memfd: ") && run.reason.ends_with(tail), "{run:?}");
    }
    // That memfd works is known; that host-numa does not is not.
    assert_eq!((first.has_probed(), second.has_probed()), (true, false));
    assert_eq!((second.contexts, kept(&folder(&world)).len()), (first.contexts - 1, 1));
    let (_, cured) = load(world.env("SIMGPU_HOST_NUMA", "ok"));
    assert!(cured.reason.starts_with(&format!("host-numa: {NOW}")), "{cured:?}");

    let (world, first) = load(self::world().env(PAGE_CACHE, "on").env("SIMGPU_READ_ONLY", "unreadable"));
    let (_, second) = load(world);
    assert!(first.reason.contains("not file pages: the probe kernel failed") && first == second, "{second:?}");
}

#[test]
fn memory_that_the_driver_refuses_although_it_worked_earlier_is_tried_again() {
    let (world, _) = load(world().env(BACKINGS, "memfd"));
    let (world, outcome, second) = try_to_load(world.env("SIMGPU_FAIL", "cuMemHostRegister:1:999"));
    assert!(!second.has_probed() && !outcome.status.success(), "{}", outcome.report());
    assert_eq!(kept(&folder(&world)), [""; 0]);
    let (_, third) = load(world.env("SIMGPU_FAIL", ""));
    assert!(third.has_probed(), "{third:?}");
}

#[test]
fn processes_that_find_out_at_once_do_each_other_no_harm() {
    let model = toy("32MiB", 4);
    for seed in 1..=4 {
        // The GPU has room for all, each of them has not.
        let world = world().vram("64MiB").env("GREENBOOST_VRAM", "8MiB").delays(seed);
        std::thread::scope(|scope| {
            let run = || world.run_with("toy-llm", &["-m", model.file(), "-n", "4"]).ok();
            let runs: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
            for run in runs {
                assert_eq!(run.join().expect("a run").stdout, model.answer, "seed {seed}");
            }
        });
        page(&world);
        let (_, after) = load(world);
        assert!(!after.has_probed(), "seed {seed}: {after:?}");
    }
}

#[test]
fn a_place_that_cannot_be_written_changes_nothing() {
    let (_, usual) = load(World::new().vram("8MiB").hooked());
    let same = |world: World| {
        for _ in 0..2 {
            let (_, run) = load(with_place(World::new(), &world.file("run")));
            assert_eq!(run, usual);
        }
        kept(&world.file("run"))
    };
    let (file, unwritable, occupied) = (world(), world(), world());
    fs::write(folder(&file), "not a folder").expect("written");
    assert_eq!(same(file), ["greenboost"]);
    chmod(&unwritable.file("run"), 0o500);
    // Root writes where it wants.
    if File::create(unwritable.file("run/try")).is_err() {
        assert_eq!(same(unwritable), [""; 0]);
    }
    let (occupied, _) = load(occupied);
    let page = page(&occupied);
    fs::remove_file(&page).and_then(|()| fs::create_dir(&page)).expect("a folder in its place");
    same(occupied);
    for place in ["/proc", "/no such folder", "relative", "/dev/null"] {
        for _ in 0..2 {
            let (_, run) = load(with_place(World::new(), Path::new(place)));
            assert_eq!(run, usual, "{place}");
        }
    }
}
