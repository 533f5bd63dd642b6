//! From a command line to `exec` with the hook preloaded.
//!
//! On success nothing is printed but, on a terminal, the plan in one line, and this process becomes the command: same process id, so exit code, signals and
//! descriptors are the command's own. Whatever would make GreenBoost do nothing is refused, with what to do instead.

mod client;
mod decide;
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

use greenboost_profiles::Profiles;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

pub use options::Options;
pub use refusal::Refusal;
use settings::Environment;

/// The hook library that gb-launch would preload.
///
/// # Errors
/// Why there is none, and what to do.
pub fn find_hook() -> Result<PathBuf, String> {
    hook_file::find(std::env::var_os(hook_file::VARIABLE).as_deref()).map_err(|refusal| refusal.to_string())
}

/// Becomes the command, or prints what it would do.
///
/// # Errors
/// [`Refusal`], when the command is not started.
pub fn run(options: &Options) -> Result<(), Refusal> {
    let user = Environment::new(std::env::vars_os());
    unknown::name(&user);
    let profiles = Profiles::load(&Profiles::folders(|name| user.get(name))).map_err(Refusal::usage);
    let launch =
        match profiles.as_ref().map_err(Clone::clone).and_then(|profiles| decide::decide(options, &user, profiles)) {
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
