//! RAM that the GPU can use at a device address: the list of what there is.

pub mod file_pages;
mod host_backing;
mod host_numa;
mod import;
pub mod kmod;
mod memfd;
mod registered;

use greenboost_contract::settings::BACKING_NAMES;
pub use host_backing::{HostBacking, HostChunk};
use host_numa::HostNuma;
use kmod::Kmod;
use memfd::Memfd;
use registered::Registered;
use std::path::PathBuf;

/// Every backing of a process.
#[derive(Default)]
pub struct Backings {
    kmod: Registered<Kmod>,
    host_numa: HostNuma,
    memfd: Registered<Memfd>,
}

impl Backings {
    /// With the kernel module's device at `kmod_device`, if that is not its usual place.
    pub fn new(kmod_device: Option<PathBuf>) -> Self {
        Self { kmod: Registered(Kmod::new(kmod_device)), host_numa: HostNuma, memfd: Registered(Memfd) }
    }

    /// All of them, best first, in the order of [`BACKING_NAMES`], which is also that of the status record.
    pub fn all(&self) -> [&dyn HostBacking; BACKING_NAMES.len()] {
        [&self.kmod, &self.host_numa, &self.memfd]
    }

    /// The kernel module's pool.
    pub fn kmod(&self) -> &Kmod {
        &self.kmod.0
    }
}

/// Position of a backing in [`Backings::all`].
pub fn index(backing: &dyn HostBacking) -> usize {
    BACKING_NAMES.iter().position(|name| *name == backing.name()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_settings() {
        let backings = Backings::default();
        let names = backings.all().map(|backing| backing.name());
        assert_eq!(names, BACKING_NAMES);
        assert!(backings.all().iter().enumerate().all(|(at, backing)| index(*backing) == at));
    }
}
