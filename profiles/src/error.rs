//! What can be wrong with a profile.

use std::path::PathBuf;
use thiserror::Error;

/// Why profiles could not be loaded, or one not be found. Every message says where and what to do.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// A file or folder exists but cannot be read.
    #[error("cannot read profile {path}: {source} (make it readable, or move it away)", path = path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file was read and refused.
    #[error("{file}:{line}: {problem}")]
    Refused {
        /// The file, as a user would name it.
        file: String,
        /// The line, counted from one.
        line: usize,
        /// The key, its value, and what is allowed.
        problem: String,
    },
    /// No profile has the name that was asked for.
    #[error("there is no profile named {name:?}: known are {}", known.join(", "))]
    NoSuch {
        /// The name that was asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
}
