//! Words in front of a program, clients that start it elsewhere, bundles, and programs the library cannot be loaded into.

mod common;

use common::planned::place;
use common::{Place, refused, run};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// What a llama-server prints that was started by this command.
fn profile(place: &Place, words: &[&str]) -> String {
    let (code, stdout, stderr) = run(&mut place.launch(words));
    assert_eq!(code, Some(0), "{words:?}: {stderr}");
    let line = stdout.lines().find_map(|line| line.strip_prefix("GREENBOOST_PROFILE="));
    line.unwrap_or_else(|| panic!("{words:?}: {stdout}{stderr}")).to_owned()
}

#[test]
fn a_program_behind_other_words_gets_its_own_profile_and_arguments() {
    let place = Place::new();
    place.program("llama-server", "#!/bin/sh\nenv; echo \"<$*>\"\n");
    for words in [
        &["nice", "-n", "5"][..],
        &["env", "A=b"],
        &["env", "-u", "X", "A=b", "nice"],
        &["nohup"],
        &["timeout", "60"],
        &["stdbuf", "-oL"],
        &["setsid", "-w"],
        &["sh", "-c", "exec \"$@\"", "_"],
    ] {
        let command = [words, &["./llama-server", "-c", "77"]].concat();
        assert_eq!(profile(&place, &command), "llama-server", "{words:?}");
        let (_, stdout, _) = run(&mut place.launch(&command));
        assert!(stdout.contains("<-c 77>") && !stdout.contains("LLAMA_ARG_CTX_SIZE"), "its option counts: {stdout}");
    }
    assert_eq!(profile(&place, &["bash", "-c", "./llama-server -c 77"]), "llama-server");
    assert_eq!(profile(&place, &["sh", "-c", "A=b ./llama-server > /dev/stdout"]), "llama-server");
    assert_eq!(profile(&place, &["sh", "-c", "cd / && env"]), "generic");
}

#[test]
fn what_is_set_on_the_way_is_the_users_word() {
    let (place, _) = place();
    let (_, stdout, _) = run(&mut place.launch(&["env", "LLAMA_ARG_CTX_SIZE=4096", "./llama-server"]));
    assert!(stdout.contains("LLAMA_ARG_CTX_SIZE=4096\n"), "{stdout}");
    let (_, shown, _) =
        run(&mut place.launch(&["--dry-run", "-v", "env", "LLAMA_ARG_CTX_SIZE=4096", "./llama-server"]));
    assert!(shown.contains("LLAMA_ARG_CTX_SIZE: you have set it to"), "{shown}");
}

#[test]
fn clients_and_words_that_drop_the_preload_are_refused_with_the_order_that_works() {
    let place = Place::new();
    for name in ["docker", "podman", "nerdctl", "kubectl", "flatpak", "snap", "systemd-run", "ssh", "sudo", "doas"] {
        place.shell_named(name);
        let program = format!("./{name}");
        refused(&mut place.launch(&[&program, "run", "x"]), 2, &[&format!("`{name}`"), "gb-launch", "--force"]);
        refused(&mut place.launch(&["nice", &program, "run", "x"]), 2, &[&format!("`{name}`")]);
        assert_eq!(run(&mut place.launch(&["--force", &program, "-c", "exit 7"])).0, Some(7));
    }
    // What a link leads to counts as well, as for programs of snap.
    std::os::unix::fs::symlink(place.path("snap"), place.path("ollama-snap")).expect("link");
    refused(&mut place.launch(&["./ollama-snap"]), 2, &["`snap`"]);
    for words in [&["env", "-i", "env"][..], &["env", "-u", "LD_PRELOAD", "env"], &["env", "LD_PRELOAD=/x.so", "env"]] {
        refused(&mut place.launch(words), 2, &["takes LD_PRELOAD away", "gb-launch COMMAND"]);
    }
}

#[test]
fn a_program_started_by_its_loader_is_that_program() {
    let place = Place::new();
    let loader = "/lib64/ld-linux-x86-64.so.2";
    if !std::path::Path::new(loader).exists() {
        return;
    }
    place.shell_named("llama-server");
    let words = [
        loader,
        "--library-path",
        "/lib/x86_64-linux-gnu:/lib64",
        "./llama-server",
        "-c",
        "echo $GREENBOOST_PROFILE:$0",
    ];
    let (code, stdout, stderr) = run(&mut place.launch(&words));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.starts_with("llama-server:"), "{stdout}");
    let included = run(&mut place.launch(&["--dry-run", "-v", loader, "./llama-server"])).1;
    assert!(included.contains("ld-linux-x86-64"), "the process's executable is the loader: {included}");
}

#[test]
fn an_appdir_is_the_program_that_it_says_it_is() {
    let place = Place::new();
    place.program("App.AppDir/AppRun", "#!/bin/sh\necho \"$GREENBOOST_PROFILE\"\n");
    fs::write(place.path("App.AppDir/x.desktop"), "[Desktop Entry]\nName=x\nExec=/usr/bin/llama-server %F\n")
        .expect("written");
    assert_eq!(run(&mut place.launch(&["App.AppDir/AppRun"])).1, "llama-server\n");
}

