//! `greenboost pool`: the kernel module's pool of ready pages, looked at, set and followed.
//!
//! What there is to see and to set is the module's files in sysfs (`state`, `knob`); why the level is not ok, and its
//! changes, come from the device (`watch`). Both are found through [`Paths`], so that a made-up folder serves as well.

mod knob;
mod paths;
mod problem;
mod state;
mod watch;

pub use knob::{Knob, set};
pub use paths::Paths;
pub use problem::Problem;
pub use state::State;
pub use watch::{Ended, Line, Source, follow, text_line};

use crate::output;
use clap::{Args, Subcommand};
use greenboost_contract::parse_size;
use serde_json::json;
use std::process::ExitCode;

/// Options of `greenboost pool`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print JSON, sizes in bytes (`watch`: one line for each change).
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    paths: Paths,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what the pool holds and how much memory is left (also without a subcommand).
    Status,
    /// Keep this much memory ready and zeroed, such as 16GiB; 0 gives it back.
    Reserve {
        /// A number and a unit.
        #[arg(value_parser = parse_size)]
        size: u64,
    },
    /// Hand out at most this much memory.
    Limit {
        /// A number and a unit.
        #[arg(value_parser = parse_size)]
        size: u64,
        /// Whose limit it is.
        #[arg(long, value_enum, default_value_t = Whose::Pool)]
        of: Whose,
    },
    /// Print a line whenever the level changes (ok, low, critical), until interrupted.
    Watch,
}

/// Whom a limit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Whose {
    /// Everybody together.
    Pool,
    /// Each user.
    User,
    /// Each program that has opened the device.
    File,
}

impl Whose {
    fn knob(self) -> Knob {
        match self {
            Self::Pool => Knob::PoolLimit,
            Self::User => Knob::UserLimit,
            Self::File => Knob::FileLimit,
        }
    }
}

/// Runs the command. The exit code is 1 when the module is not loaded, or refuses.
pub fn run(options: &Options) -> ExitCode {
    let paths = &options.paths;
    let done = match options.command {
        None | Some(Command::Status) => State::read(paths).map(|state| state.print(options.json)),
        Some(Command::Reserve { size }) => set_and_show(options, Knob::Reserve, size),
        Some(Command::Limit { size, of }) => set_and_show(options, of.knob(), size),
        Some(Command::Watch) => watch::run(paths, options.json),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            if options.json {
                output::json(&json!({ "loaded": problem.is_loaded(), "problem": problem.to_string() }), true);
            } else {
                output::complain("greenboost", &problem);
            }
            ExitCode::FAILURE
        }
    }
}

fn set_and_show(options: &Options, knob: Knob, bytes: u64) -> Result<(), Problem> {
    let state = set(&options.paths, knob, bytes)?;
    if options.json {
        state.print(true);
    } else {
        knob.outcome(&state, bytes).iter().for_each(|line| output::line(line));
    }
    Ok(())
}
