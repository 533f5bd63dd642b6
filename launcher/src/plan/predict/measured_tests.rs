//! The formulas against what a real GPU measured: every row of speed in docs/benchmarks.

use super::speed::{decode, prefill};
use super::tests::{h200, setting};
use super::*;
use crate::plan::measure::{Cpu, Figures, Together};
use crate::plan::test_models::{dense, facts, moe};
use serde_json::Value;

/// What the machine of the run had of CPU and RAM; its GPU and link were those of [`h200`].
type Measured = fn() -> Figures;
const SECOND: &str = include_str!("../../../../docs/benchmarks/gpu-2026-11-28-2.json");
const RUNS: [(&str, Measured); 5] = [
    (include_str!("../../../../docs/benchmarks/gpu-2026-11-23.json"), h200),
    (include_str!("../../../../docs/benchmarks/gpu-2026-11-23-fit.json"), h200),
    (include_str!("../../../../docs/benchmarks/gpu-2026-11-28.json"), of_2026_11_28),
    (SECOND, of_the_second),
    (include_str!("../../../../docs/benchmarks/gpu-2026-11-28-split.json"), of_2026_11_28),
];
/// What the plan promises of a real GPU.
const TOLERANCE: f64 = 0.15;
/// Rows that it does not keep to, and why.
const MISSED: &[(&str, &str, u64, &str, f64)] = &[
    // 15 threads, which the plan had chosen then, of which each of 8 cores but one had two.
    ("moe-30b-a3b-q4_k_m", "tg64", 512, "assist", 0.25),
    // One of three machines of the kind was that slow: 1957 and 2033 on the others.
    ("dense-32b-q4_k_m", "pp2048", 512, "assist", 0.16),
    // In place only the experts are read that tokens chose; those of these random weights choose few in later layers.
    ("moe-30b-a3b-q4_k_m", "pp2048", 512, "extend", 0.2),
];

fn of_2026_11_28() -> Figures {
    let cpu = Cpu { reads: vec![(4, 42.1), (8, 75.5), (16, 135.9)], ..Cpu::default() };
    Figures { cpu, together: Some(Together { threads: 16, cpu: 135.8, link: 49.1 }), ..h200() }
}

/// Another machine of the kind.
fn of_the_second() -> Figures {
    let cpu = Cpu { reads: vec![(4, 38.5), (8, 73.9), (16, 152.6)], ..Cpu::default() };
    Figures { cpu, together: Some(Together { threads: 16, cpu: 132.2, link: 52.2 }), ..h200() }
}

/// A row of a `gpu-*.json`, run with a strategy that is predicted.
struct Row {
    name: String,
    test: String,
    config: String,
    ubatch: u64,
    measured: f64,
    vram: Option<u64>,
    ring: u64,
    options: Vec<String>,
}

impl Row {
    fn of(row: &Value) -> Option<Self> {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        // Host-copy prefetch did nothing before it served pinned memory.
        let is_prefetched = text("config") == "assist";
        Some(Self {
            name: Some(text("model")).filter(|name| name.contains("32b") || name.contains("30b"))?,
            test: Some(text("test")).filter(|test| ["pp2048", "tg64", "tg32"].contains(&test.as_str()))?,
            config: Some(text("config")).filter(|_| !is_prefetched || row["counters"].is_object())?,
            ubatch: row["ubatch"].as_u64()?,
            measured: row["value"].as_f64()?,
            vram: row["vram_cap_bytes"].as_u64(),
            ring: row["counters"]["ring_bytes"].as_u64().unwrap_or_default(),
            options: text("options").split(' ').map(str::to_owned).collect(),
        })
    }

    fn option(&self, name: &str) -> Option<&str> {
        let at = self.options.iter().position(|option| option == name)?;
        self.options.get(at + 1).map(String::as_str)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.option(name)?.parse().ok()
    }

