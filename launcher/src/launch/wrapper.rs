//! Words in front of a program (`taskset -c 0`, `nice`, `env A=b`, `bash -c '...'`, a loader): what they start is what the
//! user means, and what profile and plan are for. Each is a row: how its own options are told from the command after it.
//!
//! Nothing is guessed: where a row does not fit, the word itself is the program.

use super::shell::{self, Behind, assignment};
use greenboost_contract::loader::is_loader;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// A word that starts the command after its own options.
struct Row {
    names: &'static [&'static str],
    /// Options whose value is a word of its own; of a long one also `--name=value`.
    with_value: &'static [&'static str],
    /// Options that make it do something else than start a command.
    instead: &'static [&'static str],
    /// Words of its own after the options.
    operands: usize,
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { names: &["taskset"], with_value: &[], instead: &["-p", "--pid"], operands: 1 },
    Row { names: &["nice"], with_value: &["-n", "--adjustment"], instead: &[], operands: 0 },
    Row { names: &["ionice"], with_value: &["-c", "--class", "-n", "--classdata"], instead: &["-p", "--pid", "-P", "--pgid", "-u", "--uid"], operands: 0 },
    Row { names: &["chrt"], with_value: &["-T", "--sched-runtime", "-P", "--sched-period", "-D", "--sched-deadline"], instead: &["-p", "--pid", "-m", "--max"], operands: 1 },
    Row { names: &["numactl"], with_value: &["-i", "--interleave", "-w", "--weighted-interleave", "-p", "--preferred", "-P", "--preferred-many", "-m", "--membind", "-N", "--cpunodebind", "-c", "--cpubind", "-C", "--physcpubind"],
          instead: &["-s", "--show", "-H", "--hardware"], operands: 0 },
    Row { names: &["nohup", "setsid", "unbuffer", "catchsegv"], with_value: &[], instead: &[], operands: 0 },
    Row { names: &["stdbuf"], with_value: &["-i", "--input", "-o", "--output", "-e", "--error"], instead: &[], operands: 0 },
    Row { names: &["timeout"], with_value: &["-k", "--kill-after", "-s", "--signal"], instead: &[], operands: 1 },
    Row { names: &["time"], with_value: &["-f", "--format", "-o", "--output"], instead: &[], operands: 0 },
    Row { names: &["prlimit"], with_value: &["-o", "--output"], instead: &["-p", "--pid"], operands: 0 },
    Row { names: &["choom"], with_value: &["-n", "--adjust"], instead: &["-p", "--pid"], operands: 0 },
    Row { names: &["cgexec"], with_value: &["-g"], instead: &[], operands: 0 },
    Row { names: &["linux32", "linux64", "i386", "i486", "i586", "i686", "x86_64", "aarch64", "uname26"], with_value: &[], instead: &["--list"], operands: 0 },
];

const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish"];
/// Options of a loader with a value.
const LOADER: &[&str] = &[
    "--library-path",
    "--glibc-hwcaps-prepend",
    "--glibc-hwcaps-mask",
    "--inhibit-rpath",
    "--audit",
    "--preload",
    "--argv0",
];
/// The kinds of machine that setarch knows; without one its command comes at once.
const MACHINES: &[&str] =
    &["linux32", "linux64", "i386", "i486", "i586", "i686", "athlon", "x86_64", "aarch64", "arm64", "uname26"];

/// The command after a word in front, which has one of `names`; `None` where it is the program itself.
pub fn behind(names: &[String], words: &[OsString]) -> Option<Behind> {
    let is = |known: &[&str]| names.iter().any(|name| known.contains(&name.as_str()));
    let rest = words.get(1..)?;
    if is(&["env"]) {
        return env(rest);
    }
    if is(SHELLS) {
        return shell_command(rest);
    }
    if names.iter().any(|name| is_loader(name)) {
        return command(rest, LOADER, &["--list", "--verify", "--list-tunables", "--list-diagnostics"], 0);
    }
    if is(&["setarch"]) {
        let has_machine = rest.first().and_then(|word| word.to_str()).is_some_and(|word| MACHINES.contains(&word));
        return command(&rest[usize::from(has_machine)..], &[], &["--list"], 0);
    }
    let row = ROWS.iter().find(|row| is(row.names))?;
    command(rest, row.with_value, row.instead, row.operands)
}

