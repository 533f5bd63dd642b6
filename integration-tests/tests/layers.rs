//! Every way of reaching the driver is caught by the default layers, by each layer meant for it alone, and by nothing
//! when those layers are off.
//!
//! A fixture allocates twice the VRAM: only a hooked program can. So "missed" is shown by the same run as "caught".

use integration_tests::{Outcome, World};

/// One way of reaching the driver.
struct Route {
    /// The fixture and its arguments.
    program: &'static str,
    /// The layers that catch it alone. All others miss it alone.
    caught_by: &'static [&'static str],
}

const fn route(program: &'static str, caught_by: &'static [&'static str]) -> Route {
    Route { program, caught_by }
}

/// Calls that go through relocations of an object: its own PLT and GOT, or interposition of the name.
const LINKED: &[&str] = &["got", "preload"];
/// Look-ups at run time: the body of `dlsym`, the caller's GOT entry for it, or interposition of it.
const LOOKED_UP: &[&str] = &["inline", "got", "preload"];

const ROUTES: &[Route] = &[
    route("direct-lazy", LINKED),
    route("direct-now", LINKED),
    route("direct-noplt", LINKED),
    route("direct-table", LINKED),
    route("wrapped", LINKED),
    route("plugin-host", LINKED),
    // The plugin prefers its own libraries to ours: its relocations are the only handle.
    route("plugin-host deepbind", &["got"]),
    route("plugin-host runtime", LOOKED_UP),
    // As above, and it finds the loader's own dlsym, whose body can still be patched.
    route("plugin-host runtime deepbind", &["inline", "got"]),
    route("dlsym", LOOKED_UP),
    route("dlvsym", LOOKED_UP),
    // Who goes out of his way to find the loader's own dlsym gets it: only its body can be patched.
    route("libc-dlsym", &["inline"]),
    route("rtld-default", LOOKED_UP),
    // What comes next is our export; the other layers must leave this question alone (see `lookup` in the hook).
    route("rtld-next", &["preload"]),
    route("getproc v1", LOOKED_UP),
    route("getproc v2", LOOKED_UP),
    route("getproc v2-null", LOOKED_UP),
    route("getproc self", LOOKED_UP),
    route("getproc per-thread", LOOKED_UP),
    route("getproc versions", LOOKED_UP),
    route("static-runtime", LOOKED_UP),
    route("early", LINKED),
    route("early-dlsym", LOOKED_UP),
    route("forks fork", LOOKED_UP),
    route("forks clean", LOOKED_UP),
    route("forks exec", LOOKED_UP),
    route("threads", LOOKED_UP),
    route("ctypes_driver.py", LOOKED_UP),
];

fn run(world: &World, program: &str) -> Outcome {
    let mut words = program.split(' ');
    let name = words.next().unwrap_or_default();
    world.run_with(name, &words.collect::<Vec<_>>())
}

/// Runs every route in worlds of this kind and compares what was caught; all differences are shown at once.
#[track_caller]
fn expect(world: impl Fn() -> World, wanted: impl Fn(&Route) -> bool) {
    let mut wrong = Vec::new();
    for route in ROUTES {
        let outcome = run(&world(), route.program);
        if outcome.field("skipped").is_some() {
            continue;
        }
        let ended_well = outcome.status.success() && outcome.stderr.is_empty();
        let caught = outcome.field("caught").map(|value| value == "1");
        if !ended_well || caught != Some(wanted(route)) {
            wrong.push(format!("{}: wanted caught={}\n{}", route.program, wanted(route), outcome.report()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} routes:\n\n{}", wrong.len(), ROUTES.len(), wrong.join("\n\n"));
}

#[test]
fn without_greenboost_every_route_ends_in_the_drivers_own_refusal() {
    expect(World::new, |_| false);
}

#[test]
fn the_default_layers_catch_every_route() {
    expect(|| World::new().hooked(), |_| true);
}

#[test]
fn without_layers_every_route_is_missed() {
    expect(|| World::new().layers("none"), |_| false);
}

#[test]
fn the_kill_switch_turns_everything_off() {
    expect(|| World::new().hooked().env("GREENBOOST_DISABLE", "1"), |_| false);
}

#[test]
fn inline_alone_catches_what_is_looked_up() {
    expect(|| World::new().layers("inline"), |route| route.caught_by.contains(&"inline"));
}

#[test]
fn got_alone_catches_linked_and_looked_up() {
    expect(|| World::new().layers("got"), |route| route.caught_by.contains(&"got"));
}

#[test]
fn preload_alone_catches_all_but_deepbind() {
    expect(|| World::new().layers("preload"), |route| route.caught_by.contains(&"preload"));
}

#[test]
fn a_foreign_wrapper_with_rtld_next_works_before_and_after_ours() {
    for (name, world) in [
        ("before", World::new().hooked().preload_before("libwrapper.so")),
        ("after", World::new().hooked().preload_after("libwrapper.so")),
        ("before, preload only", World::new().layers("preload").preload_before("libwrapper.so")),
        ("after, preload only", World::new().layers("preload").preload_after("libwrapper.so")),
        ("after, got only", World::new().layers("got").preload_after("libwrapper.so")),
    ] {
        let outcome = world.run("wrapped").ok();
        assert!(outcome.caught(), "wrapper {name}\n{}", outcome.report());
    }
    // Where the wrapper comes first, the program's calls are the wrapper's to see; without us it sees them too.
    let alone = World::new().preload_before("libwrapper.so").run("wrapped").ok();
    assert_eq!(alone.field("wrapped").as_deref(), Some("1"), "{}", alone.report());
    let first = World::new().layers("preload").preload_before("libwrapper.so").run("wrapped").ok();
    assert_eq!(first.field("wrapped").as_deref(), Some("2"), "{}", first.report());
}

#[test]
fn addresses_other_than_the_exported_ones_are_caught_too() {
    // A driver may return entry points from cuGetProcAddress that no symbol names.
    for program in ["getproc v1", "getproc v2", "getproc self", "getproc per-thread", "static-runtime", "threads"] {
        for layers in LOOKED_UP.iter().copied().chain(["inline,got,preload"]) {
            let outcome = run(&World::new().layers(layers).env("SIMGPU_TWINS", "1"), program).ok();
            assert!(outcome.caught(), "{layers}\n{}", outcome.report());
        }
    }
}

#[test]
fn results_and_output_are_those_of_an_unhooked_program_when_everything_fits() {
    for program in ["direct-now", "getproc v2", "static-runtime", "plugin-host", "ctypes_driver.py"] {
        // 40 MiB of 64: the plain driver can do this.
        let small = || World::new().vram("64MiB").env("GB_FIXTURE_BYTES", (40 << 20).to_string());
        let plain = run(&small(), program).ok();
        let hooked = run(&small().hooked(), program).ok();
        assert!(plain.caught() && plain.field("checksum").is_some(), "{}", plain.report());
        assert_eq!((&plain.stdout, &plain.stderr), (&hooked.stdout, &hooked.stderr), "{}", hooked.report());
    }
}

#[test]
fn without_a_driver_programs_behave_as_without_us() {
    for program in ["dlsym", "getproc v2", "static-runtime", "plugin-host", "direct-now", "early", "ctypes_driver.py"] {
        let plain = run(&World::new().no_driver(), program);
        let hooked = run(&World::new().no_driver().hooked(), program);
        assert_eq!(
            (&plain.stdout, &plain.stderr, plain.status),
            (&hooked.stdout, &hooked.stderr, hooked.status),
            "{program}\n{}",
            hooked.report()
        );
    }
}
