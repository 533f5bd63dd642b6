//! `cargo xtask demo`: the main job, end to end, where anyone can watch it.
//!
//! One model runs on a GPU that is large enough, then, four times too large, on a small one: alone, which
//! fails, and under `gb-launch`, which must print the same checksum. First on the simulated GPU, which every
//! machine has, then on a real one if there is one.

mod place;
mod watch;

use crate::artefacts::Artefacts;
use crate::workspace;
use anyhow::{Context, Result};
use clap::Args;
use greenboost_contract::{format_size, parse_size};
use place::Place;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;
use watch::{Run, watch};

/// Options of `cargo xtask demo`.
#[derive(Args)]
pub struct Options {
    /// Size of the model; the small GPU has a quarter of it
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = size)]
    model: u64,
    /// Tokens to run
    #[arg(long, value_name = "N", default_value_t = 16)]
    tokens: u32,
    /// Leave a real GPU alone
    #[arg(long)]
    simulated_only: bool,
    /// Build nothing: the programs lie in DIR, the simulated driver in its folder `driver`
    #[arg(long, value_name = "DIR", hide = true)]
    built: Option<PathBuf>,
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}

/// What a demo run needs to know.
struct Demo {
    toy: PathBuf,
    launcher: PathBuf,
    model: PathBuf,
    small: u64,
    tokens: u32,
}

/// Builds, runs, compares.
///
/// # Errors
/// When something cannot be built or started, or does not end the way it must.
pub fn run(options: &Options) -> Result<ExitCode> {
    let built = match &options.built {
        Some(dir) => Artefacts::prepared(dir),
        None => Artefacts::release(&["greenboost-hook", "greenboost-launcher", "simgpu", "simnvml", "toy-llm"])?,
    };
    let start = Instant::now();
    let folder = workspace::target().join("demo");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let demo = Demo {
        toy: built.file("toy-llm")?,
        launcher: built.file("gb-launch")?,
        model: folder.join("model.gguf"),
        small: options.model / 4,
        tokens: options.tokens,
    };
    println!("\nmaking a model of {}", format_size(options.model));
    let made = make_model(&demo, options.model);
    let same = made.and_then(|()| {
        let mut same = demo.on(&Place::simulated(built.simulated_driver()?, options.model * 4, demo.small))?;
        match Place::real() {
            _ if options.simulated_only => {}
            Ok(real) => same &= demo.on(&real)?,
            Err(why) => println!("\nNo real GPU was used: {why:#}."),
        }
        Ok(same)
    });
    // It is as large as was asked for, and made again in seconds.
    let _ = fs::remove_file(&demo.model);
    let same = same?;
    println!(
        "\n{} in {:.0} s",
        if same { "All checksums are equal" } else { "CHECKSUMS DIFFER" },
        start.elapsed().as_secs_f64()
    );
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn make_model(demo: &Demo, bytes: u64) -> Result<()> {
    let mut make = Command::new(&demo.toy);
    make.arg("make").arg("--out").arg(&demo.model).args(["--size", &bytes.to_string()]);
    crate::process::succeed(&mut make)
}

impl Demo {
    /// Runs the comparison in one place; answers whether the checksums are equal.
    fn on(&self, place: &Place) -> Result<bool> {
        println!("\n== {}", place.name);
        let large = self.see(&format!("1. on {}", place.large_name), &mut place.large(self.plain()))?;
        let expected = large.checksum()?;
        println!("   checksum {expected}");

        if let Some(mut small) = place.small(self.plain()) {
            let name = format!("2. on a GPU of {}, without GreenBoost (it must not fit)", format_size(self.small));
            let alone = self.see(&name, &mut small)?;
            println!("   {}", alone.must_have_run_out_of_memory()?);
        }

        let name = format!("3. on a GPU of {}, under gb-launch", format_size(self.small));
        let hooked = self.see(&name, &mut place.small(self.launched()).unwrap_or_else(|| self.launched()))?;
        let actual = hooked.checksum()?;
        println!("{}", hooked.map_of_a_spilled_run()?);
        let same = actual == expected;
        println!("   checksum {actual}: {}", if same { "the same" } else { "NOT THE SAME" });
        Ok(same)
    }

    fn see(&self, name: &str, command: &mut Command) -> Result<Run> {
        println!("{name}");
        watch(command)
    }

    fn plain(&self) -> Command {
        self.with_arguments(Command::new(&self.toy))
    }

    fn launched(&self) -> Command {
        let mut command = Command::new(&self.launcher);
        // Chunks in proportion to so small a GPU: of the usual ones it could hold a single one.
        command.env("GREENBOOST_CHUNK", "4MiB");
        command.args(["--vram", &self.small.to_string(), "--"]).arg(&self.toy);
        self.with_arguments(command)
    }

    fn with_arguments(&self, mut command: Command) -> Command {
        command.arg("-m").arg(&self.model).args(["-n", &self.tokens.to_string()]);
        command
    }
}
