//! What becomes of one command: which profile it gets, what is set for it, or why it is not started.

use super::options::Options;
use super::refusal::Refusal;
use super::settings::Environment;
use super::started::Started;
use super::variables::Variables;
use super::{hook_file, plan, settings};
use greenboost_contract::{PlanFor, Settings};
use greenboost_profiles::{Profile, Profiles};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Everything decided about one command.
#[derive(Debug)]
pub struct Launch<'a> {
    pub command: &'a [OsString],
    pub started: Started,
    pub profile: &'a Profile,
    pub reason: String,
    pub hook: PathBuf,
    pub settings: Settings,
    pub variables: Variables,
}

/// Decides all of it, and starts nothing.
pub fn decide<'a>(options: &'a Options, user: &Environment, profiles: &'a Profiles) -> Result<Launch<'a>, Refusal> {
    let command = &options.command;
    let search = user.own.get(std::ffi::OsStr::new("PATH")).map(OsString::as_os_str);
    let started = Started::find(command, search)?;
    // What is set on the way to the program is the user's word as well.
    let user = &user.with(&started.variables);
    let (names, arguments) = (started.last().names(), started.arguments());
    let (profile, reason) = choose(options, user, profiles, &names, &arguments)?;
    if !options.force {
        let ollama = names.iter().any(|name| matches!(name.as_str(), "ollama" | ".ollama-wrapped"));
        let objection = if ollama {
            crate::ollama::objection(Path::new("/"), &arguments, user.get("OLLAMA_HOST").as_deref())
        } else {
            None
        };
        if let Some(objection) = objection {
            return Err(Refusal::usage(objection).unless_forced());
        }
        if let Some(obstacle) = started.obstacle() {
            return Err(obstacle);
        }
    }
    let hook = hook_file::find(user.own.get(std::ffi::OsStr::new(hook_file::VARIABLE)).map(OsString::as_os_str))?;
    if options.strategy.is_some() && profile.plan == PlanFor::Never {
        return Err(Refusal::usage(format!(
            "--strategy is the plan's, and nothing is planned for what the profile {} is for: leave it out, or place by hand",
            profile.name
        )));
    }
    let mut settings = settings::merge(profile, options, user, &started.all_names())?;
    let planned = plan::make(profile, options, user, &mut settings, &started.words[1..])?;
    let variables = Variables::new(&hook, &settings, profile, user, &arguments, planned);
    Ok(Launch { command, started, profile, reason, hook, settings, variables })
}

/// The profile: named in an option, named in the environment, or found by the command.
fn choose<'a>(
    options: &Options,
    user: &Environment,
    profiles: &'a Profiles,
    names: &[String],
    arguments: &[String],
) -> Result<(&'a Profile, String), Refusal> {
    const VARIABLE: &str = greenboost_contract::settings::PROFILE;
    if let Some(name) = &options.profile {
        return Ok((profiles.find_by_name(name).map_err(Refusal::usage)?, format!("--profile {name}")));
    }
    if let Some(name) = user.get(VARIABLE) {
        let explain = |error| Refusal::usage(format!("your environment has {VARIABLE}={name}: {error}"));
        return Ok((profiles.find_by_name(&name).map_err(explain)?, format!("{VARIABLE}={name}")));
    }
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let found = profiles.match_command(&names, arguments);
    let found = found.ok_or_else(|| Refusal::usage("no profile is for this command: choose one with --profile"))?;
    Ok((found.profile, found.reason))
}
