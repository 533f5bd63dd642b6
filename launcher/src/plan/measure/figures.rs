//! Everything known about a machine's speed.

use super::conditions::Conditions;
use super::together::Together;
use serde::{Deserialize, Serialize};

/// Everything known about a machine's speed. All rates are in GB/s, 10^9 bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Figures {
    /// The first GPU, where there is one.
    pub gpu: Option<Gpu>,
    /// Every GPU that programs see: its free VRAM, in the driver's order.
    pub gpus: Vec<u64>,
    /// The CPU's.
    pub cpu: Cpu,
    /// CPU and link, when both read RAM.
    pub together: Option<Together>,
    /// Reading the model's file past the page cache.
    pub disk: Option<f64>,
    /// What the measurement is worth; not known of figures that an older version kept.
    pub conditions: Option<Conditions>,
    /// What could not be measured, and why.
    pub missing: Vec<String>,
}

impl Figures {
    /// The same where one GPU of several is used, with what is free there; all are taken to be as fast as the first.
    #[must_use]
    pub fn of_gpu(mut self, index: Option<usize>) -> Self {
        if let Some((free, gpu)) = index.and_then(|index| self.gpus.get(index).copied()).zip(self.gpu.as_mut()) {
            gpu.free = free;
            // The others' totals are not kept: it is at least what is free.
            gpu.total = gpu.total.max(free);
            self.gpus = vec![free];
        }
        self
    }
}

/// A GPU.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// `GPU-...`.
    pub uuid: String,
    /// The driver's version.
    pub driver: String,
    /// Compute capability.
    pub compute: (i32, i32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Their highest clock.
    pub clock_ghz: f64,
    /// Bytes of VRAM.
    pub total: u64,
    /// Bytes not in use now.
    pub free: u64,
    /// How fast it reaches memory.
    pub rates: Rates,
}

/// How fast a GPU reaches memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// A kernel reading VRAM.
    pub vram: Option<f64>,
    /// The copy engine, from pinned RAM.
    pub to_gpu: Option<f64>,
    /// The copy engine, to pinned RAM.
    pub to_host: Option<f64>,
    /// A copy from ordinary RAM.
    pub pageable: Option<f64>,
    /// A kernel reading pinned RAM in place.
    pub in_place: Option<f64>,
}

impl Rates {
    /// Every figure with its name in reports and in words.
    pub const NAMES: [(&'static str, &'static str); 5] = [
        ("vram", "VRAM read"),
        ("to_gpu", "link to GPU"),
        ("to_host", "link to host"),
        ("pageable", "copy from ordinary RAM"),
        ("in_place", "RAM read in place"),
    ];

    /// The figure of a name.
    pub fn get(&self, name: &str) -> Option<f64> {
        match name {
            "vram" => self.vram,
            "to_gpu" => self.to_gpu,
            "to_host" => self.to_host,
            "pageable" => self.pageable,
            "in_place" => self.in_place,
            _ => None,
        }
    }

    /// Sets the figure of a name; a value that cannot be a rate leaves it unknown.
    pub fn set(&mut self, name: &str, rate: f64) {
        let place = match name {
            "vram" => &mut self.vram,
            "to_gpu" => &mut self.to_gpu,
            "to_host" => &mut self.to_host,
            "pageable" => &mut self.pageable,
            "in_place" => &mut self.in_place,
            _ => return,
        };
        *place = Some(rate).filter(|rate| rate.is_finite() && *rate > 0.0);
    }
}

/// A CPU.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Its name.
    pub model: String,
    /// Reading RAM, by number of threads.
    pub reads: Vec<(usize, f64)>,
    /// Cores, each of which may run several threads; not known of figures that an older version kept.
    #[serde(default)]
    pub cores: Option<usize>,
}

impl Cpu {
    /// The fewest threads that come within 3% of the best rate, and the rate.
    pub fn best(&self) -> Option<(usize, f64)> {
        fewest(&self.reads)
    }

    /// Cores, where nobody has counted them: processors are often two threads of one.
    pub fn cores_or_half(&self) -> usize {
        let processors = self.reads.iter().map(|(threads, _)| *threads).max().unwrap_or(1);
        self.cores.unwrap_or_else(|| processors.div_ceil(2))
    }
}

/// The fewest threads that come within 3% of the best of rates by threads, and the rate.
pub fn fewest(rates: &[(usize, f64)]) -> Option<(usize, f64)> {
    let most = rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    rates.iter().filter(|(_, rate)| *rate >= most * 0.97).min_by_key(|(threads, _)| *threads).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_rate_can_be_set_and_read() {
        let mut rates = Rates::default();
        for (index, (name, _)) in Rates::NAMES.iter().enumerate() {
            rates.set(name, index as f64 + 1.0);
            assert_eq!(rates.get(name), Some(index as f64 + 1.0));
        }
        rates.set("vram", f64::INFINITY);
        assert_eq!(rates.vram, None, "no figure is better than a wrong one");
    }

    #[test]
    fn more_threads_than_help_are_not_taken() {
        let cpu = Cpu { reads: vec![(1, 12.0), (4, 40.0), (8, 78.0), (16, 79.0), (32, 71.0)], ..Cpu::default() };
        assert_eq!(cpu.best(), Some((8, 78.0)));
        assert_eq!((cpu.cores_or_half(), Cpu { cores: Some(32), ..cpu }.cores_or_half()), (16, 32));
        assert_eq!(Cpu::default().best(), None);
    }
}
