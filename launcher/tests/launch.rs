//! gb-launch starting commands: what the command gets, and that nothing else is noticed.

mod common;

use common::{Place, hook, run};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

/// The environment a command sees, as lines.
fn environment(command: &mut std::process::Command) -> Vec<String> {
    let (status, stdout, stderr) = run(command);
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    stdout.lines().map(str::to_owned).collect()
}

fn value<'a>(lines: &'a [String], name: &str) -> Option<&'a str> {
    lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

#[test]
fn the_command_keeps_its_exit_code_and_its_output_is_all_there_is() {
    let place = Place::new();
    let mut command = place.launch(&["sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!(run(&mut command), (Some(42), "out\n".to_owned(), "err\n".to_owned()));
}

#[test]
fn the_command_is_the_same_process_and_dies_of_its_own_signals() {
    let place = Place::new();
    let child = place.launch(&["sh", "-c", "echo $$; kill -TERM $$"]).stdout(Stdio::piped()).spawn().expect("starts");
    let pid = child.id();
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.signal(), Some(15));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), pid.to_string());
}

#[test]
fn blocked_and_ignored_signals_are_those_of_a_direct_start() {
    let signals = |command: &mut std::process::Command| {
        let text = run(command).1;
        text.lines().filter(|line| line.starts_with("SigBlk") || line.starts_with("SigIgn")).collect::<String>()
    };
    let direct = signals(std::process::Command::new("cat").arg("/proc/self/status"));
    assert!(direct.contains("SigIgn"));
    assert_eq!(signals(&mut Place::new().launch(&["cat", "/proc/self/status"])), direct);
}

