//! The plan for a model that only this process knows: a llama-server that Ollama, or another server, has started.
//!
//! llama-server reads its LLAMA_ARG_ variables when its `main` reads the options. What sets them has to come before that,
//! and after the server wrote the command line, so there is no other place than the constructor. It starts the planner
//! that gb-launch named and waits for it; the planner measures nothing, and a time limit holds it. Discovery's
//! llama-servers have no model and ask nothing. What the plan decides about streaming becomes part of the settings, which
//! is why it is asked for before anything is done with them.

use greenboost_contract::Settings;
use greenboost_contract::planner::{self, MODEL_OPTIONS, Question};
use greenboost_contract::settings::PLANNED;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

/// The program that reads llama.cpp's variables; its file may be `.llama-server-wrapped`.
const RUNNER: &str = "llama-server";
/// The driver is asked what is free, which takes as long as initialising CUDA; the runner does the same right after.
const LIMIT: Duration = Duration::from_secs(5);

/// Asks for a plan, sets what it says and notes it in `settings`; does nothing in any other process.
pub fn make(settings: &mut Settings, executable: &str) {
    let Some(planner) = settings.planner.as_deref() else { return };
    if !executable.contains(RUNNER) {
        return;
    }
    let arguments = arguments();
    if !arguments.iter().any(|word| MODEL_OPTIONS.iter().any(|option| word == option)) {
        return;
    }

    let question = Question { planner, settings, measure: false, arguments: &arguments };
    let answer = planner::ask(question.command(), LIMIT);
    let others = settings.adopt(answer.variables);
    let ours = settings.to_env().into_iter().filter(|(name, _)| PLANNED.contains(name));
    for (name, value) in others.into_iter().chain(ours.map(|(name, value)| (name.to_owned(), value))) {
        log::debug!("plan {name}={value}");
        // SAFETY: this runs in a constructor before `main`, or in the first call that another constructor makes: the
        // program has started no thread that reads the environment.
        unsafe { std::env::set_var(name, value) };
    }
    settings.plan = answer.line;
}

/// This process's arguments, without its name. Not `std::env::args`, which is not sure to be ready in a constructor.
fn arguments() -> Vec<OsString> {
    let line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let words = line.strip_suffix(b"\0").unwrap_or(&line).split(|byte| *byte == 0);
    words.skip(1).map(|word| OsString::from_vec(word.to_vec())).collect()
}
