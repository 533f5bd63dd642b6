//! A machine as the formulas see it: measured figures and what follows from them.

use super::calibration as fit;
use crate::plan::measure::{Figures, fewest};
use serde::Serialize;

/// Speeds in GB/s, unless said otherwise. Absent: not measured, so nothing that needs it is predicted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Machine {
    /// Kernels reading VRAM one word after the other.
    pub vram: Option<f64>,
    /// Decode's kernels reading VRAM.
    pub matvec: Option<f64>,
    /// Multiplications and additions a second in a prompt, in 10^9.
    pub multiply: Option<f64>,
    /// The copy engine over the link.
    pub link: Option<f64>,
    /// Copies from memory that is not pinned.
    pub pageable: Option<f64>,
    /// Kernels reading host memory in place.
    pub in_place: Option<f64>,
    /// The CPU decoding.
    pub cpu: Option<f64>,
    /// The CPU decoding and the copy engine over the link, what both get of the RAM at once.
    pub together: Option<f64>,
    /// Threads the CPU does that with.
    pub threads: Option<usize>,
    /// Processors.
    pub processors: Option<usize>,
    /// The model's disk.
    pub disk: Option<f64>,
}

impl Machine {
    /// Of what was measured.
    pub fn new(figures: &Figures) -> Self {
        let cores = figures.cpu.cores_or_half();
        let decodes =
            figures.cpu.reads.iter().map(|(threads, reads)| (*threads, Self::cpu_rate(*threads, cores, *reads)));
        let cpu = fewest(&decodes.collect::<Vec<_>>());
        let mut machine = Self {
            cpu: cpu.map(|(_, rate)| rate),
            together: figures.together.map(|both| Self::cpu_rate(both.threads, cores, both.cpu) + both.link),
            threads: cpu.map(|(threads, _)| threads),
            processors: figures.cpu.reads.iter().map(|(threads, _)| *threads).max(),
            disk: figures.disk,
            ..Self::default()
        };
        if let Some(gpu) = &figures.gpu {
            let clocks = Some(f64::from(gpu.multiprocessors) * gpu.clock_ghz).filter(|clocks| *clocks > 0.0);
            machine.vram = gpu.rates.vram;
            machine.matvec = gpu.rates.vram.map(|vram| {
                let kernels = clocks.map_or(f64::MAX, |clocks| clocks * fit::MATVEC_BYTES_PER_CLOCK);
                kernels.min(vram * fit::MATVEC_VRAM_SHARE)
            });
            machine.multiply =
                clocks.filter(|_| gpu.compute >= fit::MULTIPLY_SINCE).map(|clocks| clocks * fit::MULTIPLY_PER_CLOCK);
            machine.link = gpu.rates.to_gpu;
            machine.pageable = gpu.rates.pageable;
            machine.in_place = gpu.rates.in_place;
        }
        machine
    }

    /// What these threads on these cores decode at, when they read RAM at this rate.
    pub fn cpu_rate(threads: usize, cores: usize, reads: f64) -> f64 {
        let (alone, sharing) = (threads.min(cores) as f64, threads.saturating_sub(cores) as f64);
        (reads * fit::CPU_SHARE).min(alone * fit::CPU_CORE + sharing * fit::CPU_SIBLING)
    }
}
