//! What a machine is made of, as far as the answer of a probe hangs on it: facts with names, in text.
//!
//! A fact that cannot be had is a fact as well, except for those without which two machines, or the same before and
//! after an update, could not be told apart.

use crate::files::{self, Loaded};
use crate::memory::device::Device;
use greenboost_cuda::Driver;
use greenboost_intercept::real;
use greenboost_intercept::slot::{Library, SLOTS};
use std::fs;
use std::os::unix::fs::MetadataExt;

/// A fact and its name.
pub type Fact = (&'static str, String);

/// `CU_DEVICE_ATTRIBUTE_...` of what a device is and can: its place on the bus (33, 34, 50), compute capability (75, 76),
/// registering host memory (99) and that for reading (113), mapping (102), whether it is shared through MPS (133), the
/// NUMA node next to it (134) and memory there (141).
const ATTRIBUTES: [u32; 11] = [33, 34, 50, 75, 76, 99, 102, 113, 133, 134, 141];

/// The machine since it was started, and what this process may do on it. `None`: it cannot be told from another.
pub fn machine() -> Option<Vec<Fact>> {
    let read = |path: &str| Some(fs::read_to_string(path).ok()?.trim().to_owned()).filter(|text| !text.is_empty());
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    // A filter of system calls and a set of nodes are what a sandbox or a service has of its own.
    let limits = status.lines().filter(|line| line.starts_with("Seccomp") || line.starts_with("Mems_allowed_list"));
    Some(vec![
        ("boot", read("/proc/sys/kernel/random/boot_id")?),
        ("kernel", format!("{} {}", read("/proc/sys/kernel/osrelease")?, read("/proc/sys/kernel/version")?)),
        ("nodes", read("/sys/devices/system/node/online").unwrap_or_default()),
        ("namespace", fs::read_link("/proc/self/ns/mnt").ok()?.display().to_string()),
        ("limits", limits.collect::<Vec<_>>().join(" ").replace('\t', " ")),
    ])
}

/// The libraries and modules that decide. `None`: one of the files is not what it was when it was loaded, or another
/// library stands between us and the driver.
pub fn software(driver: &Driver) -> Option<Vec<Fact>> {
    if SLOTS.iter().any(|slot| slot.library == Library::Cuda && real::is_interposed(slot)) {
        return None;
    }
    let mut version = 0;
    // SAFETY: writes one integer to a live local.
    unsafe { driver.cuDriverGetVersion(&mut version) }.ok()?;
    let libcuda = files::loaded_from(real::symbol(Library::Cuda, c"cuInit") as u64)?;
    Some(vec![
        ("hook", format!("{} {}", env!("CARGO_PKG_VERSION"), identity(&files::own_library()?)?)),
        ("driver", format!("{version} {}", identity(&libcuda)?)),
        ("modules", ["nvidia", "nvidia_uvm"].map(module).join(", ")),
    ])
}

/// A device, as the driver describes it.
pub fn device(driver: &Driver, device: &Device) -> Vec<Fact> {
    let attribute = |which| {
        let mut value = 0;
        // SAFETY: writes one integer to a live local.
        let known = unsafe { driver.cuDeviceGetAttribute(&mut value, which, device.ordinal) };
        known.map_or_else(|status| format!("{which}: {status}"), |()| format!("{which}: {value}"))
    };
    vec![
        ("gpu", format!("{} of {} bytes", device.uuid, device.total)),
        ("attributes", ATTRIBUTES.map(attribute).join(", ")),
    ]
}

/// Which version of a kernel module is loaded, and since when: a module that is loaded anew, perhaps with other
/// parameters, is given a new number in sysfs.
pub fn module(name: &str) -> String {
    let folder = format!("/sys/module/{name}");
    let Ok(it) = fs::metadata(&folder) else { return format!("{name}: none") };
    let read = |file: &str| fs::read_to_string(format!("{folder}/{file}")).unwrap_or_default().trim().to_owned();
    format!("{name}: {} {} {}", it.ino(), read("version"), read("srcversion"))
}

/// What tells a file from any other, and from itself before it was written.
fn identity(loaded: &Loaded) -> Option<String> {
    let it = loaded.file.metadata().ok()?;
    let (device, inode, size) = (it.dev(), it.ino(), it.size());
    Some(format!("{} {device:x} {inode} {size} {}.{:09}", loaded.path.display(), it.mtime(), it.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_machine_that_was_started_again_or_has_another_kernel_is_another_one() {
        let facts = machine().expect("a machine");
        let of = |wanted| facts.iter().find(|(name, _)| *name == wanted).map(|(_, value)| &**value).expect("a fact");
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("procfs");
        assert_eq!(of("boot"), boot.trim());
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("procfs");
        assert!(of("kernel").starts_with(release.trim()));
        assert!(of("namespace").starts_with("mnt:"));
        assert_eq!(module("no such module"), "no such module: none");
    }

    #[test]
    fn a_file_that_was_replaced_grown_or_touched_is_another_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lib.so");
        let identity = || {
            let file = File::open(&path).expect("it");
            identity(&Loaded { path: path.clone(), file }).expect("an identity")
        };
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_001);
        let write = |text: &str, time| {
            fs::write(&path, text).expect("written");
            File::options().write(true).open(&path).and_then(|it| it.set_modified(time)).expect("our own");
        };
        write("one", time);
        let first = identity();
        write("two", time);
        assert_eq!(identity(), first, "the same by everything that is looked at");
        write("three", time);
        assert_ne!(identity(), first);
        write("one", time + Duration::from_nanos(1));
        assert_ne!(identity(), first);
        let aside = folder.path().join("new");
        fs::copy(&path, &aside).and_then(|_| fs::rename(&aside, &path)).expect("replaced");
        write("one", time);
        assert_ne!(identity(), first);
    }
}
