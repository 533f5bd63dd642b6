//! `greenboost answer`: a plan for a llama-server command line, as the contract writes it. gb-launch and the hook run it
//! as a child, so that whatever a model's file, a disk or a driver does to it happens here and ends in time.

use super::llama_options::CommandLine;
use super::make::plan_command;
use super::measure::{self, When};
use super::plan_options::PlanOptions;
use clap::Args;
use greenboost_contract::planner::Answer;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Options of `greenboost answer`.
#[derive(Debug, Args)]
pub struct AnswerOptions {
    #[command(flatten)]
    plan_options: PlanOptions,
    /// Plan with what is known of this machine's speed.
    #[arg(long)]
    known: bool,
    /// llama-server's arguments; without any the machine is measured, if that is due, for plans to come.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Prints the answer.
pub fn run_answer(options: &AnswerOptions) -> ExitCode {
    let answer = answer(options);
    // Nobody left to hear it is no failure.
    let _ = std::io::stdout().write_all(answer.to_text().as_bytes());
    ExitCode::SUCCESS
}

fn answer(options: &AnswerOptions) -> Answer {
    let when = if options.known { When::Never } else { When::Unknown };
    let arguments = &options.arguments;
    let command = CommandLine { arguments, variable: &|name| std::env::var(name).ok() };
    match plan_command(&command, &options.plan_options, when) {
        Ok(None) => {
            if arguments.is_empty() {
                measure::figures(Path::new(""), when);
            }
            Answer::none("the command names no model file")
        }
        Err(problem) => Answer::none(&problem),
        Ok(Some((plan, open))) => {
            let variables = open.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Vec<_>>();
            let why = plan.objection();
            let line = match plan.line() {
                Some(line) => line,
                None if variables.is_empty() => return Answer::none(&why),
                None => {
                    format!("none: {why}; nothing may leave VRAM, so every layer is put there and loading has to fail")
                }
            };
            Answer { line, variables }
        }
    }
}
