//! The stage that runs `cargo test`, and counts what it ran.

use super::Outcome;
use crate::process;
use anyhow::{Context, Result, bail};
use integration_tests::artefacts::PREBUILT;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// How many tests did what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Counts {
    /// Whether any test ran.
    pub fn any(self) -> bool {
        self != Self::default()
    }

    /// Adds what a line of the test programs' output says, if it is a result line.
    fn read(&mut self, line: &str) {
        let Some(rest) = line.trim_start().strip_prefix("test result: ") else { return };
        for part in rest.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} ignored", self.passed, self.failed, self.ignored)
    }
}

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
    command.env(PREBUILT, "1");
    eprintln!("$ {}", process::typed(&command));
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let mut counts = Counts::default();
    let output = child.stdout.take().context("cargo's output was piped above")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read the tests' output")?;
        let line = String::from_utf8_lossy(&line);
        counts.read(&line);
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
            counts.read(line);
        }
        assert_eq!(counts, Counts { passed: 13, failed: 2, ignored: 1 });
    }
}
