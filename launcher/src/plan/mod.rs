//! `greenboost plan`: how fast a model will be on this machine, which strategy is fastest, and how to get it.
//!
//! [`facts`] reads the model's header, [`measure`] the machine, [`predict`] puts both into the formulas of docs/speed.md.
//! [`plan_command`] is all of it for a program that starts llama-server. gb-launch and the hook ask for it through
//! a process of its own, [`run_answer`]:
//!
//! ```no_run
//! use greenboost_launcher::plan::{CommandLine, When, PlanOptions, plan_command};
//! # let arguments = vec!["-m".to_owned(), "model.gguf".to_owned()];
//! let command = CommandLine { arguments: &arguments, variable: &|name| std::env::var(name).ok() };
//! if let Some((plan, open)) = plan_command(&command, &PlanOptions::default(), When::Unknown)? {
//!     for (name, value) in open {
//!         // LLAMA_ARG_N_GPU_LAYERS=999 and so on, for what the user has not set
//!         println!("{name}={value}");
//!     }
//!     println!("{}", plan.line().unwrap_or_default());
//! }
//! # Ok::<(), String>(())
//! ```

pub mod facts;
pub mod measure;
pub mod predict;

mod answer;
mod command_line;
mod commands;
mod llama_options;
mod make;
pub mod plan_options;
mod planned;
mod report;
#[cfg(test)]
mod test_models;

pub use answer::{AnswerOptions, run_answer};
pub use commands::{Argument, Variables};
pub use llama_options::{CommandLine, LlamaOption};
pub use make::{locate, plan, plan_command};
pub use measure::{MeasureOptions, When, run_measurement};
pub use plan_options::PlanOptions;
pub use planned::Plan;

use crate::output;
use clap::Args;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

/// Options of `greenboost plan`.
#[derive(Debug, Args)]
pub struct Options {
    /// The model: a GGUF file, any part of a split one, or ollama:NAME[:TAG].
    #[arg(value_name = "MODEL")]
    model: String,
    #[command(flatten)]
    plan_options: PlanOptions,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Measure this machine again, though its figures are known.
    #[arg(long)]
    remeasure: bool,
    /// Options of llama-server to plan around: -- -ngl 20 --swa-full
    #[arg(last = true, value_name = "OPTIONS")]
    arguments: Vec<OsString>,
}

/// Prints a plan. The exit code is 2 when there is none: what was asked for cannot be had, nothing fits, or nothing can be
/// said.
pub fn run(options: &Options) -> ExitCode {
    if std::io::stderr().is_terminal() {
        eprint!("Reading the model and this machine's speed (a first time takes some seconds) ...\r");
    }
    let when = if options.remeasure { When::Now } else { When::Unknown };
    let planned = locate(&options.model).and_then(|path| plan(&path, &options.arguments, &options.plan_options, when));
    if std::io::stderr().is_terminal() {
        eprint!("\x1b[K");
    }
    let plan = match planned {
        Ok(plan) => plan,
        Err(problem) => {
            output::complain("greenboost plan", &problem);
            return ExitCode::from(2);
        }
    };
    if options.json {
        output::json(&report::json(&plan), false);
    } else {
        output::print(&report::text(&plan));
    }
    if plan.winner().is_some() {
        return ExitCode::SUCCESS;
    }
    eprintln!("greenboost plan: {}.", plan.objection());
    ExitCode::from(2)
}
