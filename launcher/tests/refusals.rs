//! Everything gb-launch refuses: the exit code, what is said, and what to do.

mod common;

use common::{Place, refused, run};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_missing_command_is_127() {
    let place = Place::new();
    refused(
        &mut place.launch(&["no-such-program"]),
        127,
        &["gb-launch: no-such-program: not found in PATH", "full path"],
    );
    refused(&mut place.launch(&["./no-such-program"]), 127, &["./no-such-program: there is no such file"]);
    refused(&mut place.launch(&[""]), 127, &["the command is empty"]);
    place.program("here", "#!/bin/sh\n");
    refused(&mut place.launch(&["here"]), 127, &["there is one in this folder: write ./here"]);
}

#[test]
fn no_command_at_all_is_a_usage_error() {
    refused(&mut Place::new().launch(&[]), 2, &["COMMAND", "--help"]);
    refused(&mut Place::new().launch(&["--colour", "sh"]), 2, &["--colour", "--help"]);
}

#[test]
fn what_cannot_be_executed_is_126() {
    let place = Place::new();
    let script = place.program("script", "#!/bin/sh\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o644)).expect("chmod");
    refused(&mut place.launch(&["./script"]), 126, &["./script: may not be executed", "chmod +x ./script"]);
    refused(place.launch(&["script"]).env("PATH", place.path("")), 126, &["may not be executed"]);
    fs::create_dir(place.path("folder")).expect("folder");
    refused(&mut place.launch(&["./folder"]), 126, &["./folder: is a folder"]);
    place.program("text", "echo hello\n");
    refused(
        &mut place.launch(&["./text"]),
        126,
        &["./text: is neither a program (ELF) nor a script", "gb-launch sh ./text"],
    );
    place.program("lost", "#!/no/such/interpreter\n");
    refused(&mut place.launch(&["./lost"]), 126, &["./lost: its #! line cannot be followed", "/no/such/interpreter"]);
    place.program("empty", "#!\n");
    refused(&mut place.launch(&["./empty"]), 126, &["./empty: its #! line names no interpreter"]);
    let circle = place.path("circle");
    place.program("circle", &format!("#!{}\n", circle.display()));
    refused(&mut place.launch(&["./circle"]), 126, &["lead in a circle"]);
}

/// A made-up ELF header; enough for whoever only looks.
fn header(class: u8, machine: u16) -> Vec<u8> {
    let mut bytes = vec![0u8; 64];
    bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1]);
    bytes[16] = 2;
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    bytes
}

#[test]
fn programs_the_hook_cannot_enter_are_126_unless_forced() {
    let place = Place::new();
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    for (name, bytes, parts) in [
        ("static", header(2, machine), ["is statically linked", "dynamically linked build"]),
        ("old", header(1, 3), ["is a 32-bit x86 program", "use a build of the program for"]),
        ("foreign", header(2, 243), ["is a RISC-V program", "use a build of the program for"]),
    ] {
        let path = place.program(name, "");
        fs::write(&path, bytes).expect("write");
        let command = format!("./{name}");
        refused(&mut place.launch(&[&command]), 126, &[&command, parts[0], parts[1], "--force"]);
        place.program(&format!("{name}-script"), &format!("#!{}\n", path.display()));
        refused(&mut place.launch(&[&format!("./{name}-script")]), 126, &["which runs ./", parts[0]]);
        let (status, stdout, _) = run(&mut place.launch(&["--force", "--dry-run", &command]));
        assert!(status == Some(0) && stdout.contains(&command), "{stdout}");
    }
}

#[test]
fn a_real_static_program_runs_when_forced() {
    let place = Place::new();
    // Skipped where the static C library is not installed.
    let Some(_) = place.compiled("static", &["-static"]) else { return };
    refused(&mut place.launch(&["./static"]), 126, &["is statically linked"]);
    assert_eq!(run(&mut place.launch(&["--force", "./static"])).0, Some(0));
}

