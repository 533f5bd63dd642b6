//! The plan for the command's model: what `greenboost plan` finds best, for everything the user left open.
//!
//! The user's options and variables win, then what a profile sets outright, then the plan, then what a profile
//! sets `unless_planned`. A plan that cannot be made stops nobody who has not asked for one: why goes to the log and the
//! status record. A strategy that was asked for and cannot be had is an error before anything starts.

use super::options::Options;
use super::refusal::Refusal;
use super::settings::Environment;
use crate::ollama::{Role, role};
use crate::plan::CommandLine;
use crate::progress;
use greenboost_contract::planner::{self, Answer, Question};
use greenboost_contract::{PlanFor, Settings, Strategy, settings};
use greenboost_profiles::Profile;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the first plan on a machine may take, since it measures; later ones take about as long as starting a CUDA
/// program. Measuring keeps limits of its own below this.
const LIMIT: Duration = Duration::from_secs(20);
/// The program that plans, beside gb-launch.
const PLANNER: &str = "greenboost";

/// Plans, makes what the plan says of them part of `settings`, and returns the variables to set besides. `words` are the
/// program's arguments.
///
/// # Errors
/// When the model can be none, or the strategy that was asked for cannot be had.
pub fn make(
    profile: &Profile,
    options: &Options,
    user: &Environment,
    settings: &mut Settings,
    words: &[OsString],
) -> Result<Vec<(String, String)>, Refusal> {
    // Only the launcher decides these, whatever is in the environment.
    (settings.plan, settings.planner) = (String::new(), None);
    if profile.plan == PlanFor::Never || user.is_disabled() {
        return Ok(Vec::new());
    }
    let arguments: Vec<_> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let arguments = arguments.as_slice();
    let variables = variables(profile, user, arguments);
    let variable = |name: &str| Some(variables.get(OsStr::new(name))?.to_string_lossy().into_owned());
    let model = (CommandLine { arguments, variable: &variable }).model();
    if let Some(model) = model.as_deref().filter(|_| !options.force) {
        check_model(model)?;
    }
    if options.no_plan {
        "none: --no-plan".clone_into(&mut settings.plan);
        return Ok(Vec::new());
    }
    let planner = planner();
    match profile.plan {
        PlanFor::Never => Ok(Vec::new()),
        PlanFor::Command => {
            // Asked here too, so that a command without a model starts no other program.
            let is_asked = options.strategy.is_some() || model.is_some();
            let answer = match model {
                None => Answer::none("the command names no model file"),
                Some(_) => {
                    let ask = || ask(&planner, settings, &variables, words);
                    progress::during("measuring this machine (once)", LIMIT, options.quiet, ask)
                }
            };
            if let (Some(strategy), Some(why)) = (settings.strategy, answer.no_plan())
                && is_asked
                && !options.force
            {
                return Err(refused(strategy, why));
            }
            if let Some(why) = answer.no_plan().filter(|why| why.starts_with(planner::RING_IS_NO_PART)) {
                return Err(Refusal::usage(why));
            }
            // To a person who looks on. What the command itself prints, it prints on pipes too.
            if answer.no_plan().is_none() && !options.quiet && !options.dry_run && std::io::stderr().is_terminal() {
                crate::output::complain("gb-launch", &answer.line);
            }
            settings.plan = answer.line;
            Ok(settings.adopt(answer.variables))
        }
        PlanFor::Runners => {
            // A runner's start is no time to measure in; this is.
            if role(arguments) == Role::Server && !options.dry_run {
                let ask = || ask(&planner, settings, &variables, &[]);
                progress::during("measuring this machine (once)", LIMIT, options.quiet, ask);
            }
            settings.planner = Some(planner);
            Ok(Vec::new())
        }
    }
}

/// The user has asked for what cannot be had, by option or variable.
fn refused(strategy: Strategy, why: &str) -> Refusal {
    let why = why.split_once(" was asked for: ").map_or(why, |(_, why)| why);
    Refusal::usage(format!(
        "the strategy {} cannot be had: {why}\n`greenboost plan` with the same model and budgets shows what each needs; without --strategy (or {}) the fastest is taken.",
        strategy.name(),
        settings::STRATEGY
    ))
}

/// A FIFO or a device would be waited for, by the plan and by the program; a folder is a slip.
fn check_model(model: &Path) -> Result<(), Refusal> {
    // What is not there, or may not be looked at, is the program's to say.
    let Ok(meta) = std::fs::metadata(model) else { return Ok(()) };
    if meta.is_file() {
        return Ok(());
    }
    let what = if meta.is_dir() { "a folder" } else { "no regular file (a pipe, a socket or a device)" };
    Err(Refusal::usage(format!("the model {} is {what}: give the .gguf file itself", model.display())))
}

fn planner() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.parent().unwrap_or(Path::new("/")).join(PLANNER)
}

/// The variables that a plan is made around: the user's, and what the profile sets outright.
fn variables(profile: &Profile, user: &Environment, arguments: &[String]) -> BTreeMap<OsString, OsString> {
    let outright = profile
        .environment
        .iter()
        .filter(|(_, variable)| !variable.unless_planned && variable.replaced_by(arguments).is_none());
    let outright = outright.map(|(name, variable)| (OsString::from(name), OsString::from(&variable.value)));
    outright.chain(user.own.clone()).collect()
}

fn ask(
    planner: &Path,
    settings: &Settings,
    variables: &BTreeMap<OsString, OsString>,
    arguments: &[OsString],
) -> Answer {
    let mut command = Question { planner, settings, measure: true, arguments }.command();
    let preload = OsStr::new("LD_PRELOAD");
    for name in std::env::vars_os().map(|(name, _)| name).filter(|name| !variables.contains_key(name)) {
        command.env_remove(name);
    }
    command.envs(variables.iter().filter(|(name, _)| name.as_os_str() != preload));
    planner::ask(command, LIMIT)
}
