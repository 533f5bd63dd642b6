//! What the probing process tells the doctor: one JSON object a line, flushed at once, so that everything learnt before a
//! hang or a crash still counts.

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// What is tried next; the last one names the culprit when no more lines come.
    Step {
        /// In words that follow "while".
        doing: String,
    },
    /// Something failed that everything after it needs.
    Failed {
        /// What, and what the driver said.
        problem: String,
    },
    /// libcuda is loaded.
    Driver {
        /// As `cuDriverGetVersion` says: 12020 is CUDA 12.2.
        cuda: i32,
        /// As NVML says: `580.65.06`.
        version: Option<String>,
    },
    /// A GPU.
    Device(Device),
    /// Memory of a GPU.
    Memory {
        /// The GPU's index.
        device: i32,
        /// Bytes not in use.
        free: u64,
        /// Bytes it has.
        total: u64,
    },
    /// A RAM backing was tried on a GPU.
    Backing {
        /// The GPU's index.
        device: i32,
        /// The backing's name in settings.
        backing: String,
        /// Why it cannot be used; `None` when a kernel read and wrote it.
        problem: Option<String>,
        /// How the memory was made, where there is a choice.
        detail: String,
    },
    /// Something else that GreenBoost needs was tried on a GPU.
    Tried {
        /// The GPU's index.
        device: i32,
        /// What: `vmm`, `pin` or `file-pages`.
        what: String,
        /// Why it does not work; `None` when it does.
        problem: Option<String>,
    },
    /// What a GPU computes with, said when speeds are measured.
    Processor {
        /// Multiprocessors.
        multiprocessors: i32,
        /// Their highest clock.
        clock_khz: i32,
    },
    /// A measured speed.
    Rate {
        /// Which.
        what: String,
        /// Gigabytes a second.
        gigabytes: f64,
    },
}

/// What the driver says about a GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// The driver's index in this process.
    pub index: i32,
    /// Its name.
    pub name: String,
    /// `GPU-xxxxxxxx-...`.
    pub uuid: String,
    /// Compute capability.
    pub compute: (i32, i32),
    /// Supports the virtual memory management calls.
    pub vmm: bool,
    /// Supports them for memory on a host NUMA node.
    pub host_numa: bool,
    /// The PCIe link, where NVML tells.
    pub link: Option<Link>,
    /// MIG is on, where NVML tells.
    pub mig: Option<bool>,
}

/// A PCIe link, now and at best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Generation now; an idle GPU lowers it.
    pub generation: u32,
    /// The highest generation that the GPU and its PCIe slot support.
    pub max_generation: u32,
    /// PCIe lanes now.
    pub width: u32,
    /// The most PCIe lanes that the GPU and its PCIe slot support.
    pub max_width: u32,
}

impl Link {
    /// Gigabytes a second that this generation and width carry at best, in one direction.
    pub fn gigabytes(generation: u32, width: u32) -> f64 {
        // Giga-transfers a lane and the share of them that is payload.
        let lane = match generation {
            0 | 1 => 0.25,
            2 => 0.5,
            generation => 0.985 * f64::from(1 << (generation - 3).min(8)),
        };
        lane * f64::from(width)
    }
}

/// How the probing process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// By itself.
    Finished,
    /// It did not end in time and was killed.
    TimedOut,
    /// A crash, or it could not be started.
    Died(String),
}

/// Everything the probing process said.
#[derive(Debug, Clone)]
pub struct GpuReport {
    /// Its lines, in order.
    pub events: Vec<Event>,
    /// How it ended.
    pub outcome: Outcome,
}

impl GpuReport {
    /// The GPUs.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.events.iter().filter_map(|event| match event {
            Event::Device(device) => Some(device),
            _ => None,
        })
    }

    /// What failed, or what was being done when the process hung or crashed.
    pub fn failure(&self) -> Option<String> {
        let said = self.events.iter().find_map(|event| match event {
            Event::Failed { problem } => Some(problem.clone()),
            _ => None,
        });
        let doing = self.events.iter().rev().find_map(|event| match event {
            Event::Step { doing } => Some(doing.as_str()),
            _ => None,
        });
        let doing = doing.unwrap_or("starting");
        match &self.outcome {
            Outcome::Finished => said,
            Outcome::TimedOut => Some(format!("the driver did not answer in time while {doing}")),
            Outcome::Died(how) => Some(format!("the driver's process {how} while {doing}")),
        }
    }
}