/// What is left after options and operands, if anything.
fn command(rest: &[OsString], with_value: &[&str], instead: &[&str], operands: usize) -> Option<Behind> {
    let at = after_options(rest, with_value, instead)?;
    let words = rest.get(at + operands..).filter(|words| !words.is_empty())?;
    Some(Behind { words: words.to_vec(), ..Behind::default() })
}

/// Where the options end; `None` where one of them says that nothing is started.
fn after_options(rest: &[OsString], with_value: &[&str], instead: &[&str]) -> Option<usize> {
    let mut at = 0;
    while let Some(word) = rest.get(at).map(|word| word.as_bytes()) {
        if word == b"--" {
            return Some(at + 1);
        }
        if !word.starts_with(b"-") || word == b"-" {
            break;
        }
        let text = String::from_utf8_lossy(word);
        let name = text.split_once('=').map_or(&*text, |(name, _)| name);
        // Short flags may stand together, before one with a value.
        let last = text.chars().last().map(|flag| format!("-{flag}")).unwrap_or_default();
        let is_cluster = !text.starts_with("--") && text.len() > 2;
        let among = |known: &[&str]| known.contains(&name) || (is_cluster && known.contains(&last.as_str()));
        let is_flag = |flag: char| instead.contains(&format!("-{flag}").as_str());
        if instead.contains(&name) || (is_cluster && text.chars().skip(1).any(is_flag)) {
            return None;
        }
        let has_own_value =
            text.contains('=') || (is_cluster && with_value.iter().any(|option| text.starts_with(option)));
        at += if among(with_value) && !has_own_value { 2 } else { 1 };
    }
    Some(at)
}

/// `env`: options, assignments, the command; `-S` is a command line in one word.
fn env(rest: &[OsString]) -> Option<Behind> {
    let mut behind = Behind::default();
    let mut words = rest.to_vec();
    let mut at = 0;
    while let Some(word) = words.get(at).cloned() {
        let text = word.to_string_lossy();
        let value = |at: usize, long: &str| match text.strip_prefix(long).and_then(|rest| rest.strip_prefix('=')) {
            Some(value) => (OsString::from(value), at + 1),
            None if text.len() > 2 && !text.starts_with("--") => (OsString::from(&text[2..]), at + 1),
            None => (words.get(at + 1).cloned().unwrap_or_default(), at + 2),
        };
        match &*text {
            "--" => {
                at += 1;
                break;
            }
            "-" | "-i" | "--ignore-environment" => {
                behind.drops_preload = true;
                at += 1;
            }
            _ if text.starts_with("-u") || text.starts_with("--unset") => {
                let (name, next) = value(at, "--unset");
                behind.drops_preload |= name == "LD_PRELOAD";
                at = next;
            }
            _ if text.starts_with("-C") || text.starts_with("--chdir") => at = value(at, "--chdir").1,
            _ if text.starts_with("-S") || text.starts_with("--split-string") || text.starts_with("-vS") => {
                let skip = if text.starts_with("-vS") { text.replacen("-vS", "-S", 1).into() } else { text.clone() };
                let (line, next) = if skip.len() > 2 && !skip.starts_with("--") {
                    (OsString::from(&skip[2..]), at + 1)
                } else {
                    value(at, "--split-string")
                };
                words.splice(..next, shell::split(line.as_bytes())?);
                at = 0;
            }
            _ if text.starts_with('-') => at += 1,
            _ => break,
        }
    }
    while let Some((name, value)) = words.get(at).and_then(|word| assignment(word)) {
        behind.drops_preload |= name == "LD_PRELOAD";
        behind.variables.push((name, value));
        at += 1;
    }
    behind.words = words.split_off(at.min(words.len()));
    (!behind.words.is_empty()).then_some(behind)
}

/// `-c` with one command in it.
fn shell_command(rest: &[OsString]) -> Option<Behind> {
    let at = rest.iter().position(|word| !word.as_bytes().starts_with(b"-") || is_command_option(word))?;
    if !is_command_option(&rest[at]) {
        return None;
    }
    let behind = shell::simple_command(rest.get(at + 1)?.as_bytes(), rest.get(at + 2..).unwrap_or_default())?;
    let drops_preload = behind.variables.iter().any(|(name, _)| name == "LD_PRELOAD");
    Some(Behind { drops_preload, ..behind })
}

