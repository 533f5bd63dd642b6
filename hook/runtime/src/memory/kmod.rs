//! RAM of the kernel module's pool: 2 MiB pages that are ready and zeroed, in a budget that all processes share.
//!
//! A chunk is a buffer of `/dev/greenboost`, which is a DMA-BUF; mapped congruent to its offset modulo 2 MiB it is
//! mapped 2 MiB at a time and can be pinned, so it is registered as a memfd is. The device is opened at the first large
//! allocation, when backings are tried, and stays open: it is charged for the buffers, and tells of memory pressure.
//! Its descriptor and those of buffers are closed on exec; a forked child leaves all of it alone.

use super::host_numa::nearest_node;
use super::import;
use super::probe::machine;
use super::registered::Source;
use crate::activate;
use greenboost_contract::format_size;
use greenboost_cuda::Driver;
use greenboost_cuda::abi::{CUdevice, NOT_SUPPORTED, OUT_OF_MEMORY, Status};
use greenboost_kmod::{Buffer, Device, Error, Request};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

/// What the module's statistics call our buffers.
const LABEL: &str = "greenboost-chunk";

/// The pool.
pub struct Kmod;

/// The open device, or why there is none. Asked once: what a process began with it ends with.
static DEVICE: OnceLock<Result<Device, String>> = OnceLock::new();
/// Whether the driver imports DMA-BUFs, once that was tried.
static IMPORT: OnceLock<String> = OnceLock::new();
/// Why the last buffer was refused.
static REFUSAL: Mutex<Option<String>> = Mutex::new(None);

/// The device, if it was opened. Never opens it.
pub fn opened() -> Option<&'static Device> {
    DEVICE.get().and_then(|device| device.as_ref().ok())
}

fn device() -> Result<&'static Device, &'static str> {
    let open = || {
        let elsewhere = activate::settings().and_then(|settings| settings.kmod_device.as_deref());
        open_at(elsewhere.unwrap_or(Path::new(Device::PATH)))
    };
    DEVICE.get_or_init(open).as_ref().map_err(String::as_str)
}

fn open_at(path: &Path) -> Result<Device, String> {
    Device::open_path(path).map_err(|error| error.to_string())
}

/// A buffer on the node next to the GPU, else, where that has no more, on any.
fn buffer(device: &Device, node: Option<u32>, bytes: u64) -> Result<Buffer, Error> {
    let anywhere = Request::new(bytes, LABEL);
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

fn refusal() -> std::sync::MutexGuard<'static, Option<String>> {
    REFUSAL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source for Kmod {
    const NAME: &'static str = "kmod";
    const HAS_OWN_LIMIT: bool = true;

    fn ready(&self) -> Result<(), String> {
        device().map(|_| ()).map_err(str::to_owned)
    }

    fn open(&self, driver: &Driver, ordinal: CUdevice, bytes: u64) -> Result<OwnedFd, Status> {
        let device = device().map_err(|_| NOT_SUPPORTED)?;
        let made = buffer(device, nearest_node(driver, ordinal), bytes).map_err(|error| {
            log::info!("{} of the pool refused: {error}", format_size(bytes));
            *refusal() = Some(error.to_string());
            status(&error)
        })?;
        let fd = made.into_fd();
        // The first buffer is the probe's, so that this happens in the probe's own context.
        IMPORT.get_or_init(|| import::answer(&fd, bytes));
        Ok(fd)
    }

    fn note(&self) -> Option<String> {
        refusal().take().or_else(|| IMPORT.get().filter(|answer| !answer.is_empty()).cloned())
    }

    fn variant(&self) -> String {
        let Ok(device) = device() else { return String::new() };
        let file = device.as_fd().try_clone_to_owned().map(File::from).and_then(|file| file.metadata());
        let node = file.map(|it| format!("{:x} {}", it.rdev(), it.ino())).unwrap_or_default();
        format!("{node} module {}", machine::module("greenboost"))
    }

    /// The first buffer is not the probe's then: whether the driver imports it must not be asked in the program's context.
    fn recall(&self, note: Option<&str>) {
        IMPORT.get_or_init(|| note.unwrap_or_default().to_owned());
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
    fn only_a_want_of_memory_is_out_of_memory() {
        for error in [Error::Pressure, Error::PoolFull, Error::Quota, Error::NoMemory] {
            assert_eq!(status(&error), OUT_OF_MEMORY, "{error}");
        }
        for error in [Error::Denied, Error::Version(2), Error::Foreign] {
            assert_eq!(status(&error), NOT_SUPPORTED, "{error}");
        }
    }
}
