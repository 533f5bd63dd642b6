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

use crate::test::outcome::Outcome;
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
    /// Inject a fault and expect the run to notice it; "all" injects each in turn
    #[arg(long, value_name = "FAULT")]
    inject: Option<Fault>,
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

/// What the harness must notice, for its own reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fault {
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

impl Fault {
    /// The words of who must notice it, and of nobody else.
    fn reason(self) -> &'static str {
        match self {
            Self::Expectation => "injected: this must fail",
            Self::Leak => "nothing is left in the pool",
            Self::Warning => "peer_inject",
            Self::Panic => "sysrq triggered crash",
            Self::Silence => guest::SILENT,
            Self::Kasan => "BUG: KASAN: use-after-free in peer_inject",
            Self::Lockdep => "possible circular locking dependency detected",
            Self::Kmemleak => "unreferenced object",
            Self::Atomic => "sleeping function called from invalid context",
            Self::Ubsan => "UBSAN: shift-out-of-bounds",
            Self::All => unreachable!("each by itself"),
        }
    }

    const EACH: [Self; 5] = [Self::Expectation, Self::Leak, Self::Warning, Self::Panic, Self::Silence];

    /// What only a debug kernel notices.
    const DEBUG: [Self; 5] = [Self::Kasan, Self::Lockdep, Self::Kmemleak, Self::Atomic, Self::Ubsan];

    fn word(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// Which is waited for on purpose.
const INJECTED_SILENCE: Duration = Duration::from_secs(60);

enum Ran {
    /// This many tests passed.
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
        Ran::NotRun(why) => skip("kernel", &why)?,
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
        Ran::NotRun(why) => {
            skip("kernel", &why)?;
            Outcome::NotRun(why)
        }
    })
}

/// What the machine measured, for `cargo xtask bench pool`.
pub struct Measured {
    /// The kernel that ran.
    pub kernel: String,
    /// Samples by name; times in milliseconds.
    pub figures: BTreeMap<String, Vec<f64>>,
}

/// Boots a machine with twice this much memory, and has it measure this many times.
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
    let console = machine.boot(&format!("{} gb.mib={mib} gb.rounds={rounds}", words(&options, None)))?;
    console.verdict()?;
    let name = kernel.image.file_name().unwrap_or_default().to_string_lossy();
    Ok(Measured { kernel: name.replacen("vmlinuz-", "", 1), figures: console.figures().clone() })
}

/// Says what is skipped and why, or fails: a machine that is there to run the tests and cannot is broken.
fn skip(what: &str, why: &str) -> Result<()> {
    println!("{}", skipped(what, why, std::env::var_os("CI").is_some())?);
    Ok(())
}

fn skipped(what: &str, why: &str, in_ci: bool) -> Result<String> {
    if in_ci { bail!("{what} cannot be skipped here: {why}") } else { Ok(format!("SKIPPED {what}: {why}")) }
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
        skip("checkpatch", &why)?;
    }
    guest::build_matrix(&kernel)?;
    if options.build_only {
        return Ok(Ran::Passed(0));
    }
    let mut machine = guest::Guest::build(&kernel)?;
    (machine.debug, machine.verbose) = (options.debug, options.verbose);
    match options.inject {
        None => {
            let outcome = machine.boot(&words(options, None))?;
            outcome.verdict().map(Ran::Passed)
        }
        Some(fault) => {
            let all = Fault::EACH.into_iter().chain(options.debug.then_some(Fault::DEBUG).into_iter().flatten());
            let each: Vec<_> = if fault == Fault::All { all.collect() } else { vec![fault] };
            for fault in &each {
                if *fault == Fault::Silence {
                    machine.silence = INJECTED_SILENCE;
                }
                // The tests themselves are not what is tested: only those that load the module run.
                let outcome = machine.boot(&words(options, Some(*fault)))?;
                match outcome.noticed(fault.reason()) {
                    Ok(what) => println!("noticed the injected {}: {what}", fault.word()),
                    Err(error) => bail!("an injected {} was not noticed: {error}", fault.word()),
                }
            }
            Ok(Ran::Passed(each.len()))
        }
    }
}

/// What the init is told on the kernel's command line.
fn words(options: &Options, fault: Option<Fault>) -> String {
    let mut words = String::new();
    let only = if fault.is_some() { Some("no such test") } else { options.only.as_deref() };
    let fuzz = options.fuzz.or(options.debug.then_some(1_000_000));
    let mut word = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            words += &format!(" gb.{name}={}", value.replace(' ', "_"));
        }
    };
    word("only", only.map(str::to_owned));
    word("inject", fault.map(Fault::word));
    word("fuzz", fuzz.map(|calls| calls.to_string()));
    word("debug", options.debug.then(|| "1".to_owned()));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_run_is_skipped_by_name_and_fails_in_ci() {
        let why = "not root; please run: sudo apt-get install -y --no-install-recommends qemu-system-x86";
        let said = skipped("kernel", why, false).expect("a skip");
        assert!(said.starts_with("SKIPPED kernel: ") && said.contains("qemu-system-x86"), "{said}");
        let refused = skipped("kernel", why, true).expect_err("in CI").to_string();
        assert!(refused.contains("qemu-system-x86"), "{refused}");
    }

    #[test]
    fn missing_packages_are_named_to_who_cannot_install_them() {
        assert!(needs::install(&[]).expect("nothing to do").is_none());
        let why = needs::cannot(&["qemu-system-x86", "sparse"], true, false).expect("not root");
        assert!(why.contains("sudo apt-get install") && why.ends_with("qemu-system-x86 sparse"), "{why}");
        let why = needs::cannot(&["qemu-system-x86", "sparse"], false, true).expect("no apt-get");
        assert!(why.contains("qemu-system-x86, sparse"), "{why}");
        assert!(needs::cannot(&["sparse"], true, true).is_none());
    }

    #[test]
    fn every_sentence_of_the_threats_names_a_test_that_there_is() {
        let folder = crate::workspace::root().join("integration-tests/kernel/src");
        let files = std::fs::read_dir(folder).expect("the tests").flatten();
        let tests: String = files.map(|file| std::fs::read_to_string(file.path()).expect("text")).collect();
        let page = crate::workspace::root().join("docs/kernel-module-threats.md");
        let page = std::fs::read_to_string(page).expect("the page");
        let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| a member"));
        let mut named = 0;
        for row in rows {
            let test = row.rsplit(" | ").next().unwrap_or_default().trim_end_matches(" |");
            match test.strip_prefix('`').and_then(|test| test.strip_suffix('`')) {
                Some(test) => assert!(tests.contains(&format!("(\"{test}\", ")), "no test is called {test:?}"),
                None => assert!(test.starts_with("none: "), "{row}"),
            }
            named += 1;
        }
        assert!(named > 25, "{named} sentences");
    }

    #[test]
    fn every_fault_has_a_reason_of_its_own() {
        let each: Vec<_> = Fault::EACH.into_iter().chain(Fault::DEBUG).map(Fault::reason).collect();
        assert!(each.iter().enumerate().all(|(at, reason)| !each[..at].contains(reason)), "{each:?}");
    }
}
