//! How fast this machine is: measured once, remembered for the GPU, driver and CPU it was measured on.
//!
//! What talks to the driver runs in a child (`gpu` is it), as in doctor. Whatever cannot be measured is missing, with the
//! reason, and no figure takes its place.

mod bench;
mod conditions;
mod cpu;
mod disk;
mod figures;
mod gpu;
mod oddities;
mod store;
mod together;

pub use conditions::Conditions;
pub use figures::{Cpu, Figures, Gpu, Rates, fewest};
pub use gpu::{MeasureOptions, run as run_measurement};
pub use oddities::oddities;
pub use together::Together;

use crate::driver::child;
use crate::driver::report::{Event, GpuReport};
use std::path::Path;
use std::time::{Duration, Instant};

/// Far above what it takes; a driver that hangs must not hang us.
const DESCRIBE_LIMIT: Duration = Duration::from_secs(8);
/// For describing and measuring the GPU; CPU and disk take three seconds more at most.
const GPU_LIMIT: Duration = Duration::from_secs(14);

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
        Event::Rate { what, gigabytes } if what.ends_with(bench::SPREAD) => Some(*gigabytes),
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
