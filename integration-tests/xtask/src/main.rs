//! `cargo xtask`: what a developer or a visitor runs, in three commands.
//!
//! * `demo` shows the main job end to end, on the simulated GPU and on a real one where there is one;
//! * `test` runs everything that passes without a GPU, and is all that CI runs;
//! * `bench` measures what the hook costs a program that does not need it, how well `greenboost plan` predicts, and how
//!   much of the copying of weights overlaps with computing.
//!
//! `package` makes Debian packages. `gpu-pack` prepares the folder that `integration-tests/gpu/run.sh` needs on a machine with a GPU.

mod artefacts;
mod bench;
mod demo;
mod gpu_pack;
mod kernel;
mod package;
mod process;
mod test;
mod tier_map;
mod workspace;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "GreenBoost's demo, tests and benchmarks")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a model four times the size of the GPU, and shows that the answer is the same as on a large one
    Demo(demo::Options),
    /// Runs everything that passes without a GPU
    Test(test::Options),
    /// Measures
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Makes Debian packages: the programs, and the kernel module for DKMS
    Package(package::Options),
    /// Fills a folder with all that integration-tests/gpu/run.sh needs on a machine with a GPU
    GpuPack {
        /// The folder; made if it is not there
        dir: PathBuf,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// Nanoseconds a hooked call costs, against the same call unhooked
    Overhead(bench::Options),
    /// What `greenboost plan` expects against what a run takes
    Predict(bench::predict::Options),
    /// How much of the copying of weights overlaps with computing with them
    Stream(bench::stream::Options),
    /// The kernel module's pool against what else pins memory, in a virtual machine
    Pool(bench::pool::Options),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Bench { what: Bench::Overhead(options) } => bench::run(&options),
        Command::Bench { what: Bench::Pool(options) } => bench::pool::run(&options),
        Command::Package(options) => package::run(&options),
        Command::Bench { what: Bench::Predict(options) } => bench::predict::run(&options),
        Command::Bench { what: Bench::Stream(options) } => bench::stream::run(&options),
        Command::GpuPack { dir } => gpu_pack::run(&dir),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
