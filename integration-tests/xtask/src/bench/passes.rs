//! Passes over a model's weights on a simulated GPU of set speeds: what `bench predict` and `bench stream` share.

use crate::artefacts::Artefacts;
use crate::{process, workspace};
use anyhow::{Context, Result, ensure};
use greenboost_contract::record::{self, Record};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;

/// The speeds of the simulated GPU, in GB/s: slow enough that what the simulation itself costs hides in them.
#[derive(Debug, Clone, Copy)]
pub struct Speeds {
    /// Kernels reading VRAM.
    pub vram: f64,
    /// Copies over the link.
    pub link: f64,
    /// Kernels reading over it in place.
    pub in_place: f64,
}

/// A weight in Q8_0.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Columns.
    pub cols: u64,
    /// Rows of one expert.
    pub rows: u64,
    /// Experts, 1 in a dense layer.
    pub experts: u64,
    /// Those a token goes through.
    pub used: u64,
}

impl Tensor {
    /// A matrix that every token reads.
    pub fn dense(name: &str, cols: u64, rows: u64) -> Self {
        Self { name: name.to_owned(), cols, rows, experts: 1, used: 1 }
    }

    /// Bytes of it: 34 for 32 weights.
    pub fn bytes(&self) -> u64 {
        self.cols / 32 * 34 * self.rows * self.experts
    }
}

/// What a run of the program printed.
pub struct Output {
    /// Seconds of each pass, by kind.
    pub seconds: BTreeMap<String, Vec<f64>>,
    /// What must not depend on where the weights are.
    pub checksum: String,
    /// Bytes that were outside VRAM.
    pub outside: u64,
}

impl Output {
    /// The middle pass of a kind, the first one aside: an engine that learns an order learns it there.
    pub fn middle(&self, kind: &str) -> Result<f64> {
        let all = self.seconds.get(kind).with_context(|| format!("no {kind} passes"))?;
        ensure!(all.len() > 1, "one pass is too few");
        Ok(super::median(&all[1..]))
    }
}

/// Everything built.
pub struct Passes {
    driver: PathBuf,
    launcher: PathBuf,
    greenboost: PathBuf,
    program: PathBuf,
    speeds: Speeds,
    /// For files of the benchmark.
    pub folder: PathBuf,
}

/// How the program is started.
#[derive(Default)]
pub struct Start<'a> {
    /// Of `gb-launch`: budget, rules.
    pub options: Vec<String>,
    /// Variables.
    pub environment: Vec<(&'a str, &'a str)>,
}

