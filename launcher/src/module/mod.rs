//! `greenboost module`: greenboost.ko installed by DKMS, removed again, and looked at.
//!
//! `plan` reads the machine and lists steps, without changing anything: what is missing, in the way or edited by a
//! person is found out there. `carry_out` does the steps and writes down each in a `manifest` before it does it. Undoing
//! is the same function whether a step has failed or the user wants the module removed: it undoes what the manifest says
//! and nothing else. All paths lie below the root folder of a [`System`], and all programs are looked for in its path,
//! so that tests can bring their own of both.

mod carry_out;
mod manifest;
mod needs;
mod plan;
mod problem;
mod secure_boot;
mod source;
mod status;
mod system;

pub use carry_out::{Installed, install, remove};
pub use plan::{InstallOptions, Plan};
pub use problem::Problem;
pub use secure_boot::SecureBoot;
pub use status::Status;
pub use system::System;

use crate::output;
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// Options of `greenboost module`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the module with DKMS for this kernel and every later one, let its group use it, and load it.
    Install(InstallOptions),
    /// Unload the module and undo all that `install` has done, and nothing else.
    Remove {
        /// Print the steps and do none.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show whether the module is installed and loaded, and whether this machine lets it be (also without root).
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command. The exit code is 1 when it could not be done; then nothing of it has been left done.
pub fn run(options: &Options) -> ExitCode {
    let system = System::here();
    let done = match &options.command {
        Command::Install(options) => run_install(&system, options),
        Command::Remove { dry_run } => run_remove(&system, *dry_run),
        Command::Status { json } => {
            Status::read(&system).print(*json);
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            output::complain("greenboost", &problem);
            ExitCode::FAILURE
        }
    }
}

fn run_install(system: &System, options: &InstallOptions) -> Result<(), Problem> {
    let plan = Plan::make(system, options)?;
    if options.dry_run {
        plan.lines().iter().for_each(|line| output::line(line));
        return Ok(());
    }
    let installed = install(system, &plan, &mut |line| output::line(line))?;
    plan.notes.iter().for_each(|note| output::line(&format!("note: {note}")));
    match installed {
        Installed::Loaded => output::line("The module is installed and loaded; `greenboost pool` shows it."),
        Installed::NotLoaded(why) => output::line(&format!("The module is installed, and not loaded yet.\n{why}")),
    }
    Ok(())
}

fn run_remove(system: &System, dry_run: bool) -> Result<(), Problem> {
    let kept = remove(system, dry_run, &mut |line| output::line(line))?;
    for path in kept {
        output::line(&format!(
            "kept: {path} was changed after it was installed; delete it yourself if it is not wanted"
        ));
    }
    Ok(())
}
