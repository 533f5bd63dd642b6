//! The stage that runs `cargo test`, and counts what it ran.

use super::outcome::{Counts, Outcome};
use crate::process;
use anyhow::{Context, Result, bail};
use integration_tests::artefacts::{PREBUILT, engine};
use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// Tests failed; the counts are kept for the summary.
#[derive(Debug)]
pub struct Failed(pub Counts);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; the failures are above", self.0)
    }
}

impl std::error::Error for Failed {}

/// Runs all tests of the workspace.
///
/// # Errors
/// When one fails or none ran.
pub fn run() -> Result<Outcome> {
    let mut command = process::cargo(&["test", "--workspace", "--no-fail-fast"]);
    // What the tests start has just been built.
    command.args(engine()).env(PREBUILT, "1");
    eprintln!("$ {}", process::typed(&command));
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let mut counts = Counts::default();
    let output = child.stdout.take().context("cargo's output was piped above")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read the tests' output")?;
        let line = String::from_utf8_lossy(&line);
        read(&line, &mut counts);
        println!("{line}");
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if counts.failed > 0 {
        return Err(Failed(counts).into());
    }
    if !status.success() {
        bail!("`cargo test` {} ({counts})", process::ended(status));
    }
    if !counts.any() {
        bail!("`cargo test` ran no test");
    }
    Ok(Outcome::Tests(counts))
}

/// Adds what a line of the test programs' output says, if it is a result line.
fn read(line: &str, counts: &mut Counts) {
    let Some(rest) = line.trim_start().strip_prefix("test result: ") else { return };
    for part in rest.split([';', '.']) {
        let mut words = part.split_whitespace();
        let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else { continue };
        match what {
            "passed" => counts.passed += number,
            "failed" => counts.failed += number,
            "ignored" => counts.ignored += number,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_test_programs_are_added_up() {
        let mut counts = Counts::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 10 passed; 2 failed; 1 ignored; 0 measured; 4 filtered out; finished in 1.00s",
        ] {
            read(line, &mut counts);
        }
        assert_eq!(counts, Counts { passed: 13, failed: 2, ignored: 1 });
    }
}
