//! `greenboost status` and `greenboost doctor`.

use clap::{Parser, Subcommand};
use greenboost_launcher::{doctor, status};
use std::process::ExitCode;

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
    /// The part of `doctor` that talks to the driver, in a process of its own.
    #[command(hide = true)]
    Probe,
}

fn main() -> ExitCode {
    // SAFETY: no other thread runs yet. With the default action, `greenboost status | head` ends quietly.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    match Options::parse().command {
        Command::Status(options) => status::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Probe => doctor::probe(),
    }
}