#[test]
fn setuid_programs_of_others_are_126() {
    let place = Place::new();
    let path = place.shell_named("raised");
    // SAFETY: the call has no arguments and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root || std::os::unix::fs::chown(&path, Some(1), Some(1)).is_err() {
        return; // Only root can make such a file.
    }
    for mode in [0o4755, 0o2755] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        refused(&mut place.launch(&["./raised"]), 126, &["./raised: is setuid or setgid", "sudo gb-launch", "--force"]);
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o2745)).expect("chmod");
    assert_eq!(
        run(&mut place.launch(&["./raised", "-c", "exit 5"])).0,
        Some(5),
        "setgid without x is a lock, not a privilege"
    );
}

#[test]
fn sizes_and_settings_that_make_no_sense_are_2() {
    let place = Place::new();
    refused(&mut place.launch(&["--vram", "lots", "env"]), 2, &["--vram", "'lots' is not a size", "12G"]);
    refused(&mut place.launch(&["--ram", "12X", "env"]), 2, &["--ram", "its unit is unknown"]);
    refused(&mut place.launch(&["--vram", "0", "env"]), 2, &["--vram 0 B: must be at least 2 MiB"]);
    refused(&mut place.launch(&["--ram", "5K", "env"]), 2, &["--ram 5 KiB: must be 0", "2 MiB"]);
    for (name, value, part) in [
        ("GREENBOOST_CHUNK", "3M", "must be a multiple of 2 MiB"),
        ("GREENBOOST_THRESHOLD", "1K", "must be at least 2 MiB"),
        ("GREENBOOST_VRAM", "0", "must be at least 2 MiB"),
        ("GREENBOOST_VRAM", "much", "is not a size"),
        ("GREENBOOST_SPILL", "maybe", "allowed are allow, never"),
        ("GREENBOOST_BACKINGS", "floppy", "allowed are kmod, host-numa, memfd"),
        ("GREENBOOST_LAYERS", "magic", "allowed are inline, got"),
        ("GREENBOOST_INCLUDE", "(", "is not a regular expression: unclosed group"),
        ("GREENBOOST_LOG_LEVEL", "loud", "allowed are error, warn, info, debug, trace"),
        ("GREENBOOST_PROFILE", "nobody", "known are"),
    ] {
        refused(place.launch(&["env"]).env(name, value), 2, &[name, part]);
    }
}

#[test]
fn a_tier_map_that_cannot_be_written_is_2_and_named() {
    let place = Place::new();
    refused(
        &mut place.launch(&["--map", "no/such/folder/map.json", "env"]),
        2,
        &["cannot write the tier map no/such/folder/map.json: No such file", "--map"],
    );
    refused(&mut place.launch(&["--map", "home", "env"]), 2, &["cannot write the tier map home: Is a directory"]);
}

#[test]
fn a_trace_that_would_overwrite_something_else_or_show_nothing_is_2() {
    let place = Place::new();
    let refused_with = |file: &str, stream: &str, parts: &[&str]| {
        refused(place.launch(&["--trace", file, "env"]).env("GREENBOOST_STREAM", stream), 2, parts);
    };
    std::fs::write(place.path("model.gguf"), "GGUF").expect("write");
    refused_with("model.gguf", "on", &["model.gguf", "not a trace", "choose another"]);
    refused_with("no/such/folder/trace.json", "on", &["cannot write the trace", "--trace"]);
    refused_with("trace.json", "off", &["streaming is off", "add --stream on"]);
    assert_eq!(std::fs::read_to_string(place.path("model.gguf")).expect("read"), "GGUF");
    assert!(!place.path("trace.json").exists());
}

#[test]
fn a_rule_that_is_none_is_2_and_says_what_is_allowed() {
    let place = Place::new();
    for (rule, said) in [
        ("ffn", "write REGEX=TIER"),
        ("ffn=disk", "the tier is 'disk', allowed are vram, auto, ram"),
        ("(=ram", "'(' is not a regular expression: unclosed group"),
    ] {
        refused(&mut place.launch(&["--place", rule, "env"]), 2, &["--place", rule, said]);
    }
    for (rules, said) in [("ffn=ram", "it needs five fields"), ("[\tram\t1\t\t0", "'[' is not a regular expression")] {
        let mut command = place.launch(&["env"]);
        refused(command.env("GREENBOOST_PLACE", rules), 2, &["your environment has GREENBOOST_PLACE", said]);
    }
}

