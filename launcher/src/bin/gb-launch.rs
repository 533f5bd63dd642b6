//! `gb-launch COMMAND ARGS...`: runs a program with GreenBoost.

use clap::Parser;
use greenboost_launcher::launch::{self, Options};
use std::process::ExitCode;

fn main() -> ExitCode {
    let refusal = launch::run(&Options::parse());
    match refusal {
        // Only --dry-run comes back without a refusal: otherwise this process has become the command.
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            eprintln!("gb-launch: {refusal}");
            ExitCode::from(refusal.code)
        }
    }
}