    /// The strategy it was run with, and what was where.
    fn placed(&self, facts: &Facts, setting: &Setting) -> Option<(Strategy, Placement)> {
        let cpu_layers = || {
            let (_, numbers) = self.option("-ot")?.split_once('(')?;
            numbers.split_once(')')?.0.split('|').map(|number| number.parse().ok()).collect::<Option<Vec<u64>>>()
        };
        let layers = facts.layers.len() as u64 + 1;
        let layered = || {
            Some(Placement::layered(
                facts,
                setting,
                self.number("-ngl")?.min(layers),
                self.number("-ncmoe").unwrap_or(0),
            ))
        };
        Some(match self.config.as_str() {
            "full-vram" => (Strategy::Vram, Placement::all_inside(facts, setting)),
            "stream" => (Strategy::Extend, Placement::by_tensor(facts, setting)),
            "extend" => (Strategy::ExtendInPlace, Placement::by_tensor(facts, setting)),
            "llama.cpp-best" => (Strategy::Offload, layered()?),
            "assist" => (Strategy::HostCopyPrefetch, layered()?),
            "combined" => (Strategy::Combined, Placement::with_cpu_layers(facts, setting, cpu_layers()?)),
            _ => return None,
        })
    }

    fn predicted(&self, figures: &Figures) -> Option<f64> {
        let facts = facts(&if self.name.starts_with("dense") { dense() } else { moe() });
        let vram = self.vram.unwrap_or(140 << 30);
        // Runs from before the ring was counted had a sixteenth of the VRAM.
        let ring = match self.config.as_str() {
            "stream" if self.ring == 0 => vram / 16,
            _ => self.ring,
        };
        let setting = Setting { vram, ring, ..setting(0, 2048, self.ubatch) };
        let (strategy, placement) = self.placed(&facts, &setting)?;
        let machine = Machine::new(figures);
        Some(if self.test.starts_with("pp") {
            self.ubatch as f64 / prefill(&facts, &placement, &machine, self.ubatch, strategy.row().prefill)?
        } else {
            1.0 / decode(&facts, &placement, &machine, strategy.row().decode)?
        })
    }

    fn tolerance(&self) -> f64 {
        let found = MISSED.iter().find(|(name, test, ubatch, config, _)| {
            (*name, *test, *ubatch, *config) == (&*self.name, &*self.test, self.ubatch, &*self.config)
        });
        found.map_or(TOLERANCE, |missed| missed.4)
    }
}

#[test]
fn speeds_are_predicted_as_they_were_measured() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for (run, machine) in RUNS {
        let rows: Vec<Value> = serde_json::from_str(run).expect("rows");
        for row in rows.iter().filter_map(Row::of) {
            let Some(predicted) = row.predicted(&machine()) else { continue };
            let off = predicted / row.measured - 1.0;
            let Row { name, test, config, ubatch, measured, .. } = &row;
            let line =
                format!("{name} {config} {test}/{ubatch}: {predicted:.1} for {measured:.1} ({:+.0}%)", off * 100.0);
            println!("{line}");
            seen += 1;
            if off.abs() > row.tolerance() {
                wrong.push(line);
            }
        }
    }
    assert!(seen >= 40 && wrong.is_empty(), "{seen} rows, of which {wrong:#?}");
}

#[test]
fn loading_is_predicted_roughly() {
    let rows: Vec<Value> = serde_json::from_str(SECOND).expect("rows");
    let mut seen = 0;
    for row in rows.iter().filter(|row| row["test"] == "ready_s") {
        let facts =
            facts(&if row["model"].as_str().is_some_and(|name| name.starts_with("dense")) { dense() } else { moe() });
        let setting = |vram| Setting { vram, ..setting(0, 2048, 512) };
        let placement = match (row["config"].as_str(), row["vram_cap_bytes"].as_u64()) {
            (Some("fits-mapped"), _) => Placement::all_inside(&facts, &setting(140 << 30)),
            (Some("stream-page-cache"), Some(vram)) => Placement::by_tensor(&facts, &setting(vram)),
            _ => continue,
        };
        let (predicted, _) = speed::load(&facts, &placement, &Machine::new(&of_the_second()), false);
        let (predicted, measured) = (predicted.expect("all is known"), row["value"].as_f64().expect("a number"));
        println!("{} {}: {predicted:.2} for {measured:.2}", row["model"], row["config"]);
        assert!((predicted / measured - 1.0).abs() < 0.3, "{predicted:.2} seconds for {row:#}");
        seen += 1;
    }
    assert_eq!(seen, 4);
}
