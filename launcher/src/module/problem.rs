//! Why the module cannot be installed or removed, and what to do then.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// What went wrong.
#[derive(Debug, Error)]
pub enum Problem {
    /// Only root may change a system.
    #[error(
        "this changes the system and needs root: run it again with sudo\n(`greenboost module install --dry-run` shows \
         the steps without it)"
    )]
    NotRoot,
    /// The source of the module is nowhere.
    #[error(
        "the module's source was not found. Looked for\n    {}\nGive its folder (kmod in GreenBoost's source) with \
         --source DIR; on Debian and Ubuntu, the package greenboost-dkms brings it and installs it by itself.",
        looked.join("\n    ")
    )]
    NoSource {
        /// The folders looked at.
        looked: Vec<String>,
    },
    /// A folder that is not the module's source.
    #[error("{} is not the module's source: {reason}\nGive the folder kmod of GreenBoost's source.", path.display())]
    NotSource {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Programs or headers are missing. Nothing has been changed.
    #[error("nothing was changed: this machine lacks\n{}", missing.join("\n"))]
    Missing {
        /// What and how to get it, a line each.
        missing: Vec<String>,
    },
    /// It is there already, or what is in its place is not ours. Nothing has been changed.
    #[error("nothing was changed: {found}\n{action}")]
    InTheWay {
        /// What was found.
        found: String,
        /// What to do.
        action: String,
    },
    /// A size that cannot be an option of the module.
    #[error("{0}")]
    Size(String),
    /// There is nothing to remove.
    #[error(
        "nothing was changed: `greenboost module install` has not installed anything here ({} is missing){hint}",
        manifest.display()
    )]
    NotInstalled {
        /// Where the list of what was installed would be.
        manifest: PathBuf,
        /// What there is of others, and how they are removed.
        hint: String,
    },
    /// The list of what was installed cannot be used.
    #[error(
        "{} cannot be used: {reason}\nIt lists what `greenboost module install` has done. Put it back from a backup, or \
         remove things as docs/kernel-module.md says, and then this file.",
        path.display()
    )]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The module cannot be unloaded.
    #[error(
        "nothing was changed: the module is in use and cannot be unloaded\n{said}\nStop the programs that use it; \
         /sys/kernel/debug/greenboost/clients lists them (as root)."
    )]
    Busy {
        /// What modprobe said.
        said: String,
    },
    /// A program that was run does not succeed.
    #[error("`{command}` failed:\n{said}")]
    Failed {
        /// What was typed, so to speak.
        command: String,
        /// The end of what it said.
        said: String,
    },
    /// A file cannot be written, read or deleted.
    #[error("{}: {source}\nSee whether the filesystem is full or read-only.", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Installing failed, and what had been done was undone.
    #[error("{problem}\n{undone}")]
    Undone {
        /// What failed.
        problem: Box<Problem>,
        /// How undoing went.
        undone: String,
    },
}

impl Problem {
    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