impl Passes {
    /// Builds what is needed.
    ///
    /// # Errors
    /// When something cannot be built.
    pub fn build(speeds: Speeds) -> Result<Self> {
        let built = Artefacts::release(&["greenboost-hook", "greenboost-launcher", "simgpu", "simnvml"])?;
        let folder = workspace::target().join("bench");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self {
            driver: built.simulated_driver()?,
            launcher: built.file("gb-launch")?,
            greenboost: built.file("greenboost")?,
            program: compile(&folder)?,
            speeds,
            folder,
        })
    }

    fn on_the_gpu<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("LD_LIBRARY_PATH", &self.driver)
            .env("SIMGPU_VRAM", "1536MiB")
            .env("SIMGPU_DELAY_US", "0")
            // One multiprocessor: a prompt's products then take about as long as its weights.
            .env("SIMGPU_MULTIPROCESSORS", "1")
            .env("SIMGPU_VRAM_GBPS", self.speeds.vram.to_string())
            .env("SIMGPU_LINK_GBPS", self.speeds.link.to_string())
            .env("SIMGPU_IN_PLACE_GBPS", self.speeds.in_place.to_string())
    }

    /// What `greenboost plan` says of a model on this GPU, whose speeds it measures itself.
    ///
    /// # Errors
    /// When it cannot be run or says nothing.
    pub fn plan(&self, model: &Path, options: &[String], measure: bool) -> Result<Value> {
        let mut command = Command::new(&self.greenboost);
        command.arg("plan").arg(model).arg("--json").args(options).args(measure.then_some("--remeasure"));
        self.on_the_gpu(&mut command).env("XDG_CACHE_HOME", &self.folder);
        let output = command.output().with_context(|| format!("cannot run `{}`", process::typed(&command)))?;
        let said = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).with_context(|| format!("`{}`: {said}", process::typed(&command)))
    }

    /// Runs the program under `gb-launch`: loads the tensors, then does what the rest of the script says.
    ///
    /// # Errors
    /// When it cannot be run or fails.
    pub fn run(&self, tensors: &[Tensor], script: &str, start: &Start<'_>) -> Result<Output> {
        let mut lines = String::new();
        for Tensor { name, cols, rows, experts, used } in tensors {
            writeln!(lines, "tensor {name} {cols} {rows} {experts} {used}")?;
        }
        lines.push_str(script);
        let mut command = Command::new(&self.launcher);
        command.args(["--profile", "generic"]).args(&start.options).arg("--").arg(&self.program);
        // The models are small, and so are the allocations that they are made of.
        self.on_the_gpu(&mut command).env("GREENBOOST_THRESHOLD", "4MiB").env("GREENBOOST_CHUNK", "2MiB");
        command.envs(start.environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run `{}`", process::typed(&command)))?;
        // The program lives until its script ends: until then it can be looked at.
        let mut to = child.stdin.take().context("no stdin")?;
        to.write_all(lines.as_bytes()).and_then(|()| to.write_all(b"report\n"))?;
        let mut text = String::new();
        let mut from = BufReader::new(child.stdout.take().context("no stdout")?);
        while from.read_line(&mut text)? > 0 && !text.lines().last().is_some_and(|line| line.starts_with("checksum")) {}
        let outside = record::of_process(child.id()).map(|record| outside(&record));
        drop(to);
        let ended = child.wait()?;
        ensure!(ended.success(), "`{}` {}", process::typed(&command), process::ended(ended));
        parse(&text, outside.context("no status record")?)
    }
}

/// RAM that stands in for VRAM.
fn outside(record: &Record) -> u64 {
    record.devices.iter().flat_map(|device| &device.ram).map(|bytes| bytes.load(Relaxed)).sum()
}

fn parse(text: &str, outside: u64) -> Result<Output> {
    let (mut seconds, mut checksum) = (BTreeMap::new(), String::new());
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ').with_context(|| format!("what is '{line}'?"))?;
        if kind == "checksum" {
            rest.clone_into(&mut checksum);
            continue;
        }
        let figures: Result<Vec<f64>, _> = rest.split(' ').map(str::parse).collect();
        seconds.insert(kind.to_owned(), figures.with_context(|| format!("no figures in '{line}'"))?);
    }
    ensure!(!checksum.is_empty(), "no checksum in '{text}'");
    Ok(Output { seconds, checksum, outside })
}

/// The program, and beside it the library that looks like ggml's.
fn compile(folder: &Path) -> Result<PathBuf> {
    let (library, program) = (folder.join("libggml-like.so"), folder.join("passes"));
    let flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra"];
    let mut cc = process::program("cc", &flags);
    cc.args(["-shared", "-fPIC", "-Wl,-z,lazy,-soname,libggml-like.so", "integration-tests/fixtures/c/ggml_base.c"]);
    process::succeed(cc.arg("-o").arg(&library))?;
    let mut cc = process::program("cc", &flags);
    cc.arg(format!("-DTOY_PTX=\"{}\"", workspace::root().join("integration-tests/kernels/toy.ptx").display()));
    cc.args(["integration-tests/bench/passes.c", "-Wl,-z,lazy", "-Wl,-rpath,$ORIGIN", "-ldl"]).arg(&library);
    process::succeed(cc.arg("-o").arg(&program))?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pass_is_left_aside() {
        let output = parse("decode 9.0 1.0 3.0 2.0\nchecksum 0x1 0x2\n", 5).expect("figures");
        assert_eq!(output.middle("decode").expect("passes"), 2.0);
        assert_eq!(output.checksum, "0x1 0x2");
        assert!(output.middle("prefill").is_err() && parse("decode 1.0", 0).is_err() && parse("decode x", 0).is_err());
    }
}
