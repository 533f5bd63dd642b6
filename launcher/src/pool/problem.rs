//! Why a command about the pool cannot be carried out, and what to do then.

use greenboost_contract::format_size;
use greenboost_kmod::Error;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What went wrong.
#[derive(Debug, Error)]
pub enum Problem {
    /// There is nothing of the module's.
    #[error(
        "the kernel module is not loaded (there is no {}).\nIt is optional: without it RAM comes from the driver or from \
         ordinary pages, and there is no pool.\nTo load it: sudo modprobe greenboost\nIf that finds no such module: sudo \
         greenboost module install",
        path.display()
    )]
    NotLoaded {
        /// What was looked for.
        path: PathBuf,
    },
    /// A file of the module's that should be there cannot be read, or holds what it should not.
    #[error(
        "{} cannot be read: {reason}\nThe module that is loaded may be another version than this program; \
         `modinfo -F version greenboost` and `greenboost --version` should agree.",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A setting that only root may change.
    #[error(
        "{} may be written by root only: run this again with sudo\n(in a container: on the host, since /sys is \
         usually read-only there)",
        path.display()
    )]
    NotRoot {
        /// The file.
        path: PathBuf,
    },
    /// The module does not take a value.
    #[error("the module refuses {} as {name}: {source}\nWrite a size that this machine can have.", format_size(*bytes))]
    Refused {
        /// The setting's name.
        name: &'static str,
        /// What was written, in bytes.
        bytes: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The device cannot be used.
    #[error("{} cannot be used: {source}{}", path.display(), advice(source))]
    Device {
        /// The device.
        path: PathBuf,
        /// What the module's crate says.
        source: Error,
    },
    /// The output cannot be written.
    #[error("the output cannot be written: {0}\nThe disk may be full; give another place to write to.")]
    Output(io::Error),
}

impl Problem {
    /// Whether the module is there at all.
    pub fn is_loaded(&self) -> bool {
        !matches!(self, Self::NotLoaded { .. })
    }

    pub(super) fn of_device(path: &Path, source: Error) -> Self {
        match source {
            Error::Absent => Self::NotLoaded { path: path.to_owned() },
            source => Self::Device { path: path.to_owned(), source },
        }
    }
}

fn advice(error: &Error) -> &'static str {
    match error {
        Error::Denied => {
            "\nIts group is named in /etc/udev/rules.d/60-greenboost.rules (usually render): sudo usermod -aG render \
             $USER, then log in again."
        }
        Error::Version(_) => "\nInstall the module of this version: sudo greenboost module install",
        _ => "",
    }
}
