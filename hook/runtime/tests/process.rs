//! Which processes are touched, when, and what their children are.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use support::{Bench, hook, routes};

const ALL: &str = "inline,got,preload";

#[test]
fn only_a_process_the_launcher_named_is_touched() {
    let bench = Bench::new();
    let program = bench.program("plain", "plain.c", &[]);
    for (name, value, caught) in [
        ("GREENBOOST_INCLUDE", "^plain$", true),
        ("GREENBOOST_INCLUDE", "^(other|plain)$", true),
        ("GREENBOOST_INCLUDE", "^pl.*n$", true),
        ("GREENBOOST_INCLUDE", "^other$", false),
        ("GREENBOOST_INCLUDE", "(", false),
        ("GREENBOOST_EXCLUDE", "^plain$", false),
        ("GREENBOOST_DISABLE", "1", false),
        ("GREENBOOST_ACTIVE", "0", false),
        ("GREENBOOST_ACTIVE", "", false),
    ] {
        let _ = fs::remove_file(bench.path("log"));
        let output = bench.run(bench.hooked(&program, ALL).env(name, value));
        assert_eq!(output, if caught { "self caught\n" } else { "self missed\n" }, "{name}={value}");
        assert_eq!(bench.path("log").exists(), caught, "{name}={value}");
    }
    assert_eq!(bench.run(bench.plain(&program).env("LD_PRELOAD", hook())), "self missed\n");
}

#[test]
fn a_child_decides_for_itself() {
    let bench = Bench::new();
    let server = bench.program("server", "plain.c", &[]);
    let runner = bench.program("runner", "plain.c", &[]);
    let output = bench.run(bench.hooked(&server, ALL).arg(&runner).arg(&server).env("GREENBOOST_INCLUDE", "^runner$"));
    assert_eq!(output, "self missed\nself caught\nself missed\n");
}

#[test]
fn settings_that_make_no_sense_turn_us_off_and_are_logged() {
    let bench = Bench::new();
    let program = bench.program("plain", "plain.c", &[]);
    let output = bench.run(bench.hooked(&program, ALL).env("GREENBOOST_VRAM", "plenty"));
    assert_eq!(output, "self missed\n");
    assert!(bench.log().contains("GREENBOOST_VRAM='plenty'"), "{}", bench.log());
}

#[test]
fn a_log_that_cannot_be_written_is_no_reason_to_speak_or_fail() {
    let bench = Bench::new();
    let program = bench.program("plain", "plain.c", &[]);
    let folder = bench.path("folder");
    fs::create_dir(&folder).expect("new");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o500)).expect("ours");
    for target in ["/nonexistent/log", "/dev/full", "/", ""] {
        assert_eq!(bench.run(bench.hooked(&program, ALL).env("GREENBOOST_LOG", target)), "self caught\n", "{target}");
    }
}

#[test]
fn the_driver_is_caught_in_a_constructor_before_ours() {
    let bench = Bench::new();
    let early = bench.library("libearly.so", "early.c", &["-Wl,-soname,libearly.so"]);
    let folder = format!("-L{}", bench.path("").display());
    let program = bench.program("early", "early_main.c", &[&folder, "-learly", "-Wl,-rpath,$ORIGIN"]);
    // The export is asked first and decides on the spot; the other layers stand only from then on.
    for layers in ["preload", ALL] {
        assert_eq!(bench.run(&mut bench.hooked(&program, layers)), "early caught\n", "{layers}");
        let preload = format!("{}:{}", hook().display(), early.display());
        assert_eq!(bench.run(bench.hooked(&program, layers).env("LD_PRELOAD", preload)), "early caught\n", "{layers}");
    }
}

#[test]
fn children_forked_while_threads_resolve_do_not_hang_and_parents_go_on() {
    let bench = Bench::new();
    let program = bench.program("forks", "forks.c", &[]);
    for layers in ["inline", "got", "preload", ALL] {
        let output = bench.run(&mut bench.hooked(&program, layers));
        assert_eq!(output, "before 40\nparent caught\nafter\nparent caught\n", "{layers}\n{}", bench.log());
    }
}

#[test]
fn many_threads_resolve_while_we_patch() {
    let bench = Bench::new();
    let program = bench.program("threads", "threads.c", &[]);
    let plugins = [
        bench.library("lazy.so", "plugin.c", &["-lcuda", "-Wl,-z,lazy"]),
        bench.library("now.so", "plugin.c", &["-lcuda", "-Wl,-z,now"]),
        bench.library("bare.so", "plugin.c", &["-lcuda", "-Wl,-z,norelro"]),
    ];
    for layers in [ALL, "inline,got,preload,bodies", "got", "preload"] {
        for seed in 0..6 {
            let mut command = bench.hooked(&program, layers);
            command.arg(seed.to_string()).args(&plugins).env("GREENBOOST_LOG_LEVEL", "warn");
            let output = bench.run(&mut command);
            assert!(output.starts_with("misses "), "{layers} {seed}: {output}");
            if layers == ALL {
                assert_eq!(output, "misses 0\n", "{layers} {seed}\n{}", bench.log());
            }
        }
    }
}

/// Threads that would have to be stopped are not: the driver's code stays as it is, which one line says.
#[test]
fn a_driver_that_comes_late_disturbs_no_thread_and_is_caught() {
    let bench = Bench::new();
    let program = bench.program("late", "late.c", &[]);
    let plugin = bench.library("plugin.so", "plugin.c", &["-lcuda"]);
    for layers in ["got", ALL] {
        let _ = fs::remove_file(bench.path("log"));
        let output = bench.run(bench.hooked(&program, layers).arg(&plugin));
        let expected = "loaded during the vfork\ndlsym caught\nproc_address_v2 caught\nplt caught\n\
                        poll 0 nanosleep 0 read 0\n";
        assert_eq!(output, expected, "{layers}\n{}", bench.log());
        let log = bench.log();
        let told = log.lines().filter(|line| line.contains("stays as it is")).count();
        assert_eq!(told, usize::from(layers == ALL), "{log}");
        assert!(!log.contains(" WARN "), "{log}");
    }
}

/// This driver lacks what we need, so that everything goes to it.
#[test]
fn the_last_line_of_the_log_says_why_calls_went_to_the_driver() {
    let bench = Bench::new();
    let program = bench.program("plain", "plain.c", &[]);
    assert_eq!(bench.run(&mut bench.hooked(&program, ALL)), "self caught\n");
    let log = bench.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("calls that went to the driver as they were: no driver "), "{log}");
}

#[test]
fn routes_helper_reads_both_kinds() {
    assert_eq!(routes("a caught\nb missed\nc caught\n"), (vec!["a", "c"], vec!["b"]));
}