/// `-c`, `-lc`, `-ec`.
fn is_command_option(word: &OsStr) -> bool {
    let bytes = word.as_bytes();
    bytes.starts_with(b"-") && bytes.ends_with(b"c") && bytes[1..].iter().all(u8::is_ascii_alphabetic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    fn found(line: &str) -> Option<String> {
        let words = words(line);
        let name = words[0].to_str().expect("text").to_owned();
        let behind = behind(&[name], &words)?;
        Some(behind.words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn the_command_behind_every_word_is_found_whatever_options_it_has() {
        for word in [
            "taskset -c 0-3",
            "taskset 0xff",
            "taskset -a -c 1,2",
            "nice",
            "nice -n 5",
            "nice -n5",
            "nice -10",
            "nice --adjustment=3",
            "ionice -c 2 -n 7",
            "ionice -c2 -t",
            "chrt -f 10",
            "chrt -T 5 --deadline 0",
            "numactl -N 0 -m 0",
            "numactl --cpunodebind=0 --membind 0",
            "numactl -l --",
            "env",
            "env A=b C=d",
            "env -u X -C /tmp A=b",
            "env --unset=X --chdir=/tmp -- A=b",
            "env -S A=b",
            "nohup",
            "setsid -w",
            "stdbuf -oL",
            "stdbuf -o L -e 0",
            "timeout 5m",
            "timeout -k 5 --signal=KILL 10",
            "timeout -s INT --foreground 1h",
            "setarch x86_64 -R",
            "setarch -R",
            "linux64",
            "time -v",
            "time -f %e -o t",
            "prlimit --memlock=unlimited",
            "choom -n 500 --",
            "ld-linux-x86-64.so.2 --library-path /a:/b",
            "ld-linux-aarch64.so.1 --argv0 x --inhibit-cache",
        ] {
            assert_eq!(found(&format!("{word} prog -n -c 5")).as_deref(), Some("prog -n -c 5"), "{word}");
        }
    }

    #[test]
    fn a_word_that_starts_no_command_is_the_program() {
        for line in
            ["taskset -p 17", "nice", "taskset", "timeout 5", "env", "env A=b", "chrt -m", "ionice -p 5", "bash x -c y"]
        {
            assert_eq!(found(line), None, "{line}");
        }
        assert_eq!(found("llama-server -m x"), None);
    }

    #[test]
    fn env_says_what_it_sets_and_whether_the_preload_is_lost() {
        let of = |line: &str| behind(&["env".to_owned()], &words(line)).expect("a command");
        assert_eq!(of("env A=b=c x").variables, [("A".into(), "b=c".into())]);
        for (line, drops) in [
            ("env A=b x", false),
            ("env -i x", true),
            ("env - x", true),
            ("env -u LD_PRELOAD x", true),
            ("env LD_PRELOAD=a x", true),
        ] {
            assert_eq!(of(line).drops_preload, drops, "{line}");
        }
    }

    #[test]
    fn a_shell_with_one_command_is_looked_through() {
        let of = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(OsString::from).collect();
            behind(&["bash".to_owned()], &words).map(|behind| behind.words)
        };
        let command = Some(vec![OsString::from("llama-server"), "-m".into(), "a b.gguf".into()]);
        assert_eq!(of(&["bash", "-c", "llama-server -m 'a b.gguf'"]), command);
        assert_eq!(of(&["bash", "-lc", "exec llama-server -m \"a b.gguf\" > log 2>&1"]), command);
        assert_eq!(of(&["bash", "-e", "-c", "A=b exec \"$@\"", "_", "llama-server", "-m", "a b.gguf"]), command);
        for text in ["a; b", "a && b", "a | b", "(a)", "a &", "$x -m y", "for i in a; do b; done", "a `b`", "if a"] {
            assert!(of(&["bash", "-c", text]).is_none_or(|words| words[0] == "if"), "{text}");
        }
        assert_eq!(of(&["bash", "script.sh", "-c"]), None);
    }
}
