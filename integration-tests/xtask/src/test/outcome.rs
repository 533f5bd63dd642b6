//! What a stage ends with, where it did not fail.

use std::fmt;

/// What a stage ended with, where it did not fail.
pub enum Outcome {
    /// All of it passed.
    Passed,
    /// It ran tests, and this many passed.
    Tests(Counts),
    /// It could not run on this machine, and this is why.
    NotRun(String),
}

/// How many tests did what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that are not run by default.
    pub ignored: u64,
}

impl Counts {
    /// Whether any test ran.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} ignored", self.passed, self.failed, self.ignored)
    }
}
