//! From a command line to `exec` with the hook preloaded.
//!
//! On success nothing is printed but, on a terminal, the plan in one line, and this process becomes the command: same process id, so exit code, signals and
//! descriptors are the command's own. Whatever would make GreenBoost do nothing is refused, with what to do instead.

mod client;
mod dry_run;
mod hook_file;
mod options;
mod output_file;
mod place_rule;
mod plan;
mod program;
mod refusal;
mod settings;
mod shell;
mod started;
mod trace_file;
mod unknown;
mod variables;
mod wrapper;

use greenboost_contract::{PlanFor, Settings};
use greenboost_profiles::{Profile, Profiles};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use options::Options;
pub use refusal::Refusal;
use settings::Environment;
use started::Started;
use variables::Variables;

/// The hook library that gb-launch would preload.
///
/// # Errors
/// Why there is none, and what to do.
pub fn find_hook() -> Result<PathBuf, String> {
    hook_file::find(std::env::var_os(hook_file::VARIABLE).as_deref()).map_err(|refusal| refusal.to_string())
}

/// Everything decided about one command.
#[derive(Debug)]
struct Launch<'a> {
    command: &'a [OsString],
    started: Started,
    profile: &'a Profile,
    reason: String,
    hook: PathBuf,
    settings: Settings,
    variables: Variables,
}

/// Becomes the command, or prints what it would do.
///
/// # Errors
/// [`Refusal`], when the command is not started.
pub fn run(options: &Options) -> Result<(), Refusal> {
    let user = Environment::new(std::env::vars_os());
    unknown::name(&user);
    let profiles = Profiles::load(&Profiles::folders(|name| user.get(name))).map_err(Refusal::usage);
    let launch = match profiles.as_ref().map_err(Clone::clone).and_then(|profiles| decide(options, &user, profiles)) {
        Ok(launch) => launch,
        // Turned off, it stands in nobody's way.
        Err(_) if user.is_disabled() => return start_plainly(options, &user),
        Err(refusal) => return Err(refusal),
    };
    if options.dry_run {
        crate::output::print(&dry_run::describe(&launch, options.verbose > 0));
        return Ok(());
    }
    if let Some(trace) = &launch.settings.trace {
        trace_file::empty(trace)?;
    }
    let mut command = Command::new(&launch.started.first().path);
    command.arg0(&options.command[0]).args(&options.command[1..]);
    for name in &launch.variables.removed {
        command.env_remove(name);
    }
    command.envs(launch.variables.set.iter().map(|(name, value)| (name, value)));
    let error = command.exec();
    Err(Refusal::cannot_start(format!("{}: cannot be started: {error}", launch.started.first().path.display())))
}

/// Becomes the command as it would be without us.
fn start_plainly(options: &Options, user: &Environment) -> Result<(), Refusal> {
    let search = user.own.get(std::ffi::OsStr::new("PATH")).map(OsString::as_os_str);
    let program = program::Program::find(&options.command[0], search)?;
    if options.dry_run {
        let name = greenboost_contract::settings::DISABLE;
        crate::output::line(&format!("off: {name} is set, {} starts without GreenBoost", program.path.display()));
        return Ok(());
    }
    let mut command = Command::new(&program.path);
    let error = command.arg0(&options.command[0]).args(&options.command[1..]).exec();
    Err(Refusal::cannot_start(format!("{}: cannot be started: {error}", program.path.display())))
}

fn decide<'a>(options: &'a Options, user: &Environment, profiles: &'a Profiles) -> Result<Launch<'a>, Refusal> {
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
