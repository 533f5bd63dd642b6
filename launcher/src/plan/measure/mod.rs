//! How fast this machine is: measured once, remembered for the GPU, driver and CPU it was measured on.
//!
//! What talks to the driver runs in a child (`gpu` is it), as in doctor. Whatever cannot be measured is missing, with the
//! reason, and no figure takes its place.

pub mod conditions;
mod cpu;
mod disk;
mod gpu;
mod store;
mod together;

pub use conditions::Conditions;
pub use gpu::{MeasureOptions, run as run_measurement};
pub use together::Together;

use crate::driver::child;
use crate::driver::report::{Event, GpuReport};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::{Duration, Instant};

/// Far above what it takes; a driver that hangs must not hang us.
const DESCRIBE_LIMIT: Duration = Duration::from_secs(8);
/// For describing and measuring the GPU; CPU and disk take three seconds more at most.
const GPU_LIMIT: Duration = Duration::from_secs(14);

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

    fn set(&mut self, name: &str, rate: f64) {
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

/// When a machine's speed is measured, which takes some seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum When {
    /// The first time.
    #[default]
    Unknown,
    /// Now, whatever is known.
    Now,
    /// Not now: what is not known is missing.
    Never,
}

/// The figures of this machine for a model on its disk.
pub fn figures(model: &Path, when: When) -> Figures {
    let mut figures = Figures::default();
    let mut started = Instant::now();
    let report = child::run(&["measure", "--describe"], DESCRIBE_LIMIT);
    figures.gpu = described(&report);
    figures.gpus = free(&report);
    if let Some(problem) = gpu_problem(&report, figures.gpu.is_some()) {
        figures.missing.push(problem);
    }
    let cpu = cpu::model();
    let key = store::Key::new(figures.gpu.as_ref(), &cpu);
    let mut store = store::Store::load();
    let mut entry = if when == When::Now { store::Entry::default() } else { store.entry(&key) };
    let gpu_busy = rate_of(&report, gpu::BUSY);
    if when == When::Unknown && entry.conditions.is_some_and(|conditions| conditions.is_due_again(gpu_busy)) {
        entry = store::Entry::default();
    }
    let measures_rates = entry.rates.is_none() && figures.gpu.is_some();
    if when != When::Never && (entry.cpu.is_none() || measures_rates) {
        entry.conditions = Some(Conditions::now(gpu_busy));
    }

    // First, since it says how many threads are measured beside the link.
    if when != When::Never {
        let begun = Instant::now();
        if entry.cpu.is_none() {
            let (reads, spread) = cpu::reads();
            entry.cpu = Some(Cpu { model: cpu.clone(), reads, cores: cpu::cores() });
            entry.note_spread(spread);
        }
        started += begun.elapsed();
    }
    if let Some(gpu) = &mut figures.gpu {
        let ask = |arguments: &[&str]| child::run(arguments, GPU_LIMIT.saturating_sub(started.elapsed()));
        gpu.rates = entry.rates.unwrap_or_default();
        if entry.rates.is_none() && when != When::Never {
            let report = ask(&["measure"]);
            let (rates, whole) = measured(&report);
            entry.note_spread(spread(&report));
            figures.missing.extend(gpu_problem(&report, true));
            entry.rates = Some(rates).filter(|_| whole);
            gpu.rates = rates;
        }
        // On its own: figures from before this one was measured stay as they are. A GPU that could not be measured
        // alone is not asked again.
        let threads = entry.cpu.as_ref().and_then(Cpu::best).map(|(threads, _)| threads);
        if let (None, Some(_), Some(threads), true) = (entry.together, entry.rates, threads, when != When::Never) {
            let report = ask(&["measure", "--together", &threads.to_string()]);
            figures.missing.extend(gpu_problem(&report, true));
            entry.together = Together::of(&report, threads);
        }
        figures.together = entry.together;
    }
    let rates = figures.gpu.as_ref().map(|gpu| gpu.rates).unwrap_or_default();
    let unknown = Rates::NAMES.iter().filter(|(name, _)| rates.get(name).is_none()).map(|(_, words)| *words);
    let unknown: Vec<_> = unknown.chain(figures.together.is_none().then_some(together::WORDS)).collect();
    if !unknown.is_empty() {
        figures.missing.push(format!("not measured: {}", unknown.join(", ")));
    }
    figures.conditions = entry.conditions;
    if when == When::Never {
        figures.disk = entry.known_disk(model);
        figures.cpu = entry.cpu.unwrap_or(Cpu { model: cpu, ..Cpu::default() });
        return figures;
    }
    figures.cpu = entry.cpu.clone().unwrap_or_default();
    match entry.disk(model, disk::read) {
        Ok(rate) => figures.disk = Some(rate),
        Err(why) => figures.missing.push(format!("disk read: {why}")),
    }
    if let Err(error) = store.save(key, entry) {
        figures.missing.push(format!("the figures could not be kept for the next time: {error}"));
    }
    figures
}

fn gpu_problem(report: &GpuReport, has_gpu: bool) -> Option<String> {
    match report.failure() {
        Some(failure) => Some(format!("GPU: {failure}")),
        None if !has_gpu => Some("GPU: the driver shows none (CUDA_VISIBLE_DEVICES may hide it)".to_owned()),
        None => None,
    }
}

/// The free VRAM of each GPU, in order.
fn free(report: &GpuReport) -> Vec<u64> {
    let memories = report.events.iter().filter_map(|event| match event {
        Event::Memory { device, free, .. } => Some((*device, *free)),
        _ => None,
    });
    let by_index: std::collections::BTreeMap<_, _> = memories.collect();
    by_index.into_values().collect()
}

fn described(report: &GpuReport) -> Option<Gpu> {
    let device = report.devices().find(|device| device.index == 0)?;
    let mut gpu =
        Gpu { name: device.name.clone(), uuid: device.uuid.clone(), compute: device.compute, ..Gpu::default() };
    for event in &report.events {
        match event {
            Event::Driver { cuda, version } => {
                gpu.driver = version.clone().unwrap_or_else(|| format!("CUDA {cuda}"));
            }
            Event::Processor { multiprocessors, clock_khz } => {
                gpu.multiprocessors = u32::try_from(*multiprocessors).unwrap_or(0);
                gpu.clock_ghz = f64::from(*clock_khz) / 1e6;
            }
            Event::Memory { device: 0, free, total } => (gpu.free, gpu.total) = (*free, *total),
            _ => {}
        }
    }
    Some(gpu)
}

/// What was reported by this name.
fn rate_of(report: &GpuReport, name: &str) -> Option<f64> {
    let named = |event: &Event| match event {
        Event::Rate { what, gigabytes } if what == name => Some(*gigabytes),
        _ => None,
    };
    report.events.iter().find_map(named)
}

/// The furthest that repetitions of a rate lay apart.
fn spread(report: &GpuReport) -> f64 {
    let spreads = report.events.iter().filter_map(|event| match event {
        Event::Rate { what, gigabytes } if what.ends_with(gpu::SPREAD) => Some(*gigabytes),
        _ => None,
    });
    spreads.fold(0.0, f64::max)
}

/// The rates that were reported, and whether that is all of them.
fn measured(report: &GpuReport) -> (Rates, bool) {
    let mut rates = Rates::default();
    for event in &report.events {
        if let Event::Rate { what, gigabytes } = event {
            rates.set(what, *gigabytes);
        }
    }
    (rates, Rates::NAMES.iter().all(|(name, _)| rates.get(name).is_some()))
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
