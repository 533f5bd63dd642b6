//! Figures that cannot be right, or may not be: each is named in the report, with what to do about it.

use super::figures::{Cpu, Figures, Rates};

/// What does not look as it should, each with what to do.
pub fn oddities(figures: &Figures) -> Vec<String> {
    const AGAIN: &str = "`greenboost plan MODEL --remeasure` measures again";
    let mut list = Vec::new();
    let rates = figures.gpu.as_ref().map(|gpu| gpu.rates).unwrap_or_default();
    for (name, words) in odd_rates(&rates) {
        list.push(format!("{name} is not slower than VRAM ({words}): {AGAIN}"));
    }
    if let Some((then, today)) = processors(&figures.cpu) {
        list.push(format!("measured with {then} processors, and this process may use {today}: {AGAIN}"));
    }
    let disturbances = figures.conditions.map(|conditions| conditions.disturbances()).unwrap_or_default();
    if !disturbances.is_empty() {
        list.push(format!("when this was measured {}: {AGAIN} on an idle machine", disturbances.join(" and ")));
    }
    list
}

/// Figures that VRAM has to beat.
fn odd_rates(rates: &Rates) -> Vec<(&'static str, String)> {
    let Some(vram) = rates.vram else { return Vec::new() };
    let outside = [("the link", rates.to_gpu), ("RAM read in place", rates.in_place)];
    let odd = outside.into_iter().filter_map(|(name, rate)| Some((name, rate?))).filter(|(_, rate)| *rate >= vram);
    odd.map(|(name, rate)| (name, format!("{rate:.1} and {vram:.1} GB/s"))).collect()
}

/// Processors then and now, where they differ.
fn processors(cpu: &Cpu) -> Option<(usize, usize)> {
    let then = cpu.reads.iter().map(|(threads, _)| *threads).max()?;
    let today = std::thread::available_parallelism().map_or(then, usize::from);
    (then != today).then_some((then, today))
}

#[cfg(test)]
mod tests {
    use super::super::conditions::Conditions;
    use super::super::figures::Gpu;
    use super::*;

    #[test]
    fn figures_that_cannot_be_are_named() {
        let gpu = |vram: f64| Gpu {
            rates: Rates { vram: Some(vram), to_gpu: Some(20.0), ..Rates::default() },
            ..Gpu::default()
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let cpu = |threads| Cpu { reads: vec![(1, 9.0), (threads, 40.0)], ..Cpu::default() };
        let figures = |vram, threads| Figures { gpu: Some(gpu(vram)), cpu: cpu(threads), ..Figures::default() };
        assert_eq!(oddities(&figures(900.0, processors)), [] as [String; 0]);
        assert!(oddities(&figures(12.0, processors))[0].starts_with("the link is not slower than VRAM (20.0 and 12.0"));
        assert!(oddities(&figures(900.0, processors + 3))[0].contains(&format!("with {} processors", processors + 3)));
    }

    #[test]
    fn a_measurement_on_a_busy_machine_says_so_and_what_to_do() {
        let busy = Conditions { cpu_busy: Some(0.8), gpu_busy: Some(0.5), spread: Some(0.4), ..Conditions::default() };
        let figures = Figures { conditions: Some(busy), ..Figures::default() };
        assert!(oddities(&figures)[0].contains("80% busy and") && oddities(&figures)[0].contains("--remeasure"));
    }
}
