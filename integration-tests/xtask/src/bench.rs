//! `cargo xtask bench`. `overhead` is here: what the hook costs a program that does not need it.
//!
//! One small C program times single calls inside its own process. It runs alternately as it is and under
//! `gb-launch`, so that whatever else the machine does meets both; a figure is the median of its rounds. The
//! driver is the simulated one: what it does in a call is not what a real one does, so the difference between
//! the two is the result and the ratio belongs to the simulation.

mod passes;
pub mod pool;
pub mod predict;
pub mod stream;

use crate::artefacts::Artefacts;
use crate::{process, workspace};
use anyhow::{Context, Result, bail};
use clap::Args;
use greenboost_contract::settings;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Options of `cargo xtask bench overhead`.
#[derive(Args)]
pub struct Options {
    /// Also write the figures to FILE, as an array of rows
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often each side runs
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

/// Calls with a target: at most this many nanoseconds more.
const TARGETS: &[(&str, f64)] = &[
    ("cuLaunchKernel", 100.0),
    ("cuLaunchKernel beside streaming", 100.0),
    ("cuLaunchKernel of a streamed weight", 400.0),
    ("dlsym, a driver function", 60.0),
    ("dlsym, any other name", 60.0),
];

/// What the program that streams is given: less VRAM than its 256 MiB of weights, and a ring for one of them.
const STREAMING: &[(&str, &str)] = &[(settings::STREAM, "on"), (settings::RING, "64MiB")];

/// Nanoseconds by call, one entry a round.
type Rounds = BTreeMap<String, Vec<f64>>;

/// One call, compared.
struct Row {
    call: String,
    unhooked: f64,
    hooked: f64,
    /// Half of the differences between paired rounds lie within this.
    spread: f64,
    target: Option<f64>,
}

impl Row {
    fn added(&self) -> f64 {
        self.hooked - self.unhooked
    }
}

/// Measures, prints, and writes the rows where that was asked for.
///
/// # Errors
/// When something cannot be built or run. A missed target is reported, not an error.
pub fn run(options: &Options) -> Result<ExitCode> {
    let built = Artefacts::release(&["greenboost-hook", "greenboost-launcher", "simgpu", "simnvml"])?;
    let driver = built.simulated_driver()?;
    let launcher = built.file("gb-launch")?;
    let programs = compile(&driver)?;
    let (mut unhooked, mut hooked) = (Rounds::new(), Rounds::new());
    for round in 0..options.rounds {
        eprint!("\rround {}/{}", round + 1, options.rounds);
        for (program, flags, variables) in
            [(&programs[0], &[][..], &[][..]), (&programs[1], &["--vram", "160MiB"][..], STREAMING)]
        {
            once(&mut Command::new(program), &driver, &mut unhooked)?;
            let mut command = Command::new(&launcher);
            command.args(["--profile", "generic"]).args(flags).arg("--").arg(program);
            command.envs(variables.iter().copied());
            once(&mut command, &driver, &mut hooked)?;
        }
    }
    eprintln!();
    let rows = compare(&unhooked, &hooked);
    print(&rows, options.rounds);
    if let Some(path) = &options.json {
        let array: Vec<_> = rows.iter().map(|row| as_json(row, options.rounds)).collect();
        let text = serde_json::to_string_pretty(&array).context("rows as JSON")? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The program of plain calls, and the one whose weights are streamed.
fn compile(driver: &Path) -> Result<[PathBuf; 2]> {
    let folder = workspace::target().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let cc = |output: &str, source: &str, more: &[&str]| {
        let program = folder.join(output);
        let mut cc = process::program("cc", &["-O2", "-std=gnu11", "-Wall", "-Wextra", source]);
        cc.arg("-o").arg(&program).args(more).arg("-L").arg(driver).args(["-l:libcuda.so.1", "-ldl"]);
        process::succeed(&mut cc).map(|_| program)
    };
    let ggml = cc("libggml-like.so", "integration-tests/fixtures/c/ggml_base.c", &["-shared", "-fPIC"])?;
    let ggml = ggml.to_string_lossy().into_owned();
    Ok([
        cc("overhead", "integration-tests/bench/overhead.c", &[])?,
        cc("streamed", "integration-tests/bench/streamed.c", &[&ggml])?,
    ])
}

fn once(command: &mut Command, driver: &Path, into: &mut Rounds) -> Result<()> {
    command.arg(workspace::root().join("integration-tests/kernels/toy.ptx"));
    command.env("LD_LIBRARY_PATH", driver).env("SIMGPU_VRAM", "8GiB").env("SIMGPU_DELAY_US", "0");
    let output = command.output().with_context(|| format!("cannot run `{}`", process::typed(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` {}: {}", process::typed(command), process::ended(output.status), said.trim());
    }
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let (name, value) = line.rsplit_once(' ').with_context(|| format!("no figure in '{line}'"))?;
        let value = value.parse().with_context(|| format!("no figure in '{line}'"))?;
        into.entry(name.to_owned()).or_default().push(value);
    }
    Ok(())
}

fn compare(unhooked: &Rounds, hooked: &Rounds) -> Vec<Row> {
    let row = |(call, plain): (&String, &Vec<f64>)| {
        let ours = hooked.get(call)?;
        let differences: Vec<f64> = plain.iter().zip(ours).map(|(plain, ours)| ours - plain).collect();
        let middle = median(&differences);
        Some(Row {
            call: call.clone(),
            unhooked: median(plain),
            hooked: median(ours),
            spread: median(&differences.iter().map(|value| (value - middle).abs()).collect::<Vec<_>>()),
            target: TARGETS.iter().find(|(name, _)| name == call).map(|(_, target)| *target),
        })
    };
    unhooked.iter().filter_map(row).collect()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 }
}

fn print(rows: &[Row], rounds: u16) {
    println!("nanoseconds a call on the simulated GPU, medians of {rounds} alternating rounds");
    println!("{:28} {:>9} {:>9} {:>9} {:>7} {:>7}  target", "call", "unhooked", "hooked", "added", "+/-", "ratio");
    for row in rows {
        let verdict = row.target.map_or(String::new(), |target| {
            format!("< {target} ns: {}", if row.added() < target { "met" } else { "MISSED" })
        });
        println!(
            "{:28} {:>9.1} {:>9.1} {:>9.1} {:>7.1} {:>6.2}x  {verdict}",
            row.call,
            row.unhooked,
            row.hooked,
            row.added(),
            row.spread,
            row.hooked / row.unhooked
        );
    }
    println!(
        "\nA launch is timed as it queues on a stream that is held up, so that no other thread runs beside it. The"
    );
    println!("simulated driver's own share differs from a real one's: read the column 'added'.");
}

fn as_json(row: &Row, rounds: u16) -> serde_json::Value {
    let digits = |value: f64| (value * 100.0).round() / 100.0;
    json!({
        "test": "overhead",
        "driver": "simulated",
        "call": row.call.replace(' ', "-"),
        "rounds": rounds,
        "unhooked_ns": digits(row.unhooked),
        "hooked_ns": digits(row.hooked),
        "added_ns": digits(row.added()),
        "spread_ns": digits(row.spread),
        "ratio": digits(row.hooked / row.unhooked),
        "target_ns": row.target,
        "target_met": row.target.map(|target| row.added() < target),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_disturbed_round_does_not_move_a_figure() {
        let rounds = |values: &[f64]| Rounds::from([("cuLaunchKernel".to_owned(), values.to_vec())]);
        let rows = compare(&rounds(&[300.0, 302.0, 9000.0]), &rounds(&[350.0, 9000.0, 352.0]));
        assert_eq!((rows[0].unhooked, rows[0].hooked, rows[0].added()), (302.0, 352.0, 50.0));
        assert_eq!(rows[0].target, Some(100.0));
    }
}
