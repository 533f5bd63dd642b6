//! `cargo xtask bench stream`: how much of the copying of weights overlaps with the kernels that compute with them.
//!
//! Passes over a row of equal weights, a kernel each, on a simulated GPU of set speeds: with all of them in VRAM, with
//! some outside and read in place, and with those streamed. The ideal pass takes as long as its kernels compute or its
//! copies are on the link, whichever is longer. In some the program also computes by itself, between parts of a pass
//! or at its end, and the GPU waits for that, but the link need not.

use super::passes::{Passes, Speeds, Start, Tensor};
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `cargo xtask bench stream`.
#[derive(Args)]
pub struct Options {
    /// Write the rows to FILE, or to stdout without one
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Passes of each run; the first is not counted
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(2..))]
    passes: u16,
}

/// VRAM so fast that only the kernels' own time counts there.
const SPEEDS: Speeds = Speeds { vram: 50.0, link: 0.5, in_place: 0.46 };
const TENSORS: u64 = 48;
/// 4.25 MiB of weights each; together they fill whole granules of 2 MiB, so that nothing is padding.
const COLS: u64 = 2048;
const ROWS: u64 = 2048;
/// What does not stream and is not a weight.
const SCRATCH: u64 = 2 << 20;
/// What small allocations take of the budget.
const SMALL: u64 = 2 << 20;
/// The share of the weights that the budget holds besides the ring.
const INSIDE: f64 = 0.5;
/// Tensors that the ring holds.
const RING: u64 = 4;
const TARGET: f64 = 0.95;

