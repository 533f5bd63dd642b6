//! The open device.

use crate::{Buffer, Error, Request, Result, abi};
use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// How short of something the machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing to do.
    Ok,
    /// Give back what is idle, stop growing.
    Low,
    /// Of RAM: allocations are refused. Of the spill path: it takes nothing, or soon will not.
    Critical,
}

impl Level {
    fn from_raw(level: u32) -> Self {
        match level {
            abi::LEVEL_OK => Self::Ok,
            abi::LEVEL_LOW => Self::Low,
            // What is worse than critical, in a later version, is at least critical.
            _ => Self::Critical,
        }
    }
}

/// Why a level is not ok.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Causes(pub u32);

impl Causes {
    /// In words, for a log.
    pub fn words(self) -> Vec<&'static str> {
        [
            (abi::CAUSE_MEMORY, "little available RAM"),
            (abi::CAUSE_DECLINE, "available RAM falls fast"),
            (abi::CAUSE_POOL, "the pool is nearly full"),
            (abi::CAUSE_SPILL, "little space at the spill path"),
            (abi::CAUSE_SPILL_GONE, "the spill path takes nothing"),
        ]
        .into_iter()
        .filter_map(|(bit, word)| (self.0 & bit != 0).then_some(word))
        .collect()
    }
}

/// Limits, use and state.
pub type Info = abi::Info;

impl abi::Info {
    /// The level of RAM in a type.
    pub fn level(&self) -> Level {
        Level::from_raw(self.ram_level)
    }

    /// The level of the spill path.
    pub fn spill_level(&self) -> Level {
        Level::from_raw(self.spill_level)
    }
}

/// A change of a level, or the present one where several changes came together.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The level of RAM now.
    pub level: Level,
    /// The level of the spill path.
    pub spill_level: Level,
    /// Why.
    pub causes: Causes,
    /// Counts the changes.
    pub seq: u64,
    /// RAM the machine can still give, without what the reserve keeps.
    pub available_bytes: u64,
    /// Free bytes at the spill path, if one is set.
    pub spill_free_bytes: u64,
}

/// An open `/dev/greenboost`.
///
/// Buffers allocated through it are charged to it and to its user, and outlive it.
#[derive(Debug)]
pub struct Device {
    file: File,
}

impl Device {
    /// Where the device is.
    pub const PATH: &'static str = "/dev/greenboost";

    /// Opens the device.
    ///
    /// # Errors
    /// [`Error::Absent`], [`Error::Denied`], [`Error::Foreign`], [`Error::Version`]; nothing to be alarmed about.
    pub fn open() -> Result<Self> {
        Self::open_path(Path::new(Self::PATH))
    }

    /// Opens the device where it is not in its usual place.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn open_path(path: &Path) -> Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|error| {
                match error.raw_os_error() {
                    Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Error::Absent,
                    Some(libc::EACCES | libc::EPERM) => Error::Denied,
                    _ => Error::of("open", error),
                }
            })?;
        // A plain file takes part in no ioctl either, but it is no module of another version.
        let metadata = file.metadata().map_err(|error| Error::of("stat", error))?;
        if !metadata.file_type().is_char_device() {
            return Err(Error::Foreign);
        }
        let device = Self { file };
        let info = device.info().map_err(|error| match error.errno() {
            Some(libc::ENOTTY | libc::EINVAL) => Error::Version(0),
            _ => error,
        })?;
        if info.abi_major == abi::ABI_MAJOR { Ok(device) } else { Err(Error::Version(info.abi_major)) }
    }

    /// Limits, use and state.
    ///
    /// # Errors
    /// None that is expected.
    pub fn info(&self) -> Result<Info> {
        let mut info = abi::Info::default();
        self.call("info", abi::IOC_INFO, &mut info)?;
        Ok(info)
    }

    /// Allocates a buffer of zeroes.
    ///
    /// # Errors
    /// [`Error::Pressure`], [`Error::PoolFull`], [`Error::Quota`] and [`Error::NoMemory`] are answers; another is a
    /// mistake in the request.
    pub fn alloc(&self, request: &Request) -> Result<Buffer> {
        let mut raw = request.raw();
        self.call("alloc", abi::IOC_ALLOC, &mut raw)?;
        // SAFETY: the call succeeded, so the descriptor is new and nobody else's.
        Ok(unsafe { Buffer::new(OwnedFd::from_raw_fd(raw.fd), raw.bytes, raw.ready_bytes) })
    }

    /// The next change of a level: `None` where none comes in time (or, without a time, where there is none now).
    ///
    /// The device is readable (`poll`) exactly when this has something to say.
    ///
    /// # Errors
    /// None that is expected.
    pub fn next_event(&self, timeout: Option<Duration>) -> Result<Option<Event>> {
        if let Some(timeout) = timeout {
            self.wait(timeout)?;
        }
        let mut raw = abi::Event::default();
        let size = size_of::<abi::Event>();
        // SAFETY: the kernel writes at most `size` bytes, any of which make a valid Event.
        let got = unsafe { libc::read(self.file.as_raw_fd(), (&raw mut raw).cast::<c_void>(), size) };
        if got < 0 {
            let error = io::Error::last_os_error();
            let none = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
            return if none { Ok(None) } else { Err(Error::of("read", error)) };
        }
        Ok(Some(Event {
            level: Level::from_raw(raw.ram_level),
            spill_level: Level::from_raw(raw.spill_level),
            causes: Causes(raw.causes),
            seq: raw.seq,
            available_bytes: raw.available_bytes,
            spill_free_bytes: raw.spill_free_bytes,
        }))
    }

    /// Waits until there is something to say, no longer than `timeout`.
    ///
    /// # Errors
    /// None that is expected.
    pub fn wait(&self, timeout: Duration) -> Result<()> {
        let mut poll = libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one pollfd, which lives through the call.
        if unsafe { libc::poll(&raw mut poll, 1, ms) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(Error::of("poll", error));
            }
        }
        Ok(())
    }

    fn call<T>(&self, name: &'static str, request: u32, argument: &mut T) -> Result<()> {
        loop {
            // SAFETY: every request of `abi` carries the size of its struct, and only those are called here.
            let done = unsafe { libc::ioctl(self.file.as_raw_fd(), request as _, &raw mut *argument) };
            if done == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(Error::of(name, error));
            }
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_device_is_told_apart_from_a_module_that_is_not_loaded() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("greenboost");
        assert!(matches!(Device::open_path(&path), Err(Error::Absent)));
        std::fs::write(&path, "").expect("a file");
        assert!(matches!(Device::open_path(&path), Err(Error::Foreign)));
        // A device that knows none of the calls is one of another version.
        assert!(matches!(Device::open_path(Path::new("/dev/null")), Err(Error::Version(0))));
    }
}