#[test]
fn bytes_pass_through_unchanged() {
    let place = Place::new();
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let mut child = place.launch(&["cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("stdin");
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let output = child.wait_with_output().expect("ends");
    writer.join().expect("writer").expect("written");
    assert!(output.status.success() && output.stdout == bytes);
}

#[test]
fn options_behind_the_command_are_the_commands() {
    let place = Place::new();
    let show = "for word; do echo \"<$word>\"; done";
    for arguments in [vec!["sh"], vec!["--", "sh"], vec!["--vram", "12G", "sh"]] {
        let mut words = arguments.clone();
        words.extend(["-c", show, "sh", "--vram", "-v", "--", "--help", "a b", ""]);
        let (status, stdout, stderr) = run(&mut place.launch(&words));
        assert_eq!((status, stderr.as_str()), (Some(0), ""));
        assert_eq!(stdout, "<--vram>\n<-v>\n<-->\n<--help>\n<a b>\n<>\n", "{arguments:?}");
    }
}

#[test]
fn the_command_keeps_the_name_it_was_called_by() {
    let place = Place::new();
    let (_, stdout, _) = run(&mut place.launch(&["sh", "-c", "tr '\\0' ' ' < /proc/$$/cmdline"]));
    assert!(stdout.starts_with("sh -c "), "{stdout}");
}

/// How LD_PRELOAD names a library: where there are programs for musl, as only glibc's loader understands it.
fn preloaded(library: &std::path::Path) -> String {
    let musl = format!("/lib/ld-musl-{}.so.1", std::env::consts::ARCH);
    let up = if std::path::Path::new(&musl).exists() { format!("$ORIGIN{}", "/..".repeat(64)) } else { String::new() };
    format!("{up}{}", library.display())
}

/// On a machine with musl's compiler; `variables` has a test of the path itself.
#[test]
fn programs_for_musl_start_from_a_hooked_shell_and_their_children_are_hooked() {
    let place = Place::new();
    std::fs::write(
        place.path("between.c"),
        "#include <stdio.h>\n#include <unistd.h>\nint main(int n, char **of) { puts(\"musl\"); fflush(stdout); return \
         n > 1 && execvp(of[1], of + 1); }\n",
    )
    .expect("written");
    let between = place.path("between");
    let mut compiler = std::process::Command::new("musl-gcc");
    if compiler.arg("-o").arg(&between).arg(place.path("between.c")).status().is_err() {
        eprintln!("there is no musl-gcc");
        return;
    }
    let script = format!("{} && {} cat /proc/self/maps", between.display(), between.display());
    let (code, stdout, stderr) = run(&mut place.launch(&["sh", "-c", &script]));
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.starts_with("musl\nmusl\n") && stdout.contains("libgreenboost_hook.so"), "{stdout}");
    let forced = run(&mut place.launch(&["--force", &between.display().to_string(), "cat", "/proc/self/maps"]));
    assert!(forced.0 == Some(0) && forced.1.contains("libgreenboost_hook.so"), "{forced:?}");
}

#[test]
fn the_hook_is_preloaded_before_others_and_once() {
    let place = Place::new();
    let file = hook().display().to_string();
    let hook = preloaded(hook());
    let preload = |before: &str| {
        let lines = environment(place.launch(&["env"]).env("LD_PRELOAD", before));
        value(&lines, "LD_PRELOAD").map(str::to_owned).expect("LD_PRELOAD")
    };
    assert_eq!(preload(""), hook);
    assert_eq!(preload(&hook), hook);
    // A second library that exists, so that the loader has nothing to complain about.
    let other = place.path("other.so");
    std::fs::copy(&file, &other).expect("copy");
    assert_eq!(preload(&other.display().to_string()), format!("{hook}:{}", other.display()));
    let maps = run(&mut place.launch(&["cat", "/proc/self/maps"])).1;
    assert!(maps.contains("libgreenboost_hook.so"), "the loader loads it");
}

#[test]
fn the_command_line_beats_the_environment_and_that_beats_the_profile() {
    let place = Place::new();
    let text = "name = 'generic'\n[match]\nexecutable = '.*'\n[memory]\nchunk = '32MiB'\nthreshold = '128MiB'";
    place.profile("generic.toml", text);
    let lines = environment(
        place
            .launch(&["--vram", "3G", "env"])
            .env("GREENBOOST_VRAM", "1G")
            .env("GREENBOOST_RAM", "5GiB")
            .env("GREENBOOST_CHUNK", "16M"),
    );
    for (name, expected) in [
        ("GREENBOOST_ACTIVE", "1".to_owned()),
        ("GREENBOOST_PROFILE", "generic".to_owned()),
        ("GREENBOOST_VRAM", (3_u64 << 30).to_string()),
        ("GREENBOOST_RAM", (5_u64 << 30).to_string()),
        ("GREENBOOST_CHUNK", (16 << 20).to_string()),
        ("GREENBOOST_THRESHOLD", (128 << 20).to_string()),
    ] {
        assert_eq!(value(&lines, name), Some(&*expected), "{name}");
    }
}

#[test]
fn hand_set_switches_reach_the_hook() {
    let place = Place::new();
    let lines = environment(
        place
            .launch(&["env"])
            .env("GREENBOOST_LAYERS", "got")
            .env("GREENBOOST_DISABLE", "1")
            .env("GREENBOOST_BACKINGS", "memfd")
            .env("GREENBOOST_SPILL", "never"),
    );
    for (name, expected) in [
        ("GREENBOOST_LAYERS", "got"),
        ("GREENBOOST_DISABLE", "1"),
        ("GREENBOOST_BACKINGS", "memfd"),
        ("GREENBOOST_SPILL", "never"),
    ] {
        assert_eq!(value(&lines, name), Some(expected), "{name}");
    }
}

#[test]
fn rules_on_the_command_line_come_before_the_profiles_or_the_environments() {
    let place = Place::new();
    place.profile("p.toml", "name = 'p'\n[[place]]\ntensor = 'ffn'\npriority = 7");
    let rules = |arguments: &[&str], variable: &str| {
        let mut words = vec!["--profile", "p"];
        words.extend(arguments.iter().copied().chain(["env"]));
        // A variable of several lines: env prints it as it is.
        let lines = environment(place.launch(&words).env("GREENBOOST_PLACE", variable));
        let first = lines.iter().position(|line| line.starts_with("GREENBOOST_PLACE=")).expect("rules");
        let fields = lines[first..].iter().take_while(|line| line.contains('\t'));
        let tensors = fields.map(|line| line.trim_start_matches("GREENBOOST_PLACE=").replace('\t', " "));
        tensors.collect::<Vec<_>>()
    };
    assert_eq!(rules(&[], ""), ["ffn auto 7 0 "].map(|rule| rule.replace("7 0 ", "7  0")));
    let two = ["--place", "a=b=ram", "--place", r"blk\.\d=vram"];
    assert_eq!(rules(&two, ""), ["a=b ram 50  0", r"blk\.\d vram 50  0", "ffn auto 7  0"]);
    // The user's own variable replaces the profile's rules, as with every other setting.
    assert_eq!(rules(&two[..2], "mine\tvram\t1\t0-3\t0"), ["a=b ram 50  0", "mine vram 1 0-3 0"]);
}

#[test]
fn the_tier_map_is_made_absolute_and_beats_the_variable() {
    let place = Place::new();
    let lines = environment(place.launch(&["--map", "map.json", "env"]).env("GREENBOOST_MAP", "other.json"));
    let expected = place.path("map.json");
    assert_eq!(value(&lines, "GREENBOOST_MAP").map(std::path::Path::new), Some(expected.as_path()));
    let lines = environment(place.launch(&["env"]).env("GREENBOOST_MAP", "other.json"));
    assert_eq!(value(&lines, "GREENBOOST_MAP").map(std::path::Path::new), Some(place.path("other.json").as_path()));
    assert_eq!(value(&environment(&mut place.launch(&["env"])), "GREENBOOST_MAP"), None);
    // What was tried beside it is gone.
    let left = std::fs::read_dir(place.path("")).expect("folder").flatten();
    let left: Vec<_> =
        left.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().contains("map.json.")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_trace_of_an_earlier_run_makes_way_but_not_for_a_dry_run() {
    let place = Place::new();
    let old = || std::fs::read_to_string(place.path("trace.json")).expect("read");
    std::fs::write(place.path("trace.json"), "[]").expect("write");
    let stream = |arguments: &[&str]| {
        let mut command = place.launch(arguments);
        command.env("GREENBOOST_STREAM", "on");
        command
    };
    let (status, stdout, _) = run(&mut stream(&["--dry-run", "--trace", "trace.json", "env"]));
    assert!(status == Some(0) && stdout.contains("trace.json\n"), "{stdout}");
    assert_eq!(old(), "[]");
    let lines = environment(&mut stream(&["--trace", "trace.json", "env"]));
    let expected = place.path("trace.json");
    assert_eq!(value(&lines, "GREENBOOST_TRACE").map(std::path::Path::new), Some(expected.as_path()));
    assert_eq!(old(), "");
    assert_eq!(value(&environment(&mut stream(&["env"])), "GREENBOOST_TRACE"), None);
}

#[test]
fn a_launcher_inside_a_launcher_starts_afresh() {
    let place = Place::new();
    place.profile("outer.toml", "name = 'outer'\n[memory]\nchunk = '32MiB'\n[environment]\nOUTER = '1'");
    let log = place.path("gb.log");
    let inner = env!("CARGO_BIN_EXE_gb-launch");
    let log = log.to_str().expect("path");
    let lines = environment(&mut place.launch(&["--profile", "outer", "--vram", "3G", "--log", log, inner, "env"]));
    assert_eq!(value(&lines, "GREENBOOST_PROFILE"), Some("generic"));
    assert_eq!(value(&lines, "GREENBOOST_CHUNK"), Some("67108864"));
    for stale in ["GREENBOOST_VRAM", "GREENBOOST_LOG", "OUTER"] {
        assert_eq!(value(&lines, stale), None, "{stale}");
    }
    assert_eq!(value(&lines, "LD_PRELOAD"), Some(&*preloaded(hook())), "once");

    // What is set by hand counts at every depth.
    let lines = environment(place.launch(&["--profile", "outer", inner, "env"]).env("GREENBOOST_CHUNK", "16M"));
    assert_eq!(value(&lines, "GREENBOOST_CHUNK"), Some("16777216"));
}

#[test]
fn a_profiles_variables_are_set_unless_the_user_or_an_option_did() {
    let place = Place::new();
    // A llama-server that prints its environment: a copy of `env` ignores its name but reads options.
    let server = place.path("llama-server");
    common::copy(std::path::Path::new("/usr/bin/env"), &server);
    let lines = environment(&mut place.launch(&["./llama-server"]));
    assert_eq!(value(&lines, "GREENBOOST_PROFILE"), Some("llama-server"));
    assert_eq!(value(&lines, "LLAMA_ARG_CTX_SIZE"), Some("8192"));
    let lines = environment(place.launch(&["./llama-server"]).env("LLAMA_ARG_CTX_SIZE", "0"));
    assert_eq!(value(&lines, "LLAMA_ARG_CTX_SIZE"), Some("0"));
    let (_, dry, _) = run(&mut place.launch(&["--dry-run", "./llama-server", "-c", "4096"]));
    assert!(dry.contains("LLAMA_ARG_CTX_SIZE: the command has -c") && !dry.contains("CTX_SIZE=8192"), "{dry}");
}

#[test]
fn the_command_is_hooked_whatever_the_profile_includes() {
    let place = Place::new();
    let mut command = place.launch(&["--profile", "ollama", "env"]);
    let lines = environment(&mut command);
    assert!(value(&lines, "GREENBOOST_INCLUDE").expect("include").ends_with("|env)$"));

    // A script runs as its interpreter, under the interpreter's real name.
    let real = place.shell_named("interpreter4.2");
    std::os::unix::fs::symlink(&real, place.path("interpreter")).expect("link");
    let script = format!("#!{}\nenv\n", place.path("interpreter").display());
    place.program("script", &script);
    let lines = environment(&mut place.launch(&["--profile", "ollama", "./script"]));
    let include = value(&lines, "GREENBOOST_INCLUDE").expect("include");
    assert!(include.ends_with("|script|interpreter|interpreter4\\.2)$"), "{include}");
}

#[test]
fn the_log_is_made_absolute_and_appended_to() {
    let place = Place::new();
    std::fs::write(place.path("gb.log"), "before\n").expect("write");
    let lines = environment(&mut place.launch(&["--log", "gb.log", "-v", "env"]));
    let expected = place.path("gb.log");
    assert_eq!(value(&lines, "GREENBOOST_LOG").map(std::path::Path::new), Some(expected.as_path()));
    assert_eq!(value(&lines, "GREENBOOST_LOG_LEVEL"), Some("debug"));
    assert_eq!(std::fs::read_to_string(expected).expect("read"), "before\n");
    let lines = environment(&mut place.launch(&["--log", "gb.log", "-vv", "env"]));
    assert_eq!(value(&lines, "GREENBOOST_LOG_LEVEL"), Some("trace"));
    let lines = environment(&mut place.launch(&["env"]));
    assert_eq!((value(&lines, "GREENBOOST_LOG"), value(&lines, "GREENBOOST_LOG_LEVEL")), (None, Some("info")));
}

#[test]
fn a_dry_run_shows_everything_and_starts_and_leaves_nothing() {
    let place = Place::new();
    place.shell_named("llama-server");
    let arguments = [
        "--dry-run",
        "-v",
        "--vram",
        "12G",
        "--log",
        "new.log",
        "--map",
        "new.json",
        "--place",
        "x=ram",
        "./llama-server",
        "-c",
        "touch started",
    ];
    let (status, stdout, stderr) = run(place.launch(&arguments).env("OLD", "1"));
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    for part in [
        "command      ./llama-server -c 'touch started'",
        "program      ./llama-server",
        "profile      llama-server: llama.cpp's server and chat programs (built-in profiles/llama-server.toml)",
        "because executable \"llama-server\" matches ^",
        &format!("hook         {}", hook().display()),
        "VRAM         12 GiB",
        "RAM          a share of what is available",
        "allocations  from 256 MiB on, in chunks of 64 MiB",
        "reported     free: extended, total: physical",
        "new.log (debug)",
        "placement    ram   50  x\n",
        "auto  10  ffn_(gate|up|down|gate_up)_(ch)?exps|",
        "tier map     /",
        "new.json\n",
        "    GREENBOOST_ACTIVE=1",
        "    GREENBOOST_VRAM=12884901888",
        "    LD_PRELOAD=",
        &preloaded(hook()),
        "LLAMA_ARG_CTX_SIZE: the command has -c",
    ] {
        assert!(stdout.contains(part), "{part:?} is not in\n{stdout}");
    }
    assert!(!place.path("started").exists() && !place.path("new.log").exists() && !place.path("new.json").exists());
}

#[test]
fn a_dry_run_says_when_the_command_itself_is_left_alone() {
    let place = Place::new();
    let (_, stdout, _) = run(&mut place.launch(&["--dry-run", "env", "python3"]));
    assert!(stdout.contains("env itself is left alone"), "{stdout}");
}

#[test]
fn a_profile_can_be_chosen_by_option_and_by_variable() {
    let place = Place::new();
    let chosen =
        |command: &mut std::process::Command| value(&environment(command), "GREENBOOST_PROFILE").map(str::to_owned);
    assert_eq!(chosen(&mut place.launch(&["--profile", "ollama", "env"])).as_deref(), Some("ollama"));
    assert_eq!(chosen(place.launch(&["env"]).env("GREENBOOST_PROFILE", "rpc-server")).as_deref(), Some("rpc-server"));
    let mut both = place.launch(&["--profile", "ollama", "env"]);
    assert_eq!(chosen(both.env("GREENBOOST_PROFILE", "rpc-server")).as_deref(), Some("ollama"));
}

#[test]
fn the_hook_is_found_beside_the_program_and_in_lib() {
    for at in ["bin", "lib", "lib/greenboost"] {
        let place = Place::new();
        std::fs::create_dir_all(place.path(at)).expect("folder");
        let launcher = place.launcher_at("bin/gb-launch");
        let library = place.path(at).join("libgreenboost_hook.so");
        std::fs::copy(hook(), &library).expect("copy");
        let mut command = std::process::Command::new(launcher);
        command.arg("env").env_remove("GREENBOOST_HOOK").env("HOME", place.path("home"));
        let lines = environment(&mut command);
        let expected = std::fs::canonicalize(library).expect("path");
        assert_eq!(value(&lines, "LD_PRELOAD"), Some(&*preloaded(&expected)), "{at}");
    }
}

#[test]
fn a_short_dry_run_is_what_a_person_decides_about_and_says_how_to_see_the_rest() {
    let place = Place::new();
    let short = run(&mut place.launch(&["--dry-run", "--vram", "12GiB", "env"])).1;
    let long = run(&mut place.launch(&["--dry-run", "-v", "--vram", "12GiB", "env"])).1;
    for part in ["program", "profile      generic", "VRAM         12 GiB", "RAM", "plan", "-v shows them"] {
        assert!(short.contains(part), "{part:?} is not in\n{short}");
    }
    for part in ["GREENBOOST_CHUNK", "LD_PRELOAD", "allocations", "kernels"] {
        assert!(long.contains(part) && !short.contains(part), "{part:?} in\n{short}\n{long}");
    }
    assert!(short.lines().count() < 15 && short.lines().count() < long.lines().count() / 2, "{short}");
}
