//! Running other programs, with errors that say which one and how.

use crate::workspace;
use anyhow::{Context, Result, bail};
use std::process::{Command, ExitStatus};

/// Cargo, at the root of the workspace.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(workspace::root());
    command
}

/// Any program, at the root of the workspace.
pub fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(arguments).current_dir(workspace::root());
    command
}

/// The command as a person would type it.
pub fn typed(command: &Command) -> String {
    let name = command.get_program().to_string_lossy().into_owned();
    // Cargo hands down its own absolute path.
    let name = if name.ends_with("/cargo") { "cargo".to_owned() } else { name };
    let variables = command.get_envs().filter_map(|(key, value)| {
        value.map(|value| format!("{}={}", key.to_string_lossy(), quoted(&value.to_string_lossy())))
    });
    let arguments = command.get_args().map(|argument| quoted(&argument.to_string_lossy()));
    variables.chain([name]).chain(arguments).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}

/// Runs a command with our own stdout and stderr; anything but success is an error.
pub fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run `{}`", typed(command)))?;
    if !status.success() {
        bail!("`{}` {}", typed(command), ended(status));
    }
    Ok(())
}

/// A program whose output is shown only where it fails.
///
/// # Errors
/// When it does not succeed; with its output.
pub fn quietly(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run `{}`", typed(command)))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("`{}` {}\n{text}", typed(command), ended(output.status));
    }
    Ok(text)
}

/// How a process ended, in words.
pub fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

/// Whether a program can be found on the PATH.
pub fn exists(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let mut command = Command::new("/usr/bin/cargo");
        command.args(["test", "--", "a b"]).env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(typed(&command), "RUSTDOCFLAGS='-D warnings' cargo test -- 'a b'");
    }

    #[test]
    fn a_failure_names_the_command_and_how_it_ended() {
        let error = succeed(&mut Command::new("false")).expect_err("false fails").to_string();
        assert_eq!(error, "`false` ended with exit code 1");
    }
}
