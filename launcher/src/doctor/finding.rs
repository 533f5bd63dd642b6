//! What a check looks at, and what it answers.

use crate::driver::report::GpuReport;
use crate::machine::Machine;
use serde::Serialize;
use std::path::PathBuf;

/// Everything that was found out, before it is judged.
#[derive(Debug)]
pub struct Facts {
    /// The system.
    pub machine: Machine,
    /// The driver and its GPUs.
    pub gpu: GpuReport,
    /// The hook library, or why there is none.
    pub hook: Result<PathBuf, String>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing is wrong.
    Note,
    /// Works, slower or smaller than it could.
    Warn,
    /// GreenBoost cannot work.
    Fail,
}

impl Level {
    /// The word in the table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// What a check found, what that means, and what to do about it; the last two are empty where all is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What it means.
    pub meaning: String,
    /// What to do.
    pub action: String,
}

impl Finding {
    /// All is well.
    pub fn ok(found: impl Into<String>) -> Self {
        Self::new(Level::Ok, found, "", "")
    }

    /// A finding of any level.
    pub fn new(level: Level, found: impl Into<String>, meaning: impl Into<String>, action: impl Into<String>) -> Self {
        Self { level, found: found.into(), meaning: meaning.into(), action: action.into() }
    }
}
