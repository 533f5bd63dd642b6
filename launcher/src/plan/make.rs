//! From a model's file to a plan: reads it, measures this machine where that is due, and takes what the user has said.

use super::commands::Variables;
use super::facts::{Facts, Uses};
use super::llama_options::CommandLine;
use super::measure::{self, When};
use super::plan_options::PlanOptions;
use super::planned::Plan;
use crate::ollama::store;
use greenboost_gguf::Model;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Reads a model, measures this machine when that is due, and plans, around options for llama-server.
///
/// # Errors
/// What is wrong with the model, or that nobody knows how much VRAM there is; and what to do about it.
pub fn plan(model: &Path, arguments: &[OsString], plan_options: &PlanOptions, when: When) -> Result<Plan, String> {
    let (first, facts) = read(model)?;
    let command = CommandLine { arguments, variable: &|_| None };
    let figures = measure::figures(&first, when).of_gpu(command.only_gpu());
    let plan_options = if arguments.is_empty() {
        plan_options.clone()
    } else {
        plan_options.around(command.plan_options(facts.context))
    };
    Plan::new(&first, &facts, figures, &plan_options)
}

/// Plans for a llama-server command around what it already says, and names what it leaves open. `None` where it names
/// no file as its model. What llama-server has options for comes from the command, everything else from `plan_options`.
///
/// # Errors
/// As [`plan`].
pub fn plan_command<Word: AsRef<OsStr>>(
    command: &CommandLine<'_, Word>,
    plan_options: &PlanOptions,
    when: When,
) -> Result<Option<(Plan, Variables)>, String> {
    let Some(model) = command.model() else { return Ok(None) };
    let (first, facts) = read(&model)?;
    let plan_options = plan_options.around(command.plan_options(facts.context));
    let figures = measure::figures(&first, when).of_gpu(command.only_gpu());
    let plan = Plan::new(&first, &facts, figures, &plan_options)?;
    let open = command.left_open(plan.arguments(), plan.settings());
    Ok(Some((plan, open)))
}

/// The facts of a model, and the first of its files.
fn read(model: &Path) -> Result<(PathBuf, Facts), String> {
    let read = Model::open(model).map_err(|error| error.to_string())?;
    let facts = Facts::new(&read).with(Uses::kept(&read));
    if facts.layers.is_empty() || facts.computed().bytes() == 0 {
        return Err(format!(
            "{}: it has no layers, so it is no language model (architecture {:?}).\nGive the file with the model's own weights, not a projector, adapter or vocabulary.",
            model.display(),
            facts.architecture
        ));
    }
    let first = read.files.first().map_or(model, |file| file.path.as_path());
    Ok((first.to_owned(), facts))
}

/// The file of `MODEL`: a path, or a name in Ollama's store.
///
/// # Errors
/// Why there is none.
pub fn locate(model: &str) -> Result<PathBuf, String> {
    match model.strip_prefix("ollama:") {
        Some(name) => store::find(name, &store::folders(|name| std::env::var(name).ok())),
        None => Ok(PathBuf::from(model)),
    }
}
