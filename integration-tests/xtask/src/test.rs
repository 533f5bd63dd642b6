//! `cargo xtask test`: stages with a name and a time each, cheapest first.

mod cargo_test;
mod ceilings;
mod cycles;
mod figures;
mod layout;
mod llama;
mod map;
pub mod outcome;
mod packages;
mod prose;
mod scripts;
mod source;
mod statics;
mod tree;

use crate::{artefacts, kernel, package, process};
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use integration_tests::artefacts::engine;
use outcome::{Counts, Outcome};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Options of `cargo xtask test`.
#[derive(Args)]
pub struct Options {
    /// Run only this stage; may be given several times
    #[arg(long, value_name = "STAGE")]
    only: Vec<String>,
    /// Print the stages and run none
    #[arg(long)]
    list: bool,
    /// Run the remaining stages after one has failed
    #[arg(long)]
    keep_going: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// Runs the kernel module's tests alone, in a virtual machine
    Kernel(kernel::Options),
    /// Lists what a counted check finds
    Show {
        /// cycles, prose or statics
        #[arg(value_parser = checks())]
        check: String,
        /// Files or folders, from the root of the workspace; all of it where none is given
        paths: Vec<String>,
    },
    /// Writes the ceilings of the counted checks down to what they find
    Lower,
}

/// The stages that count, and allow as many as integration-tests/xtask/ceilings.toml says.
const COUNTED: &[&ceilings::Check] = &[&cycles::CHECK, &statics::CHECK, &prose::CHECK];

fn checks() -> Vec<&'static str> {
    COUNTED.iter().map(|check| check.name).collect()
}

/// The frida engine, as a feature of the hook.
const FRIDA: &str = "greenboost-hook/frida";

struct Stage {
    name: &'static str,
    what: &'static str,
    run: fn() -> Result<Outcome>,
}

const STAGES: &[Stage] = &[
    Stage { name: "packages", what: "the system packages the other stages need", run: packages::run },
    Stage { name: "layout", what: "folders where they belong, files of a readable length", run: layout::run },
    Stage {
        name: "cycles",
        what: "no two files of a crate use each other in a circle",
        run: || ceilings::hold(&cycles::CHECK),
    },
    Stage { name: "statics", what: "statics with state in the hook", run: || ceilings::hold(&statics::CHECK) },
    Stage { name: "map", what: "CONTRIBUTING.md's map names every folder", run: map::run },
    Stage { name: "prose", what: "the words of docs and doc comments", run: || ceilings::hold(&prose::CHECK) },
    Stage { name: "figures", what: "figures in README.md come from docs/benchmarks", run: figures::run },
    Stage { name: "scripts", what: "syntax of the shell and Python scripts", run: scripts::syntax },
    Stage { name: "gpu-script", what: "the GPU script's own logic, with stand-in programs", run: scripts::self_test },
    Stage { name: "fmt", what: "cargo fmt --check", run: fmt },
    Stage { name: "clippy", what: "cargo clippy, warnings are errors", run: clippy },
    Stage {
        name: "frida",
        what: "the frida engine: the layers' tests where there is a devkit, else its types",
        run: frida,
    },
    Stage { name: "docs", what: "cargo doc, warnings are errors", run: docs },
    Stage { name: "build", what: "the libraries and programs that tests start", run: build },
    Stage { name: "llama", what: "llama.cpp's own libraries, from npm, for the tests", run: llama::run },
    Stage { name: "tests", what: "cargo test", run: tests },
    Stage { name: "kernel", what: "the kernel module, in a virtual machine", run: kernel::stage },
    Stage { name: "package", what: "the Debian packages: contents, use, scripts, DKMS", run: package::stage },
];

