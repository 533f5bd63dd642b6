//! What a program asks the loader is answered as if we were not there, except where we mean to answer.

mod support;

use greenboost_intercept::slot::{self, Section};
use std::process::Command;
use support::{Bench, hook, routes};

const ALL: &str = "inline,got,preload";
const EACH: [&str; 5] = ["inline", "got", "preload", ALL, "none"];

#[test]
fn another_librarys_rtld_next_finds_what_follows_that_library() {
    let bench = Bench::new();
    let program = bench.program("wrapped", "wrapped.c", &["-Wl,--no-as-needed", "-lcuda", "-rdynamic"]);
    let wrapper = bench.library("libm_wrapper.so", "libm_wrapper.c", &[]);
    let plain = bench.run(bench.plain(&program).env("LD_PRELOAD", &wrapper));
    assert!(plain.contains("wrapper 1"), "{plain}");
    for layers in EACH {
        for order in [[&hook(), &wrapper], [&wrapper, &hook()]] {
            let preload = order.map(|path| path.display().to_string()).join(":");
            assert_eq!(
                bench.run(bench.hooked(&program, layers).env("LD_PRELOAD", &preload)),
                plain,
                "{layers} {preload}"
            );
        }
    }
}

#[test]
fn another_interposer_of_the_driver_is_neither_bypassed_nor_called_in_circles() {
    let bench = Bench::new();
    let program = bench.program("wrapped", "wrapped.c", &["-Wl,--no-as-needed", "-lcuda"]);
    let next = bench.library("next.so", "driver_wrapper.c", &[]);
    let explicit = bench.library("explicit.so", "driver_wrapper.c", &["-DEXPLICIT"]);
    for wrapper in [&next, &explicit] {
        for layers in [&EACH[..], &["bodies", "inline,got,preload,bodies"]].concat() {
            for order in [[&hook(), wrapper], [wrapper, &hook()]] {
                let preload = order.map(|path| path.display().to_string()).join(":");
                let output = bench.run(bench.hooked(&program, layers).env("LD_PRELOAD", &preload));
                assert!(output.contains("wrapper 4"), "{layers} {preload}\n{output}\n{}", bench.log());
            }
        }
    }
}

#[test]
fn without_a_driver_our_exports_are_not_taken_for_one() {
    let bench = Bench::without_driver();
    let program = bench.program("absent", "absent.c", &[]);
    let plain = bench.run(&mut bench.plain(&program));
    assert!(plain.contains("default cuMemAlloc_v2 absent told"), "{plain}");
    for layers in ["inline", "got", "preload", ALL] {
        assert_eq!(bench.run(&mut bench.hooked(&program, layers)), plain, "{layers}");
    }
}

#[test]
fn messages_of_failed_look_ups_are_the_loaders_own() {
    let bench = Bench::new();
    let program = bench.program("messages", "messages.c", &[]);
    let plain = bench.run(&mut bench.plain(&program));
    for layers in EACH {
        assert_eq!(bench.run(&mut bench.hooked(&program, layers)), plain, "{layers}");
    }
}

#[test]
fn searches_start_from_the_caller() {
    for (kind, flag) in [("RUNPATH", "--enable-new-dtags"), ("RPATH", "--disable-new-dtags")] {
        let bench = Bench::new();
        std::fs::create_dir_all(bench.path("plugins/deep")).expect("new");
        let paths = |path: &str| [format!("-Wl,{flag}"), format!("-Wl,-rpath,{path}")];
        let [dtags, here] = paths("$ORIGIN/plugins");
        let program = bench.program("origin", "origin.c", &[&dtags, &here]);
        let [dtags, here] = paths("$ORIGIN/deep");
        bench.library("plugins/outer.so", "outer.c", &[&dtags, &here]);
        bench.library("plugins/deep/inner.so", "plugin.c", &["-Wl,-soname,inner.so", "-lcuda"]);
        let plain = bench.run(&mut bench.plain(&program));
        assert!(plain.starts_with("inner 0"), "{kind} {plain}");
        for layers in EACH {
            let output = bench.run(&mut bench.hooked(&program, layers));
            let caught = ["got", "preload", ALL].contains(&layers);
            let expected = if caught { plain.replace("inner 0", "inner 1") } else { plain.clone() };
            assert_eq!(output, expected, "{kind} {layers}\n{}", bench.log());
        }
    }
}

