//! RAM of the kernel module's pool: 2 MiB pages that are ready and zeroed, in a budget that all processes share.
//!
//! A chunk is a buffer of `/dev/greenboost`, which is a DMA-BUF; mapped congruent to its offset modulo 2 MiB it is
//! mapped 2 MiB at a time and can be pinned, so it is registered as a memfd is. The device is opened at the first large
//! allocation, when backings are tried, and stays open: it is charged for the buffers, and tells of memory pressure.
//! Its descriptor and those of buffers are closed on exec; a forked child leaves all of it alone.

use super::host_numa::nearest_node;
use super::import;
use super::registered::Source;
use greenboost_contract::format_size;
use greenboost_cuda::Driver;
use greenboost_cuda::abi::{CUdevice, NOT_SUPPORTED, OUT_OF_MEMORY, Status};
use greenboost_kmod::{Buffer, Device, Error, Request};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The pool.
#[derive(Default)]
pub struct Kmod {
    /// Where the device is, if not in its usual place.
    path: Option<PathBuf>,
    /// The open device, or why there is none. Asked once: what a process began with it ends with.
    device: OnceLock<Result<Device, String>>,
    /// Whether the driver imports DMA-BUFs, once that was tried.
    import: OnceLock<String>,
    /// Why the last buffer was refused.
    refusal: Mutex<Option<Error>>,
}

impl Kmod {
    /// With the device at `path`, if that is not its usual place.
    pub fn new(path: Option<PathBuf>) -> Self {
        Self { path, ..Self::default() }
    }

    /// The device, if it was opened. Never opens it.
    pub fn opened(&self) -> Option<&Device> {
        self.device.get().and_then(|device| device.as_ref().ok())
    }

    fn device(&self) -> Result<&Device, &str> {
        let open = || open_at(self.path.as_deref().unwrap_or(Path::new(Device::PATH)));
        self.device.get_or_init(open).as_ref().map_err(String::as_str)
    }

    fn refusal(&self) -> MutexGuard<'_, Option<Error>> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_at(path: &Path) -> Result<Device, String> {
    Device::open_path(path).map_err(|error| error.to_string())
}

/// A buffer on the node next to the GPU, else, where that has no more, on any.
fn buffer(device: &Device, node: Option<u32>, bytes: u64) -> Result<Buffer, Error> {
    let anywhere = Request::new(bytes);
    match device.alloc(&Request { node, ..anywhere }) {
        // EINVAL: a node that the driver knows and the kernel does not.
        Err(Error::NoMemory | Error::Os { .. }) if node.is_some() => device.alloc(&anywhere),
        answer => answer,
    }
}

/// What the program is told. Only a want of memory may pass: everything else would not get better.
fn status(error: &Error) -> Status {
    match error {
        Error::Pressure | Error::PoolFull | Error::Quota | Error::NoMemory => OUT_OF_MEMORY,
        _ => NOT_SUPPORTED,
    }
}

/// Whether any other backing would take what the module has just kept from being taken.
fn is_of_the_machine(error: &Error) -> bool {
    matches!(error, Error::Pressure | Error::NoMemory)
}

impl Source for Kmod {
    const NAME: &'static str = "kmod";
    const HAS_OWN_LIMIT: bool = true;

    fn ready(&self) -> Result<(), String> {
        self.device().map(|_| ()).map_err(str::to_owned)
    }

    fn open(&self, driver: &Driver, ordinal: CUdevice, bytes: u64) -> Result<OwnedFd, Status> {
        let device = self.device().map_err(|_| NOT_SUPPORTED)?;
        let made = buffer(device, nearest_node(driver, ordinal), bytes).map_err(|error| {
            log::info!("{} of the pool refused: {error}", format_size(bytes));
            let status = status(&error);
            *self.refusal() = Some(error);
            status
        })?;
        let fd = made.into_fd();
        // The first buffer is the probe's, so that this happens in the probe's own context.
        self.import.get_or_init(|| import::answer(&fd, bytes));
        Ok(fd)
    }

    fn note(&self) -> Option<String> {
        self.refusal().take().map(|error| error.to_string()).or_else(|| self.import.get().cloned())
    }

    fn is_machine_short(&self) -> bool {
        self.refusal().as_ref().is_some_and(is_of_the_machine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_cannot_be_used_has_a_reason_in_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let reason = |path: &Path| open_at(path).map(drop).expect_err("no device");
        let path = folder.path().join("greenboost");
        assert!(reason(&path).contains("not loaded"), "{}", reason(&path));
        std::fs::write(&path, "").expect("a file");
        assert!(reason(&path).contains("not the module's device"), "{}", reason(&path));
        assert!(reason(Path::new("/dev/null")).contains("version"), "{}", reason(Path::new("/dev/null")));
    }

    #[test]
    fn another_backing_serves_at_a_limit_and_not_where_the_machine_is_short() {
        assert!([Error::Pressure, Error::NoMemory].iter().all(is_of_the_machine));
        assert!(![Error::PoolFull, Error::Quota, Error::Denied].iter().any(is_of_the_machine));
    }

    #[test]
    fn only_a_want_of_memory_is_out_of_memory() {
        for error in [Error::Pressure, Error::PoolFull, Error::Quota, Error::NoMemory] {
            assert_eq!(status(&error), OUT_OF_MEMORY, "{error}");
        }
        for error in [Error::Denied, Error::Version(2), Error::Foreign] {
            assert_eq!(status(&error), NOT_SUPPORTED, "{error}");
        }
    }
}
