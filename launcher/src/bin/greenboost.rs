//! `greenboost status`, `doctor`, `plan`, `pool` and `module`.

use clap::{Parser, Subcommand};
use greenboost_launcher::{doctor, module, output, plan, pool, status};
use std::process::ExitCode;

const NAME: &str = "greenboost";

/// Look after GreenBoost: what runs with it, and what this machine can do.
#[derive(Debug, Parser)]
#[command(name = "greenboost", version, max_term_width = 100)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the running processes and where their memory is.
    Status(status::Options),
    /// Check this machine: driver, GPU, link, memory, and what to do about each.
    Doctor(doctor::Options),
    /// Predict how fast a model will be here, and say which strategy is fastest.
    Plan(plan::Options),
    /// The kernel module's pool of ready memory: show it, set it, follow its level.
    Pool(pool::Options),
    /// The kernel module: install, remove, and whether it can be loaded here.
    Module(module::Options),
    /// The part of `doctor` that talks to the driver, in a process of its own.
    #[command(hide = true)]
    Probe,
    /// A plan for a llama-server command, for gb-launch and the hook.
    #[command(hide = true)]
    Answer(plan::AnswerOptions),
    /// The part of `plan` that talks to the driver, in a process of its own.
    #[command(hide = true)]
    Measure(plan::MeasureOptions),
}

fn main() -> ExitCode {
    // SAFETY: no other thread runs yet. With the default action, `greenboost status | head` ends quietly.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let command = match output::options::<Options>(NAME) {
        Ok(options) => options.command,
        Err(code) => return code,
    };
    if matches!(command, Command::Probe | Command::Measure(_) | Command::Answer(_)) {
        // SAFETY: no pointers. These work for whoever started them and is waiting; without it they end, however
        // the driver or the disk holds them up.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    }
    let code = match command {
        Command::Status(options) => status::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Plan(options) => plan::run(&options),
        Command::Pool(options) => pool::run(&options),
        Command::Module(options) => module::run(&options),
        Command::Probe => doctor::run_probe(),
        Command::Answer(options) => plan::run_answer(&options),
        Command::Measure(options) => plan::run_measurement(&options),
    };
    output::end(NAME, code)
}