#[test]
fn a_log_that_cannot_be_written_is_2_and_named() {
    let place = Place::new();
    refused(
        &mut place.launch(&["--log", "no/such/folder/gb.log", "env"]),
        2,
        &["cannot write the log no/such/folder/gb.log: No such file"],
    );
    refused(&mut place.launch(&["--log", "home", "env"]), 2, &["cannot write the log home: Is a directory", "--log"]);
    refused(
        place.launch(&["env"]).env("GREENBOOST_LOG", "/no/such/gb.log"),
        2,
        &["cannot write the log /no/such/gb.log"],
    );
    refused(&mut place.launch(&["-v", "env"]), 2, &["-v needs --log FILE"]);
}

#[test]
fn a_missing_or_useless_hook_is_2() {
    let place = Place::new();
    let with = |path: &str| {
        let mut command = place.launch(&["env"]);
        command.env("GREENBOOST_HOOK", path);
        command
    };
    refused(&mut with("/no/such/hook.so"), 2, &["GREENBOOST_HOOK=/no/such/hook.so: there is no such file"]);
    place.program("text.so", "hello");
    refused(&mut with("text.so"), 2, &["text.so: is not a shared library"]);
    fs::create_dir(place.path("a b")).expect("folder");
    fs::copy(common::hook(), place.path("a b/hook.so")).expect("copy");
    refused(&mut with("a b/hook.so"), 2, &["a b/hook.so: LD_PRELOAD cannot carry", "GREENBOOST_HOOK"]);

    let alone = place.path("gb-launch");
    common::copy(std::path::Path::new(env!("CARGO_BIN_EXE_gb-launch")), &alone);
    let mut command = std::process::Command::new(alone);
    command.arg("env").env_remove("GREENBOOST_HOOK").env("HOME", place.path("home"));
    if !std::path::Path::new("/usr/lib/greenboost/libgreenboost_hook.so").exists() {
        refused(&mut command, 2, &["libgreenboost_hook.so is missing", "GREENBOOST_HOOK", "/usr/lib/greenboost"]);
    }
}

#[test]
fn a_bad_profile_starts_nothing() {
    let place = Place::new();
    refused(&mut place.launch(&["--profile", "olama", "env"]), 2, &["there is no profile named \"olama\"", "ollama"]);
    let path = place.profile("mine.toml", "name = 'mine'\n\n[memory]\nspill = \"maybe\"\n");
    let expected = format!("{}:4: memory.spill = \"maybe\": allowed are allow, never", path.display());
    refused(&mut place.launch(&["touch", "started"]), 2, &[&expected]);
    assert!(!place.path("started").exists());
}

#[test]
fn ollama_clients_are_told_about_the_server() {
    let place = Place::new();
    place.shell_named("ollama");
    let closed = { TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address").to_string() };
    for verb in ["run", "pull", "list", "ps"] {
        let parts = [
            &*format!("`ollama {verb}` is only a client"),
            "No server answers at",
            "gb-launch ollama serve",
            "--force",
        ];
        refused(place.launch(&["./ollama", verb, "llama3"]).env("OLLAMA_HOST", &closed), 2, &parts);
    }
    let server = TcpListener::bind("127.0.0.1:0").expect("port");
    let taken = server.local_addr().expect("address").to_string();
    refused(
        place.launch(&["./ollama", "run", "x"]).env("OLLAMA_HOST", &taken),
        2,
        &["is only a client", &taken, "gb-launch ollama serve"],
    );
    refused(
        place.launch(&["./ollama", "run", "x"]).env("OLLAMA_HOST", "gpu-box.example"),
        2,
        &["gpu-box.example:11434", "there"],
    );
    refused(
        place.launch(&["./ollama", "serve"]).env("OLLAMA_HOST", &taken),
        2,
        &["`ollama serve` cannot start", &taken, "already in use"],
    );

    // A free port, and commands that are neither: they start (the shell then does not know them).
    for (arguments, host) in [(["./ollama", "serve"], &closed), (["./ollama", "gpu-discover"], &taken)] {
        let (status, _, stderr) = run(place.launch(&arguments).env("OLLAMA_HOST", host));
        assert!(status != Some(2) || !stderr.contains("gb-launch:"), "{stderr}");
    }
    let forced = run(place.launch(&["--force", "--dry-run", "./ollama", "run", "x"]).env("OLLAMA_HOST", &closed));
    assert_eq!(forced.0, Some(0), "{}", forced.2);
}