/// An ELF file that names this loader.
fn program_for(loader: &str) -> Vec<u8> {
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let mut bytes = vec![0u8; 64 + 56];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[16] = 3;
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
    bytes[54..56].copy_from_slice(&56u16.to_le_bytes());
    bytes[56..58].copy_from_slice(&1u16.to_le_bytes());
    bytes[64..68].copy_from_slice(&3u32.to_le_bytes());
    bytes[72..80].copy_from_slice(&120u64.to_le_bytes());
    bytes[96..104].copy_from_slice(&(loader.len() as u64 + 1).to_le_bytes());
    bytes.extend(loader.as_bytes());
    bytes.push(0);
    bytes
}

#[test]
fn a_program_for_another_c_library_is_refused_with_the_reason() {
    let place = Place::new();
    let program = |name: &str, loader: &str| {
        fs::write(place.path(name), program_for(loader)).expect("written");
        fs::set_permissions(place.path(name), fs::Permissions::from_mode(0o755)).expect("chmod");
    };
    program("alpine", "/lib/ld-musl-x86_64.so.1");
    refused(
        &mut place.launch(&["./alpine"]),
        126,
        &["another C library than glibc", "/lib/ld-musl-x86_64.so.1", "glibc build", "--force"],
    );
    place.program("script", &format!("#!{}\n", place.path("alpine").display()));
    refused(&mut place.launch(&["./script"]), 126, &["another C library", "which runs ./script"]);
    program("android", "/system/bin/linker64");
    refused(&mut place.launch(&["nice", "./android"]), 126, &["/system/bin/linker64"]);
    program("nix", "/nix/store/abc-glibc-2.40/lib/ld-linux-x86-64.so.2");
    assert_eq!(run(&mut place.launch(&["--dry-run", "./nix"])).0, Some(0));
}

#[test]
fn turned_off_it_stands_in_nobodys_way() {
    let place = Place::new();
    place.profile("broken.toml", "name = ");
    refused(&mut place.launch(&["sh", "-c", "exit 5"]), 2, &["broken.toml:1"]);
    for word in ["1", "yes", "true", "ON"] {
        let mut command = place.launch(&["sh", "-c", "echo ${LD_PRELOAD-none}; exit 5"]);
        command.env("GREENBOOST_DISABLE", word).env("GREENBOOST_CHUNK", "nonsense");
        assert_eq!(run(&mut command), (Some(5), "none\n".to_owned(), String::new()), "{word}");
    }
    let mut command = place.launch(&["sh", "-c", "exit 5"]);
    refused(command.env("GREENBOOST_DISABLE", "no"), 2, &["broken.toml:1"]);
}

#[test]
fn a_variable_that_is_none_is_named_once_and_the_command_starts() {
    let place = Place::new();
    let mut command = place.launch(&["sh", "-c", "echo out"]);
    command.env("GREENBOOST_VRM", "1GiB").env("GREENBOOST_SOMETHING", "x");
    let (code, stdout, stderr) = run(&mut command);
    assert_eq!((code, stdout.as_str()), (Some(0), "out\n"));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("GREENBOOST_VRM (is GREENBOOST_VRAM meant?)") && stderr.contains("GREENBOOST_SOMETHING"));
}

#[test]
fn a_ring_that_is_no_part_of_the_vram_is_refused() {
    let place = Place::new();
    for ring in ["2GiB", "1GiB"] {
        refused(
            &mut place.launch(&["--vram", "1GiB", "--ring", ring, "env"]),
            2,
            &["--ring", "has to be less than the VRAM", "1 GiB"],
        );
    }
    let mut command = place.launch(&["--vram", "1GiB", "env"]);
    refused(command.env("GREENBOOST_RING", "4GiB"), 2, &["GREENBOOST_RING 4 GiB"]);
}

#[test]
fn the_vram_is_what_profile_and_card_leave_and_never_more_than_the_card_has() {
    let (place, model) = common::planned::place();
    common::gpu::known_machine(&place, 5.0, 40.0);
    place.profile("mine.toml", "name = 'mine'\ninherits = 'llama-server'\n[memory]\nvram_reserve = '128MiB'");
    for (options, vram) in [
        (&["--ring", "4GiB"][..], "of 3.5 GiB"),
        (&["--profile", "mine", "--ring", "4GiB"], "of 3.88 GiB"),
        (&["--vram", "100GiB", "--ring", "99GiB"], "of 4 GiB"),
    ] {
        let command = place.launch(&[options, &["./llama-server", "-m", &model]].concat());
        let parts = ["--ring has to be less than the VRAM", vram, "Leave --ring out"];
        refused(&mut common::gpu::with_gpu(&place, command, "40"), 2, &parts);
    }
}
