//! The checks, as a table: what is looked at, in which order, under which name.

use super::finding::{Facts, Finding};
use super::gpu_checks as gpu;
use super::machine_checks as machine;

/// One row of the table.
#[derive(Debug)]
pub struct Check {
    /// Its name in JSON.
    pub id: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Judges the facts; a check of each GPU has a finding for each.
    pub run: fn(&Facts) -> Vec<Finding>,
}

/// All checks, in the order they are shown.
pub const CHECKS: &[Check] = &[
    Check { id: "driver", title: "NVIDIA driver", run: gpu::driver },
    Check { id: "gpu", title: "GPU", run: gpu::devices },
    Check { id: "link", title: "PCIe link", run: gpu::link },
    Check { id: "vmm", title: "VMM", run: gpu::vmm },
    Check { id: "host-numa", title: "VMM on host memory", run: gpu::host_numa },
    Check { id: "backing", title: "RAM backing", run: gpu::backings },
    Check { id: "pin", title: "pinned memory", run: gpu::pin },
    Check { id: "file-pages", title: "pages of files", run: gpu::file_pages },
    Check { id: "mig", title: "MIG", run: gpu::mig },
    Check { id: "mps", title: "MPS", run: machine::mps },
    Check { id: "hook", title: "hook library", run: machine::hook },
    Check { id: "memory", title: "available RAM", run: machine::memory },
    Check { id: "cgroup", title: "memory limit", run: machine::cgroup },
    Check { id: "huge-pages", title: "huge pages", run: machine::huge_pages },
    Check { id: "memlock", title: "locked memory", run: machine::memlock },
    Check { id: "container", title: "container", run: machine::container },
    Check { id: "module", title: "kernel module", run: machine::module },
    Check { id: "ollama", title: "Ollama", run: machine::ollama },
];
