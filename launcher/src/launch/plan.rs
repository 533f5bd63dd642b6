//! The plan for the command's model: what `greenboost plan` finds best, for everything the user left open.
//!
//! The user's options and variables win, then what a profile sets outright, then the plan, then what a profile
//! sets `unless_planned`. A plan that cannot be made stops nobody: why goes to the log and the status record.

use super::Options;
use super::settings::Environment;
use crate::ollama::{Role, role};
use crate::plan::CommandLine;
use greenboost_contract::planner::{self, Answer, Question};
use greenboost_contract::settings::DISABLE;
use greenboost_contract::{PlanFor, Settings};
use greenboost_profiles::Profile;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the first plan on a machine may take, since it measures; later ones take about as long as starting a CUDA
/// program. Measuring keeps limits of its own below this.
const LIMIT: Duration = Duration::from_secs(20);
/// The program that plans, beside gb-launch.
const PLANNER: &str = "greenboost";

/// Plans, makes what the plan says of them part of `settings`, and returns the variables to set besides.
pub fn make(
    profile: &Profile,
    options: &Options,
    user: &Environment,
    settings: &mut Settings,
    arguments: &[String],
) -> Vec<(String, String)> {
    // Only the launcher decides these, whatever is in the environment.
    (settings.plan, settings.planner) = (String::new(), None);
    let disabled = user.get(DISABLE).as_deref() == Some("1");
    if profile.plan == PlanFor::Never || disabled {
        return Vec::new();
    }
    if options.no_plan {
        "none: --no-plan".clone_into(&mut settings.plan);
        return Vec::new();
    }
    let planner = planner();
    let variables = variables(profile, user, arguments);
    let command = &options.command[1..];
    match profile.plan {
        PlanFor::Never => Vec::new(),
        PlanFor::Command => {
            let variable = |name: &str| Some(variables.get(OsStr::new(name))?.to_string_lossy().into_owned());
            // Asked here too, so that a command without a model starts no other program.
            let answer = match (CommandLine { arguments, variable: &variable }).model() {
                None => Answer::none("the command names no model file"),
                Some(_) => ask(&planner, settings, &variables, command),
            };
            settings.plan = answer.line;
            settings.adopt(answer.variables)
        }
        PlanFor::Runners => {
            // A runner's start is no time to measure in; this is.
            if role(arguments) == Role::Server && !options.dry_run {
                ask(&planner, settings, &variables, &[]);
            }
            settings.planner = Some(planner);
            Vec::new()
        }
    }
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