/// Runs the stages.
///
/// # Errors
/// For a stage name that does not exist.
pub fn run(options: &Options) -> Result<ExitCode> {
    match &options.part {
        Some(Part::Kernel(options)) => return kernel::run(options),
        Some(Part::Show { check, paths }) => {
            for check in COUNTED.iter().filter(|counted| counted.name == check) {
                ceilings::show(check, paths)?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        Some(Part::Lower) => {
            ceilings::lower(COUNTED)?;
            return Ok(ExitCode::SUCCESS);
        }
        None => {}
    }
    if let Some(unknown) = options.only.iter().find(|name| STAGES.iter().all(|stage| stage.name != **name)) {
        let names: Vec<_> = STAGES.iter().map(|stage| stage.name).collect();
        bail!("there is no stage '{unknown}'; the stages are {}", names.join(", "));
    }
    if options.list {
        for stage in STAGES {
            println!("{:12} {}", stage.name, stage.what);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen: Vec<_> =
        STAGES.iter().filter(|stage| options.only.is_empty() || options.only.iter().any(|n| n == stage.name)).collect();
    let start = Instant::now();
    let mut report = Report::default();
    for (number, stage) in chosen.iter().enumerate() {
        eprintln!("\n== {}/{} {}: {}", number + 1, chosen.len(), stage.name, stage.what);
        let began = Instant::now();
        let result = (stage.run)();
        let failed = result.is_err();
        report.add(stage.name, began.elapsed(), result);
        if failed && !options.keep_going {
            report.left = chosen.len() - number - 1;
            break;
        }
    }
    report.print(start.elapsed());
    Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Default)]
struct Report {
    lines: Vec<String>,
    passed: usize,
    failed: Vec<&'static str>,
    not_run: usize,
    left: usize,
    tests: Counts,
}

impl Report {
    fn add(&mut self, name: &'static str, took: Duration, result: Result<Outcome>) {
        let how = match result {
            Ok(Outcome::NotRun(why)) => {
                self.not_run += 1;
                format!("not run: {why}")
            }
            Ok(Outcome::Tests(counts)) => {
                self.passed += 1;
                self.tests = counts;
                format!("passed, {counts}")
            }
            Ok(Outcome::Passed) => {
                self.passed += 1;
                "passed".to_owned()
            }
            Err(error) => {
                self.failed.push(name);
                if let Some(counts) = error.downcast_ref::<cargo_test::Failed>() {
                    self.tests = counts.0;
                }
                format!("FAILED: {error:#}")
            }
        };
        let line = format!("{name:12} {:>6.1} s  {how}", took.as_secs_f64());
        eprintln!("{line}");
        self.lines.push(line);
    }

    fn print(&self, took: Duration) {
        println!("\nstages");
        for line in &self.lines {
            println!("  {line}");
        }
        for name in &self.failed {
            println!("to run it alone: cargo xtask test --only {name}");
        }
        let left = if self.left > 0 { format!(", {} not reached", self.left) } else { String::new() };
        println!(
            "{} stages passed, {} failed, {} not run{left}, in {:.0} s",
            self.passed,
            self.failed.len(),
            self.not_run,
            took.as_secs_f64()
        );
        if self.tests.any() {
            println!("tests: {}", self.tests);
        }
    }
}

fn cargo(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Outcome> {
    let mut command = process::cargo(arguments);
    command.envs(variables.iter().copied());
    eprintln!("$ {}", process::typed(&command));
    process::succeed(&mut command)?;
    Ok(Outcome::Passed)
}

fn fmt() -> Result<Outcome> {
    cargo(&["fmt", "--all", "--check"], &[])
}

fn clippy() -> Result<Outcome> {
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])
}

/// The crate that the frida engine uses wants its library at build time; under DOCS_RS it is satisfied with its own
/// headers, which is enough for the types. Where there is a devkit, the layers' tests are run for real.
fn frida() -> Result<Outcome> {
    if !packages::has_libclang() {
        return Ok(Outcome::NotRun("libclang is missing (see the stage 'packages')".to_owned()));
    }
    if packages::has_frida_devkit(|name| std::env::var_os(name)) {
        return cargo(&["test", "-p", "greenboost-intercept", "-p", "greenboost-hook", "--features", FRIDA], &[]);
    }
    cargo(&["check", "-p", "greenboost-hook", "--features", "frida"], &[("DOCS_RS", "1")])
}

fn docs() -> Result<Outcome> {
    cargo(&["doc", "--no-deps", "--workspace"], &[("RUSTDOCFLAGS", "-D warnings")])
}

/// Tests start these as files, which `cargo test` alone does not build.
fn build() -> Result<Outcome> {
    let mut arguments = vec!["build"];
    arguments.extend(artefacts::PACKAGES.iter().flat_map(|package| ["-p", package]));
    arguments.extend(engine());
    cargo(&arguments, &[])
}

/// Builds first, for when this stage runs alone.
fn tests() -> Result<Outcome> {
    build()?;
    cargo_test::run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stage_names_are_unique() {
        let mut names: Vec<_> = STAGES.iter().map(|stage| stage.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STAGES.len());
    }

    #[test]
    fn a_failed_stage_makes_the_report_fail_and_a_stage_that_cannot_run_does_not() {
        let mut report = Report::default();
        report.add("one", Duration::ZERO, Ok(Outcome::NotRun("no tool".to_owned())));
        assert!(report.failed.is_empty());
        report.add("two", Duration::ZERO, Err(anyhow::anyhow!("planted")));
        assert_eq!((report.failed, report.not_run, report.passed), (vec!["two"], 1, 0));
    }
}
