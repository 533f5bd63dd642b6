//! `cargo xtask test kernel`: greenboost.ko in a virtual machine with the distribution's own kernel.
//!
//! The machine's init is one static program (`integration-tests/kernel`), which loads the module, tests it and prints a
//! line per test; beside it lie the hook, a program for it, and this machine's C library. This side builds all of it, boots it in QEMU, and believes nothing but the
//! console: the lines of the tests, the line at the end, and not one complaint of the kernel in between.

mod console;
mod cpio;
mod debug;
mod guest;
mod needs;
mod style;
mod userland;

pub use needs::{all_headers, install};

use crate::process;
use crate::test::Outcome;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

/// Options of `cargo xtask test kernel`.
#[derive(Args, Default)]
pub struct Options {
    /// Run only tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Plant a fault and expect the run to notice it; "all" plants each in turn
    #[arg(long, value_name = "FAULT")]
    plant: Option<Plant>,
    /// Show the guest's console as it comes
    #[arg(long, short)]
    verbose: bool,
    /// Build the module against all kernel headers that are installed, and boot nothing
    #[arg(long)]
    build_only: bool,
    /// Boot a kernel with KASAN, lockdep, kmemleak, UBSAN and fault injection, built on the first run
    #[arg(long)]
    debug: bool,
    /// Boot this kernel, whose headers are installed, and not the distribution's own; a newer one may need a newer QEMU
    #[arg(long, value_name = "RELEASE")]
    kernel: Option<String>,
    /// Random calls the fuzzer makes [default: 100000; 1000000 with --debug]
    #[arg(long, value_name = "CALLS")]
    fuzz: Option<u64>,
}

/// What the harness must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Plant {
    /// A test with a wrong expectation
    Expectation,
    /// A buffer that is never freed
    Leak,
    /// A kernel warning
    Warning,
    /// A kernel panic
    Panic,
    /// A test that never ends
    Silence,
    /// For KASAN: a use after free
    Kasan,
    /// For lockdep: two locks in two orders
    Lockdep,
    /// For kmemleak: memory nobody points to
    Kmemleak,
    /// For DEBUG_ATOMIC_SLEEP: sleeping with a spinlock held
    Atomic,
    /// For UBSAN: a shift too far
    Ubsan,
    /// Each of them
    All,
}

impl Plant {
    const EACH: [Self; 5] = [Self::Expectation, Self::Leak, Self::Warning, Self::Panic, Self::Silence];

    /// What only a debug kernel notices.
    const DEBUG: [Self; 5] = [Self::Kasan, Self::Lockdep, Self::Kmemleak, Self::Atomic, Self::Ubsan];

    fn word(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

enum Ran {
    /// So many tests passed.
    Passed(usize),
    /// It could not run on this machine, and this is why.
    NotRun(String),
}

/// Runs the command.
///
/// # Errors
/// When a test fails, or the machine cannot be built or booted.
pub fn run(options: &Options) -> Result<ExitCode> {
    match execute(options)? {
        Ran::Passed(tests) => println!("kernel: {tests} tests passed"),
        Ran::NotRun(why) => println!("SKIPPED kernel: {}", may_skip(why)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// All tests, for the stage of `cargo xtask test`.
///
/// # Errors
/// As [`run`].
pub fn stage() -> Result<Outcome> {
    Ok(match execute(&Options::default())? {
        Ran::Passed(_) => Outcome::Passed,
        Ran::NotRun(why) => Outcome::NotRun(may_skip(why)?),
    })
}

/// What the machine measured, for `cargo xtask bench pool`.
pub struct Measured {
    /// The kernel that ran.
    pub kernel: String,
    /// Samples by name; times in milliseconds.
    pub figures: BTreeMap<String, Vec<f64>>,
}

/// Boots a machine with room for twice so much memory, and has it measure so often.
///
/// # Errors
/// When it cannot run here, or what it measures is not as it must be.
pub fn measure(kernel: Option<&str>, mib: u32, rounds: u16) -> Result<Measured> {
    let kernel = match needs::provide(kernel)? {
        needs::Provided::Kernel(kernel) => kernel,
        needs::Provided::Missing(why) => bail!("{why}"),
    };
    guest::build_matrix(&kernel)?;
    let mut machine = guest::Guest::build(&kernel)?;
    machine.memory_mib = 2 * mib + 2048;
    machine.patience = Duration::from_secs(180) * rounds.into();
    let options = Options { only: Some("figures".to_owned()), ..Options::default() };
    let console = machine.boot(&format!("{} gb.mib={mib} gb.rounds={rounds}", words(&options, None)), &options)?;
    console.verdict()?;
    let name = kernel.image.file_name().unwrap_or_default().to_string_lossy();
    Ok(Measured { kernel: name.replacen("vmlinuz-", "", 1), figures: console.figures().clone() })
}

/// A machine that is there to run the tests and cannot is broken.
fn may_skip(why: String) -> Result<String> {
    if std::env::var_os("CI").is_some() { bail!("{why}") } else { Ok(why) }
}

fn execute(options: &Options) -> Result<Ran> {
    let mut provided = needs::provide(options.kernel.as_deref())?;
    if options.debug && matches!(provided, needs::Provided::Kernel(_)) {
        provided = debug::provide()?;
    }
    let kernel = match provided {
        needs::Provided::Kernel(kernel) => kernel,
        needs::Provided::Missing(why) => return Ok(Ran::NotRun(why)),
    };
    if let Some(why) = style::check()? {
        println!("SKIPPED checkpatch: {}", may_skip(why)?);
    }
    guest::build_matrix(&kernel)?;
    if options.build_only {
        return Ok(Ran::Passed(0));
    }
    let machine = guest::Guest::build(&kernel)?;
    match options.plant {
        None => {
            let outcome = machine.boot(&words(options, None), options)?;
            outcome.verdict().map(Ran::Passed)
        }
        Some(plant) => {
            let all = Plant::EACH.into_iter().chain(options.debug.then_some(Plant::DEBUG).into_iter().flatten());
            let each: Vec<_> = if plant == Plant::All { all.collect() } else { vec![plant] };
            for plant in &each {
                // The tests themselves are not what is tested: only those that load the module run.
                let outcome = machine.boot(&words(options, Some(*plant)), options)?;
                match outcome.verdict() {
                    Ok(_) => bail!("a planted {} was not noticed", plant.word()),
                    Err(error) => println!("noticed the planted {}: {error}", plant.word()),
                }
            }
            Ok(Ran::Passed(each.len()))
        }
    }
}

/// What the init is told on the kernel's command line.
fn words(options: &Options, plant: Option<Plant>) -> String {
    let mut words = String::new();
    let only = if plant.is_some() { Some("no such test") } else { options.only.as_deref() };
    let fuzz = options.fuzz.or(options.debug.then_some(1_000_000));
    let mut word = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            words += &format!(" gb.{name}={}", value.replace(' ', "_"));
        }
    };
    word("only", only.map(str::to_owned));
    word("plant", plant.map(Plant::word));
    word("fuzz", fuzz.map(|calls| calls.to_string()));
    word("debug", options.debug.then(|| "1".to_owned()));
    words
}

/// A program whose output is shown only where it fails.
///
/// # Errors
/// When it does not succeed; with its output.
pub fn quietly(command: &mut std::process::Command) -> Result<String> {
    let output = command.output().map_err(|error| anyhow::anyhow!("`{}`: {error}", process::typed(command)))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("`{}` {}\n{text}", process::typed(command), process::ended(output.status));
    }
    Ok(text)
}
