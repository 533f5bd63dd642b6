//! The checks, as a table: what is looked at, in which order, under which name.

use super::gpu_checks as gpu;
use super::machine_checks as machine;
use crate::driver::report::GpuReport;
use crate::machine::Machine;
use serde::Serialize;
use std::path::PathBuf;

/// Everything that was found out, before it is judged.
#[derive(Debug)]
pub struct Facts {
    /// The system.
    pub machine: Machine,
    /// The driver and its GPUs.
    pub gpu: GpuReport,
    /// The hook library, or why there is none.
    pub hook: Result<PathBuf, String>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing is wrong.
    Note,
    /// Works, slower or smaller than it could.
    Warn,
    /// GreenBoost cannot work.
    Fail,
}

impl Level {
    /// The word in the table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// What a check found, what that means, and what to do about it; the last two are empty where all is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What it means.
    pub meaning: String,
    /// What to do.
    pub action: String,
}

impl Finding {
    /// All is well.
    pub fn ok(found: impl Into<String>) -> Self {
        Self::new(Level::Ok, found, "", "")
    }

    /// A finding of any level.
    pub fn new(level: Level, found: impl Into<String>, meaning: impl Into<String>, action: impl Into<String>) -> Self {
        Self { level, found: found.into(), meaning: meaning.into(), action: action.into() }
    }
}

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
