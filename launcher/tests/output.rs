//! What the programs print: an output that cannot be written is an error, and text of others speaks to no terminal.

mod common;

use common::gpu::{model, without_gpu};
use common::{Place, run};
use greenboost_contract::escape::is_hostile;
use greenboost_contract::record::Mapped;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;

/// The exit code and what is said on stderr when stdout is a full disk.
fn on_a_full_disk(mut command: Command) -> (Option<i32>, String) {
    let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let output = command.stdout(Stdio::from(full)).output().expect("starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn an_output_that_cannot_be_written_is_an_error_of_every_command() {
    let place = Place::new();
    let model = model(&place);
    let model = model.to_str().expect("path");
    let commands: &[&[&str]] = &[
        &["status"],
        &["status", "--json"],
        &["status", "--watch"],
        &["doctor"],
        &["doctor", "--json"],
        &["module", "status"],
        &["module", "status", "--json"],
        &["pool", "--json"],
        &["plan", "--vram", "1GiB", "--ram", "1GiB", model],
        &["plan", "--json", "--vram", "1GiB", "--ram", "1GiB", model],
        &["--help"],
        &["--version"],
        &["plan", "--help"],
    ];
    for arguments in commands {
        let (code, said) = on_a_full_disk(without_gpu(&place, place.greenboost(arguments)));
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains("the output cannot be written: No space left on device"), "{arguments:?}: {said}");
    }
    for arguments in [&["--dry-run", "env"][..], &["--help"]] {
        let (code, said) = on_a_full_disk(place.launch(arguments));
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.starts_with("gb-launch: the output cannot be written"), "{arguments:?}: {said}");
    }
}

#[test]
fn a_record_s_text_stays_on_its_line_and_speaks_to_no_terminal() {
    let place = Place::new();
    let record = Mapped::create().expect("record");
    record.profile.set("\x1b]0;pwned\x07\x1b[2J");
    record.layers.set("inline\n    fake line");
    record.backings[0].set("\u{9b}31mram");
    record.backing_reason.set("\u{202e}txet");
    record.placement.set("a\rb");
    record.plan.set("\x1b]8;;http://evil\x07click");
    record.devices_used.store(1, Relaxed);
    record.devices[0].uuid.set("GPU\u{200b}\x1b[5m");
    for arguments in [&["status"][..], &["status", "--json"]] {
        let (code, text, _) = run(&mut place.greenboost(arguments));
        assert_eq!(code, Some(0));
        assert!(text.contains("pwned") && text.contains("fake line"), "{text}");
        assert!(!text.chars().any(|character| character != '\n' && is_hostile(character)), "{text:?}");
        assert!(!text.contains("\n    fake line"), "{text}");
    }
}

#[test]
fn a_program_s_arguments_are_shown_escaped() {
    let place = Place::new();
    let (code, text, _) = run(&mut place.launch(&["--dry-run", "env", "\x1b[2J\u{202e}x"]));
    assert_eq!(code, Some(0));
    assert!(text.contains(r"\u{1b}[2J\u{202e}x") && !text.contains('\x1b'), "{text:?}");
    let (code, _, said) = run(&mut place.launch(&["./\x1b[31mred"]));
    assert!(code == Some(127) && said.contains(r"./\u{1b}[31mred") && !said.contains('\x1b'), "{said:?}");
}

#[test]
fn a_model_s_name_stays_on_its_line_and_speaks_to_no_terminal() {
    let place = Place::new();
    let writer = common::gpu::writer("a\x1b[2Jb\nFastest: fake\u{202e}");
    let path = place.path("evil.gguf");
    writer.save(&path).expect("written");
    for json in [false, true] {
        let words = ["plan", "--vram", "4GiB", "--ram", "1GiB", path.to_str().expect("path"), "--json"];
        let words = if json { &words[..] } else { &words[..6] };
        let (_, text, said) = run(&mut without_gpu(&place, place.greenboost(words)));
        assert!(text.contains(r"\u{1b}[2Jb\nFastest: fake") || json, "{text}{said}");
        assert!(!text.chars().any(|character| character != '\n' && is_hostile(character)), "{text:?}");
    }
}
