//! Each interception layer catches what it is for, and misses what only another catches: a test that could not
//! fail without its layer would prove nothing.

mod support;

use support::{Bench, routes};

const LOOKED_UP: [&str; 7] =
    ["dlsym", "dlvsym", "default", "proc_address", "proc_address_v2", "twin", "resolver_of_resolver"];
const PLUGIN: [&str; 4] = ["plugin_plt", "plugin_dlsym", "deepbind_plt", "deepbind_dlsym"];

fn expect(layers: &str, missed: &[&str]) {
    let bench = Bench::new();
    let program = bench.program("routes", "routes.c", &[]);
    let plugin = bench.library("plugin.so", "plugin.c", &["-lcuda"]);
    let output = bench.run(bench.hooked(&program, layers).arg(plugin));
    let wanted: Vec<_> = LOOKED_UP.iter().chain(&PLUGIN).filter(|route| !missed.contains(route)).copied().collect();
    assert_eq!(routes(&output), (wanted, missed.to_vec()), "layers {layers}\n{}", bench.log());
}

#[test]
fn inline_catches_what_is_looked_up() {
    expect("inline", &["plugin_plt", "deepbind_plt"]);
}

#[test]
fn got_catches_every_plugin() {
    expect("got", &[]);
}

#[test]
fn preload_catches_all_but_plugins_that_prefer_their_own_dependencies() {
    expect("preload", &["deepbind_plt", "deepbind_dlsym"]);
}

#[test]
fn bodies_catch_everything() {
    // All but an internal function that no name leads to; its address is learned from cuGetProcAddress.
    expect("bodies", &[]);
}

#[test]
fn all_layers_together_catch_everything_once() {
    expect("inline,got,preload", &[]);
    expect("inline,got,preload,bodies", &[]);
}

#[test]
fn no_layer_catches_nothing() {
    expect("none", &[&LOOKED_UP[..], &PLUGIN[..]].concat());
}

#[test]
fn programs_linked_against_the_driver_are_caught_however_they_are_bound() {
    let bench = Bench::new();
    let variants: [&[&str]; 6] = [
        &["-Wl,-z,lazy", "-Wl,-z,norelro"],
        &["-Wl,-z,lazy"],
        &["-Wl,-z,now", "-Wl,-z,relro"],
        &["-fno-plt", "-Wl,-z,now"],
        &["-no-pie", "-Wl,-z,lazy"],
        &["-Wl,--hash-style=sysv"],
    ];
    for (number, variant) in variants.iter().enumerate() {
        let args = [variant, &["-lcuda"][..]].concat();
        // The linker drops libraries nobody names before them.
        let program =
            bench.program(&format!("direct{number}"), "direct.c", &[&["-Wl,--no-as-needed"], &args[..]].concat());
        for (layers, all) in [("got", true), ("preload", true), ("bodies", true), ("none", false), ("inline", false)] {
            let output = bench.run(&mut bench.hooked(&program, layers));
            let (caught, missed) = routes(&output);
            let ways = ["plt", "plt_again", "table"];
            // The address of a function in a program at a fixed place is its own PLT's.
            let expected: (&[&str], &[&str]) = if all { (&ways, &[]) } else { (&[], &ways) };
            assert_eq!((&caught[..], &missed[..]), expected, "{layers} {variant:?}\n{}", bench.log());
        }
    }
}

/// The engine leaves its layer out, or gets along; the program runs either way, and the GOT catches what it always does.
#[test]
fn where_memory_cannot_be_written_and_executed_the_other_layers_do_it() {
    let bench = Bench::new();
    let denied = bench.program("denied", "denied.c", &[]);
    let program = bench.program("routes", "routes.c", &[]);
    let plugin = bench.library("plugin.so", "plugin.c", &["-lcuda"]);
    let all: Vec<_> = LOOKED_UP.iter().chain(&PLUGIN).copied().collect();
    for how in ["seccomp", "mprotect", "mdwe"] {
        for layers in ["inline", "bodies", "inline,got,preload", "inline,got,preload,bodies"] {
            let mut command = bench.hooked(&denied, layers);
            let output = command.arg(how).arg(&program).arg(&plugin).output().expect("it starts");
            if output.status.code() == Some(77) {
                eprintln!("this kernel has no {how}");
                continue;
            }
            let output = bench.accept(&output);
            if layers.contains("got") {
                assert_eq!(routes(&output), (all.clone(), vec![]), "{how} {layers}\n{}", bench.log());
            }
        }
    }
}
