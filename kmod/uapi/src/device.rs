//! The open device.

use crate::{Buffer, Error, Key, Request, Result, abi};
use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// How the machine is off, as this device's owner should see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing to do.
    Ok,
    /// Give back what is idle, stop growing.
    Low,
    /// Allocations are refused.
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

/// Why the level is not ok.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Causes(pub u32);

impl Causes {
    /// In words, for a log.
    pub fn words(self) -> Vec<&'static str> {
        [
            (abi::CAUSE_MEMORY, "little available RAM"),
            (abi::CAUSE_DECLINE, "available RAM falls fast"),
            (abi::CAUSE_POOL, "the pool is nearly full"),
            (abi::CAUSE_SPILL, "little space for spilling"),
            (abi::CAUSE_SPILL_GONE, "nowhere to spill to"),
        ]
        .into_iter()
        .filter_map(|(bit, word)| (self.0 & bit != 0).then_some(word))
        .collect()
    }
}

/// Limits, use and state, in bytes.
pub type Info = abi::Info;

impl abi::Info {
    /// The level in a type.
    pub fn level(&self) -> Level {
        Level::from_raw(self.level)
    }
}

/// A change of the level, or the present one where several changes came together.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The level now.
    pub level: Level,
    /// Why.
    pub causes: Causes,
    /// Counts the changes.
    pub seq: u64,
    /// RAM the machine can still give.
    pub available: u64,
    /// Free bytes where this device spills to, if that was set.
    pub spill_free: u64,
}

/// What the module says of a buffer.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// Its size.
    pub bytes: u64,
    /// How much of it is 4 KiB pages.
    pub small_bytes: u64,
    /// No more writes.
    pub sealed: bool,
    /// Published under a key.
    pub shared: bool,
    /// The user it is charged to.
    pub uid: u32,
    /// Mappings in all processes.
    pub mappings: u32,
    /// Devices attached to it.
    pub attachments: u32,
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
    pub fn alloc(&self, request: &Request<'_>) -> Result<Buffer> {
        let mut raw = request.raw();
        self.call("alloc", abi::IOC_ALLOC, &mut raw)?;
        // SAFETY: the call succeeded, so the descriptor is new and nobody else's.
        Ok(unsafe { Buffer::new(OwnedFd::from_raw_fd(raw.fd), raw.id, raw.bytes, raw.small_bytes, raw.ready_bytes) })
    }

    /// What the module says of a buffer of this user.
    ///
    /// # Errors
    /// Where there is no such buffer, or it is another user's.
    pub fn query(&self, id: u64) -> Result<State> {
        let mut raw = abi::Query { id, ..Default::default() };
        self.call("query", abi::IOC_QUERY, &mut raw)?;
        Ok(State {
            bytes: raw.bytes,
            small_bytes: raw.small_bytes,
            sealed: raw.state & abi::STATE_SEALED != 0,
            shared: raw.state & abi::STATE_SHARED != 0,
            uid: raw.uid,
            mappings: raw.mappings,
            attachments: raw.attachments,
        })
    }

    /// Forbids all writes to a buffer, for ever. Its writable mappings must be gone, and so must pins and importers.
    ///
    /// # Errors
    /// EBUSY where something could still write, EALREADY where it is sealed.
    pub fn seal(&self, buffer: &Buffer) -> Result<()> {
        self.call("seal", abi::IOC_SEAL, &mut abi::Seal { fd: buffer.as_fd().as_raw_fd(), flags: 0 })
    }

    /// Offers a sealed buffer to this user's other processes. It is kept for `ttl` after its last use (the
    /// administrator's default where there is none), unless memory is wanted.
    ///
    /// # Errors
    /// EPERM for a buffer that is not sealed or another user's, EEXIST where the key is taken.
    pub fn publish(&self, buffer: &Buffer, key: &Key, ttl: Option<Duration>) -> Result<()> {
        // Zero would mean the default.
        let ttl_ms = ttl.map_or(0, |ttl| u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX).max(1));
        let fd = buffer.as_fd().as_raw_fd();
        self.call("publish", abi::IOC_PUBLISH, &mut abi::Publish { key: *key, fd, ttl_ms, reserved: 0 })
    }

    /// Opens what a process of this user has published, for reading.
    ///
    /// # Errors
    /// None but the unexpected: where nothing is published under the key, the answer is `None`.
    pub fn open_shared(&self, key: &Key) -> Result<Option<Buffer>> {
        let mut raw = abi::Open { key: *key, ..Default::default() };
        match self.call("open", abi::IOC_OPEN, &mut raw) {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
            // SAFETY: the call succeeded, so the descriptor is new and nobody else's.
            Ok(()) => Ok(Some(unsafe { Buffer::new(OwnedFd::from_raw_fd(raw.fd), raw.id, raw.bytes, 0, 0) })),
        }
    }

    /// Takes an offer back. Those who have opened it keep it.
    ///
    /// # Errors
    /// ENOENT where nothing is published under the key.
    pub fn withdraw(&self, key: &Key) -> Result<()> {
        self.call("withdraw", abi::IOC_WITHDRAW, &mut abi::Withdraw { key: *key, reserved: 0 })
    }

    /// Watches the filesystem of a directory: below `low` free bytes this device's level is low, below `critical`
    /// critical.
    ///
    /// # Errors
    /// Where it is no directory, or `critical` is above `low`.
    pub fn watch_spill(&self, dir: BorrowedFd<'_>, low: u64, critical: u64) -> Result<()> {
        let mut raw = abi::Spill { dir_fd: dir.as_raw_fd(), flags: 0, low, critical };
        self.call("spill", abi::IOC_SPILL, &mut raw)
    }

    /// Watches no filesystem any more.
    ///
    /// # Errors
    /// None that is expected.
    pub fn forget_spill(&self) -> Result<()> {
        self.call("spill", abi::IOC_SPILL, &mut abi::Spill { dir_fd: -1, ..Default::default() })
    }

    /// Has an eventfd signalled at each change of the level (and at once, where it is not ok).
    ///
    /// # Errors
    /// Where it is no eventfd.
    pub fn set_eventfd(&self, eventfd: Option<BorrowedFd<'_>>) -> Result<()> {
        let fd = eventfd.map_or(-1, |fd| fd.as_raw_fd());
        self.call("eventfd", abi::IOC_EVENTFD, &mut abi::Eventfd { fd, flags: 0 })
    }

    /// The next change of the level: `None` where none comes in time (or, without a time, where there is none now).
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
        let level = Level::from_raw(raw.level);
        let causes = Causes(raw.causes);
        Ok(Some(Event { level, causes, seq: raw.seq, available: raw.available, spill_free: raw.spill_free }))
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
