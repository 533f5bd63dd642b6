//! What can go wrong, in the words a caller decides by.

use std::io;

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The module is not loaded.
    #[error("the module is not loaded (no /dev/greenboost)")]
    Absent,
    /// This user may not open the device.
    #[error("no access to /dev/greenboost: add this user to its group")]
    Denied,
    /// What has the device's name is not the module's device.
    #[error("what is at that path is not the module's device")]
    Foreign,
    /// The module speaks another version of the interface.
    #[error("the module speaks version {0} of the interface, this program version {ours}", ours = crate::abi::ABI_MAJOR)]
    Version(u32),
    /// The machine is critically short of memory, or would be with this: nothing of it is allocated now.
    #[error("refused: memory is critically short")]
    Pressure,
    /// The pool's limit is reached, or memory is in pieces smaller than 2 MiB.
    #[error("the pool's limit is reached, or no whole 2 MiB pages are left")]
    PoolFull,
    /// This user's, or this open file's, limit is reached.
    #[error("this user's limit is reached")]
    Quota,
    /// The machine has not that much memory (or not on this node, or not within the memory cgroup's limit).
    #[error("not enough memory")]
    NoMemory,
    /// An address and an offset that are not congruent modulo 2 MiB: the kernel would map 4 KiB at a time.
    #[error("address and offset disagree modulo 2 MiB")]
    Incongruent,
    /// Anything else.
    #[error("{call}: {source}")]
    Os {
        /// What was called.
        call: &'static str,
        /// What it answered.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn last(call: &'static str) -> Self {
        Self::of(call, io::Error::last_os_error())
    }

    pub(crate) fn of(call: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EAGAIN) => Self::Pressure,
            Some(libc::ENOSPC) => Self::PoolFull,
            Some(libc::EDQUOT) => Self::Quota,
            Some(libc::ENOMEM) => Self::NoMemory,
            _ => Self::Os { call, source },
        }
    }

    /// Its error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Absent => Some(libc::ENOENT),
            Self::Denied => Some(libc::EACCES),
            Self::Pressure => Some(libc::EAGAIN),
            Self::PoolFull => Some(libc::ENOSPC),
            Self::Quota => Some(libc::EDQUOT),
            Self::NoMemory => Some(libc::ENOMEM),
            Self::Foreign | Self::Incongruent | Self::Version(_) => None,
            Self::Os { source, .. } => source.raw_os_error(),
        }
    }
}