#[test]
fn a_driver_that_goes_and_comes_back_is_caught_again() {
    let bench = Bench::new();
    let program = bench.program("reopen", "reopen.c", &[]);
    let plugin = bench.library("plugin.so", "plugin.c", &["-lcuda"]);
    for layers in ["got", "preload", "bodies", ALL, "inline,got,preload,bodies"] {
        let output = bench.run(bench.hooked(&program, layers).arg(&plugin));
        let (caught, missed) = routes(&output);
        assert_eq!((caught.len(), missed.len()), (18, 0), "{layers}\n{output}\n{}", bench.log());
    }
}

#[test]
fn a_second_driver_is_left_alone_and_told_of() {
    let bench = Bench::new();
    let link = bench.path("lib/libcuda.so");
    std::fs::remove_file(&link).expect("a link");
    std::fs::copy(bench.path("lib/libcuda.so.1"), &link).expect("a file of its own");
    let program = bench.program("two_drivers", "two_drivers.c", &[]);
    for layers in ["inline", "got", "preload", ALL] {
        let _ = std::fs::remove_file(bench.path("log"));
        let output = bench.run(&mut bench.hooked(&program, layers));
        assert_eq!(output, "first caught\nsecond missed\nfirst again caught\n", "{layers}\n{}", bench.log());
        let log = bench.log();
        let told = log.lines().filter(|line| line.contains("a second driver") && line.contains("libcuda.so:"));
        assert_eq!(told.count(), 1, "{layers}\n{log}");
    }
}

/// What lies where is not read from /proc, which takes the longer the more libraries there are.
#[test]
fn libraries_come_and_go_without_anything_being_read_for_us() {
    let bench = Bench::new();
    let program = bench.program("reads", "reads.c", &[]);
    let plugin = bench.library("plugin.so", "plugin.c", &["-lcuda"]);
    let plain = bench.run(bench.plain(&program).arg(&plugin));
    assert!(plain.starts_with("reads ") && plain != "reads 0\n", "{plain}");
    for layers in EACH {
        assert_eq!(bench.run(bench.hooked(&program, layers).arg(&plugin)), plain, "{layers}\n{}", bench.log());
    }
}

#[test]
fn only_the_intercepted_names_are_exported() {
    let bytes = std::fs::read(hook()).expect("built");
    let elf = goblin::elf::Elf::parse(&bytes).expect("a library");
    let mut exported: Vec<_> = elf
        .dynsyms
        .iter()
        .filter(|symbol| !symbol.is_import() && symbol.st_bind() != goblin::elf::sym::STB_LOCAL)
        .filter_map(|symbol| elf.dynstrtab.get_at(symbol.st_name))
        .collect();
    exported.sort_unstable();
    let declared = slot::driver().iter().chain(slot::section(Section::Loader));
    let mut declared: Vec<_> = declared.filter_map(|slot| slot.symbol.to_str().ok()).collect();
    declared.sort_unstable();
    assert_eq!(exported, declared);
    let imports_driver = elf.libraries.iter().any(|library| library.contains("cuda") || library.contains("nvidia"));
    assert!(!imports_driver, "every process would need a driver: {:?}", elf.libraries);
}

#[test]
fn the_library_tells_its_engine_without_being_loaded() {
    let engine = greenboost_contract::engine::of_library(&hook());
    assert!(["detour", "frida-gum"].map(|name| Some(name.to_owned())).contains(&engine), "{engine:?}");
}

#[test]
fn python_is_served_through_ctypes() {
    let bench = Bench::new();
    let script = "import ctypes; d = ctypes.CDLL('libcuda.so.1'); p = ctypes.c_void_p(); \
                  assert d.cuEventCreate(ctypes.byref(p), 0) == 0; print('caught' if p.value else 'missed')";
    let Ok(python) = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output() else { return };
    let python = String::from_utf8_lossy(&python.stdout).trim().to_owned();
    for layers in ["inline", "got", "preload", ALL] {
        let output = bench.run(bench.hooked(python.as_ref(), layers).args(["-c", script]));
        assert_eq!(output, "caught\n", "{layers}");
    }
}
