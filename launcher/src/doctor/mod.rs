//! `greenboost doctor`: what this machine can do, what it cannot, and what to do about it.
//!
//! Everything that touches the driver runs in a child process (`crate::driver` starts it, `probe` is it), because a
//! driver can hang or crash. What it reports and what the machine says (`crate::machine`) are the facts, and a table of
//! checks (`checks`) turns facts into findings.

mod checks;
mod finding;
mod gpu_checks;
#[cfg(test)]
mod gpu_tests;
mod machine_checks;
mod probe;

pub use probe::run as run_probe;

use crate::driver::child;
use crate::machine::Machine;
use crate::output;
use checks::CHECKS;
use clap::Args;
use finding::{Facts, Finding, Level};
use serde::Serialize;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

/// A driver that has not answered by then hangs.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// Options of `greenboost doctor`.
#[derive(Debug, Args)]
pub struct Options {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A finding with the check it comes from.
#[derive(Debug, Serialize)]
struct Row {
    id: &'static str,
    title: &'static str,
    #[serde(flatten)]
    finding: Finding,
}

/// Runs every check. The exit code is 1 when one of them failed.
pub fn run(options: &Options) -> ExitCode {
    let facts =
        Facts { machine: Machine::here(), gpu: child::run(&["probe"], TIME_LIMIT), hook: crate::launch::find_hook() };
    let rows: Vec<Row> = CHECKS
        .iter()
        .flat_map(|check| {
            (check.run)(&facts).into_iter().map(|finding| Row { id: check.id, title: check.title, finding })
        })
        .collect();
    let worst = rows.iter().map(|row| row.finding.level).max().unwrap_or(Level::Ok);
    if options.json {
        output::json(&serde_json::json!({ "worst": worst, "checks": rows }), false);
    } else {
        output::print(&text(&rows, worst));
    }
    if worst == Level::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn text(rows: &[Row], worst: Level) -> String {
    let mut text = String::new();
    for row in rows {
        let Finding { level, found, meaning, action } = &row.finding;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<5} {:<20} {found}", level.word(), row.title);
        for more in [meaning, action].into_iter().filter(|more| !more.is_empty()) {
            for line in more.lines() {
                let _ = writeln!(text, "{:26} {line}", "");
            }
        }
    }
    let _ = writeln!(
        text,
        "\n{}",
        match worst {
            Level::Ok | Level::Note => "This machine is ready.",
            Level::Warn => "This machine works; see the warnings above.",
            Level::Fail => "This machine cannot run GreenBoost yet; see the failures above.",
        }
    );
    text
}
