//! Why a command is not started.

use std::fmt;

/// A message for the user, and the exit code that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// 2: options, settings, profile, log or hook cannot be used, or GreenBoost would have no effect.
    /// 126: the command was found and cannot be started with GreenBoost. 127: it was not found.
    pub code: u8,
    message: String,
}

impl Refusal {
    /// GreenBoost itself cannot do what it was asked for.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    /// The command was found, and cannot be started like this.
    pub fn cannot_start(message: impl fmt::Display) -> Self {
        Self { code: 126, message: message.to_string() }
    }

    /// The command was not found.
    pub fn not_found(message: impl fmt::Display) -> Self {
        Self { code: 127, message: message.to_string() }
    }

    /// The same, saying that `--force` starts the command all the same.
    #[must_use]
    pub fn unless_forced(mut self) -> Self {
        self.message.push_str("\n(gb-launch --force starts it all the same, without any effect of GreenBoost.)");
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.message)
    }
}