/// A row's name, what a pass is, whether the budget holds everything, whether what it does not is streamed, and whether
/// that should reach the target.
type Mode = (&'static str, &'static str, bool, &'static str, bool);

const ALONE: &[Mode] = &[
    ("vram", "fixed", true, "off", false),
    ("in-place", "fixed", false, "off", false),
    ("streaming", "fixed", false, "on", true),
    ("streaming-captured", "graph", false, "on", true),
];
/// Weights between two turns of the CPU, when these are spread over the pass.
const EVERY: u64 = 4;
const BESIDE: &[Mode] = &[
    ("vram", "beside", true, "off", false),
    ("streaming", "beside", false, "on", true),
    // What the others are measured against: copies in a graph begin when the graph does.
    ("streaming-captured", "beside-graphs", false, "on", false),
];
/// And the CPU's work at the end of the pass alone: the ring is smaller than what could be copied meanwhile.
const AT_THE_END: &[Mode] = &[("streaming", "beside", false, "on", false)];

/// A case: kernel times, and the CPU's, as shares of the time a pass's copies take; how many weights lie between two
/// turns of the CPU; and its modes.
type Case = (&'static str, f64, f64, u64, &'static [Mode]);

const CASES: &[Case] = &[
    ("compute-bound", 1.5, 0.0, 0, ALONE),
    ("copy-bound", 0.6, 0.0, 0, ALONE),
    ("beside the CPU, copy-bound", 0.2, 0.6, EVERY, BESIDE),
    ("beside the CPU, bound by it", 0.2, 1.1, EVERY, BESIDE),
    ("the CPU's layers in one block", 0.2, 0.6, TENSORS, AT_THE_END),
];

struct Row {
    case: &'static str,
    mode: &'static str,
    vram: u64,
    ring: u64,
    outside: u64,
    compute: f64,
    cpu: f64,
    measured: f64,
    has_target: bool,
}

impl Row {
    fn streams(&self) -> bool {
        self.mode.starts_with("streaming")
    }

    fn copy(&self) -> f64 {
        self.outside as f64 / (SPEEDS.link * 1e9)
    }

    fn ideal(&self) -> f64 {
        (self.compute + self.cpu).max(self.copy())
    }

    fn efficiency(&self) -> f64 {
        self.ideal() / self.measured
    }
}

/// Measures, prints, and writes the rows where that was asked for.
///
/// # Errors
/// When something cannot be built or run. A missed target is reported, not an error.
pub fn run(options: &Options) -> Result<ExitCode> {
    let passes = Passes::build(SPEEDS)?;
    let mut rows = Vec::new();
    for case in CASES {
        measure(&passes, case, options.passes, &mut rows)?;
    }
    let array: Vec<_> = rows.iter().map(as_json).collect();
    let text = serde_json::to_string_pretty(&array).context("rows as JSON")? + "\n";
    match &options.json {
        Some(path) if path.as_os_str() == "-" => print!("{text}"),
        Some(path) => {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
            print(&rows);
        }
        None => print(&rows),
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(passes: &Passes, case: &Case, count: u16, rows: &mut Vec<Row>) -> Result<()> {
    let (case, share, cpu_share, every, modes) = *case;
    let tensors: Vec<_> =
        (0..TENSORS).map(|index| Tensor::dense(&format!("blk.{index}.ffn_up.weight"), COLS, ROWS)).collect();
    let one = tensors[0].bytes();
    let weights = one * TENSORS;
    let ring = (RING * one).next_multiple_of(2 << 20) + (2 << 20);
    let tight = (weights as f64 * INSIDE) as u64 + SCRATCH + SMALL + ring;
    let copies = weights as f64 * (1.0 - INSIDE) / (SPEEDS.link * 1e9);
    let (compute, cpu) = (copies * share, copies * cpu_share);
    let beside = TENSORS
        .checked_div(every)
        .map_or_else(String::new, |turns| format!(" {every} {:.0}", cpu / turns as f64 * 1e9));
    let kernel = compute / TENSORS as f64 * 1e9;
    let ring_text = ring.to_string();
    let mut checksum = None;
    for &(mode, pass, fits, stream, has_target) in modes {
        eprintln!("{case}, {mode}");
        let vram = if fits { weights * 2 } else { tight };
        let start = Start {
            options: vec!["--vram".to_owned(), vram.to_string()],
            environment: vec![("GREENBOOST_STREAM", stream), ("GREENBOOST_RING", &ring_text)],
        };
        let script = format!("buffers 0 {SCRATCH}\nload tensors\n{pass} {count} {kernel:.0}{beside}\n");
        let output = passes.run(&tensors, &script, &start)?;
        ensure!(*checksum.get_or_insert_with(|| output.checksum.clone()) == output.checksum, "{mode}: another answer");
        let measured = output.middle(pass)?;
        rows.push(Row { case, mode, vram, ring, outside: output.outside, compute, cpu, measured, has_target });
    }
    Ok(())
}

fn print(rows: &[Row]) {
    println!("milliseconds a pass on the simulated GPU");
    println!(
        "{:30} {:18} {:>9} {:>9} {:>9} {:>9} {:>9} {:>11}",
        "case", "mode", "compute", "CPU", "copy", "ideal", "measured", "efficiency"
    );
    for row in rows {
        let verdict = match row.has_target {
            true if row.efficiency() >= TARGET => format!("  >= {TARGET}: met"),
            true => format!("  >= {TARGET}: MISSED"),
            false => String::new(),
        };
        println!(
            "{:30} {:18} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>11.3}{verdict}",
            row.case,
            row.mode,
            row.compute * 1e3,
            row.cpu * 1e3,
            row.copy() * 1e3,
            row.ideal() * 1e3,
            row.measured * 1e3,
            row.efficiency()
        );
    }
}

fn as_json(row: &Row) -> Value {
    let digits = |value: f64| (value * 1e6).round() / 1e3;
    let streams = row.streams();
    json!({
        "test": "stream",
        "driver": "simulated",
        "set_gbps": { "vram": SPEEDS.vram, "link": SPEEDS.link, "in_place": SPEEDS.in_place },
        "case": row.case,
        "mode": row.mode,
        "vram_bytes": row.vram,
        "outside_bytes": row.outside,
        "ring_bytes": streams.then_some(row.ring),
        "tensors": TENSORS,
        "compute_ms": digits(row.compute),
        "cpu_ms": digits(row.cpu),
        "copy_ms": digits(row.copy()),
        "ideal_ms": digits(row.ideal()),
        "measured_ms": digits(row.measured),
        "overlap_efficiency": (row.efficiency() * 1e4).round() / 1e4,
        "target": row.has_target.then_some(TARGET),
        "target_met": row.has_target.then(|| row.efficiency() >= TARGET),
    })
}
