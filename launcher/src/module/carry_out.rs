//! Doing what is planned, and undoing what was done.

use super::manifest::{self, File, Manifest, missing_folders};
use super::plan::Step;
use super::system::last_lines;
use super::{Plan, Problem, SecureBoot, System, secure_boot};
use std::fs;
use std::io;

/// How an installation has ended, where it did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Installed {
    /// The module is loaded.
    Loaded,
    /// It is built and in its place, and this is why it is not loaded.
    NotLoaded(String),
}

/// Does the steps of a plan; `tell` hears of each before it is done.
///
/// # Errors
/// [`Problem::Undone`] when a step fails: what was done before has been undone then, or the error says what is left.
pub fn install(system: &System, plan: &Plan, tell: &mut dyn FnMut(&str)) -> Result<Installed, Problem> {
    let mut manifest = Manifest { version: plan.version.clone(), ..Manifest::default() };
    match do_steps(system, plan, &mut manifest, tell) {
        Ok(installed) => {
            manifest.complete = true;
            manifest.save(system)?;
            Ok(installed)
        }
        Err(problem) => {
            let undone = match undo(system, &manifest, false, tell) {
                Ok(_) => "What had been done before was undone; nothing is left of it.".to_owned(),
                Err(left) => format!(
                    "Undoing what had been done before failed as well: {left}\nTo try again: greenboost module remove"
                ),
            };
            Err(Problem::Undone { problem: Box::new(problem), undone })
        }
    }
}

fn do_steps(
    system: &System,
    plan: &Plan,
    manifest: &mut Manifest,
    tell: &mut dyn FnMut(&str),
) -> Result<Installed, Problem> {
    make_folders(system, manifest, manifest::PATH)?;
    manifest.save(system)?;
    let mut installed = Installed::NotLoaded(plan.notes.last().cloned().unwrap_or_default());
    for step in &plan.steps {
        tell(&step.to_string());
        match step {
            Step::Copy { files, .. } => write_all(system, manifest, files)?,
            Step::Dkms(command) => {
                manifest.dkms = true;
                manifest.save(system)?;
                let words: Vec<_> = command.iter().map(String::as_str).collect();
                system.run(&words).map_err(|problem| with_log(system, plan, problem))?;
            }
            Step::Try(command) => {
                let _ = system.run(command);
            }
            Step::Load => match system.run(&["modprobe", "greenboost"]) {
                Ok(_) => installed = Installed::Loaded,
                // The build is right, and wants a key that only its owner can make known, at the machine.
                Err(_) if plan.secure_boot == SecureBoot::On => {
                    installed = Installed::NotLoaded(secure_boot::enrolment(system));
                }
                Err(problem) => return Err(problem),
            },
        }
    }
    if system.is_loaded() { Ok(Installed::Loaded) } else { Ok(installed) }
}

/// DKMS names the compiler's log, which undoing deletes.
fn with_log(system: &System, plan: &Plan, problem: Problem) -> Problem {
    let log = format!("/var/lib/dkms/greenboost/{}/build/make.log", plan.version);
    let text = system.text(&log);
    match problem {
        Problem::Failed { command, said } if !text.is_empty() => {
            let said = format!("{said}\nThe end of {log}:\n{}", last_lines(&text, 15));
            Problem::Failed { command, said }
        }
        problem => problem,
    }
}

fn make_folders(system: &System, manifest: &mut Manifest, path: &str) -> Result<(), Problem> {
    for folder in missing_folders(system, path) {
        let made = system.at(&folder);
        fs::create_dir(&made).map_err(Problem::file(made))?;
        manifest.folders.push(folder);
    }
    Ok(())
}

fn write_all(system: &System, manifest: &mut Manifest, files: &[(String, Vec<u8>)]) -> Result<(), Problem> {
    // The files first: a folder on the list that is not there yet is made by nobody else.
    manifest.files.extend(files.iter().map(|(path, content)| File::new(path, content)));
    manifest.save(system)?;
    for (path, content) in files {
        let folders = manifest.folders.len();
        make_folders(system, manifest, path)?;
        if manifest.folders.len() > folders {
            manifest.save(system)?;
        }
        let path = system.at(path);
        fs::write(&path, content).map_err(Problem::file(path))?;
    }
    Ok(())
}

/// Undoes what an installation has done, finished or not; answers with the files that a person has changed since, which
/// are kept.
///
/// # Errors
/// [`Problem::NotInstalled`], [`Problem::Busy`], and what the steps say; what is left is still on the list then.
pub fn remove(system: &System, dry_run: bool, tell: &mut dyn FnMut(&str)) -> Result<Vec<String>, Problem> {
    if !system.is_root && !dry_run {
        return Err(Problem::NotRoot);
    }
    let Some(manifest) = Manifest::load(system)? else {
        let package = system.at("/var/lib/dpkg/info/greenboost-dkms.list").exists();
        let hint = if package { "\nThe package greenboost-dkms has: apt purge greenboost-dkms" } else { "" };
        return Err(Problem::NotInstalled { manifest: system.at(manifest::PATH), hint: hint.to_owned() });
    };
    if dry_run {
        if system.is_loaded() {
            tell("modprobe -r greenboost");
        }
        if manifest.dkms {
            tell(&dkms_remove(&manifest).join(" "));
        }
        manifest.files.iter().for_each(|file| tell(&format!("delete {}, unless it was changed", file.path)));
        return Ok(Vec::new());
    }
    undo(system, &manifest, true, tell)
}

fn dkms_remove(manifest: &Manifest) -> [&str; 7] {
    ["dkms", "remove", "-m", "greenboost", "-v", &manifest.version, "--all"]
}

/// A module that is loaded while an installation fails was loaded by somebody else: loading is the last step.
fn undo(
    system: &System,
    manifest: &Manifest,
    unload: bool,
    tell: &mut dyn FnMut(&str),
) -> Result<Vec<String>, Problem> {
    if unload && system.is_loaded() {
        tell("modprobe -r greenboost");
        system.run(&["modprobe", "-r", "greenboost"]).map_err(|problem| match problem {
            Problem::Failed { said, .. } => Problem::Busy { said },
            problem => problem,
        })?;
    }
    if manifest.dkms {
        let known = system.run(&["dkms", "status", "-m", "greenboost", "-v", &manifest.version])?;
        if known.lines().any(|line| line.starts_with("greenboost")) {
            tell(&dkms_remove(manifest).join(" "));
            system.run(&dkms_remove(manifest))?;
        }
    }
    let mut kept = Vec::new();
    for file in &manifest.files {
        let path = system.at(&file.path);
        match file.is_unchanged(system) {
            Some(true) => fs::remove_file(&path).map_err(Problem::file(path))?,
            Some(false) => kept.push(file.path.clone()),
            None => {}
        }
    }
    tell(&format!("deleted {} files", manifest.files.len() - kept.len()));
    if manifest.files.iter().any(|file| file.path.contains("/udev/")) {
        let _ = system.run(&["udevadm", "control", "--reload"]);
    }
    let list = system.at(manifest::PATH);
    if list.exists() {
        fs::remove_file(&list).map_err(Problem::file(list))?;
    }
    for folder in manifest.folders.iter().rev() {
        let path = system.at(folder);
        match fs::remove_dir(&path) {
            // Somebody else's things are in it now, or a file that was kept.
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => {}
            done => done.map_err(Problem::file(path))?,
        }
    }
    Ok(kept)
}
