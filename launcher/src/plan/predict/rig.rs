//! A machine as the formulas see it: measured figures and what follows from them.

use super::calibration as fit;
use crate::plan::measure::Figures;
use serde::Serialize;

/// Speeds in GB/s, unless said otherwise. Absent: not measured, so nothing that needs it is predicted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Rig {
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
    /// Threads that llama.cpp is to have for it.
    pub threads: Option<usize>,
    /// The model's disk.
    pub disk: Option<f64>,
}

impl Rig {
    /// Of what was measured.
    pub fn new(figures: &Figures) -> Self {
        let cpu = figures.cpu.best();
        let mut rig = Self {
            cpu: cpu.map(|(threads, rate)| Self::cpu_rate(threads, rate)),
            together: figures.together.map(|both| Self::cpu_rate(both.threads, both.cpu) + both.link),
            threads: cpu.map(|(threads, _)| threads_beside_launching(threads, &figures.cpu.reads)),
            disk: figures.disk,
            ..Self::default()
        };
        if let Some(gpu) = &figures.gpu {
            let clocks = Some(f64::from(gpu.multiprocessors) * gpu.clock_ghz).filter(|clocks| *clocks > 0.0);
            rig.vram = gpu.rates.vram;
            rig.matvec = gpu.rates.vram.map(|vram| {
                let kernels = clocks.map_or(f64::MAX, |clocks| clocks * fit::MATVEC_BYTES_PER_CLOCK);
                kernels.min(vram * fit::MATVEC_VRAM_SHARE)
            });
            rig.multiply =
                clocks.filter(|_| gpu.compute >= fit::MULTIPLY_SINCE).map(|clocks| clocks * fit::MULTIPLY_PER_CLOCK);
            rig.link = gpu.rates.to_gpu;
            rig.pageable = gpu.rates.pageable;
            rig.in_place = gpu.rates.in_place;
        }
        rig
    }

    /// What so many threads decode at, when they read RAM at this rate.
    pub fn cpu_rate(threads: usize, reads: f64) -> f64 {
        (reads * fit::CPU_SHARE).min(threads as f64 * fit::CPU_THREAD)
    }
}

/// One processor of many is left to the thread that launches kernels and copies: llama.cpp's threads spin while they wait for
/// each other, and all of them wait for one that has to share. On an H200's 16 processors 15 threads made 17.2 tokens a second
/// beside the link where 16 made 15.1, and 59.8 alone where 16 made 58.4.
fn threads_beside_launching(threads: usize, reads: &[(usize, f64)]) -> usize {
    let all = reads.iter().map(|(threads, _)| *threads).max().unwrap_or(threads);
    if threads == all && all > 4 { threads - 1 } else { threads }
}
