//! Finding the library that is preloaded.

use super::refusal::Refusal;
use crate::elf::{Kind, kind_of};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The library's file name.
pub const FILE: &str = "libgreenboost_hook.so";
/// A path to the library that is used instead of any other.
pub const VARIABLE: &str = "GREENBOOST_HOOK";

/// Where the library is looked for, given the folder of the running program.
fn places(own_folder: &Path) -> Vec<PathBuf> {
    let up = own_folder.join("..");
    [own_folder.to_owned(), up.join("lib"), up.join("lib/greenboost"), PathBuf::from("/usr/lib/greenboost")]
        .into_iter()
        .map(|folder| folder.join(FILE))
        .collect()
}

/// The library, as an absolute path that LD_PRELOAD can carry.
///
/// # Errors
/// When there is none, or it is not a library for this machine.
pub fn find(variable: Option<&OsStr>) -> Result<PathBuf, Refusal> {
    let path = match variable.filter(|value| !value.is_empty()) {
        Some(path) => {
            let path = Path::new(path);
            if !path.is_file() {
                return Err(Refusal::usage(format!(
                    "{VARIABLE}={}: there is no such file: correct or unset it",
                    path.display()
                )));
            }
            path.to_owned()
        }
        None => {
            let own = std::env::current_exe().unwrap_or_default();
            let places = places(own.parent().unwrap_or(Path::new("/")));
            let found = places.iter().find(|path| path.is_file()).cloned();
            found.ok_or_else(|| {
                let looked: Vec<_> = places.iter().map(|path| format!("\n    {}", path.display())).collect();
                Refusal::usage(format!(
                    "{FILE} is missing: install it beside gb-launch, or set {VARIABLE} to its path. Looked for{}",
                    looked.concat()
                ))
            })?
        }
    };
    let path = std::fs::canonicalize(&path).unwrap_or(path);
    check(&path)?;
    Ok(path)
}

fn check(path: &Path) -> Result<(), Refusal> {
    let shown = path.display();
    match kind_of(path) {
        Ok(Kind::Elf(elf)) if elf.is_ours() && elf.shared => {}
        Ok(Kind::Elf(elf)) if !elf.is_ours() => {
            return Err(Refusal::usage(format!(
                "{shown}: is built for {}: install the build for this machine",
                elf.architecture()
            )));
        }
        Ok(_) => {
            return Err(Refusal::usage(format!(
                "{shown}: is not a shared library: install GreenBoost again, or correct {VARIABLE}"
            )));
        }
        Err(error) => return Err(Refusal::usage(format!("{shown}: cannot be read: {error}"))),
    }
    // The loader splits LD_PRELOAD at both and knows no escape.
    if path.as_os_str().as_bytes().iter().any(|byte| matches!(byte, b' ' | b':')) {
        return Err(Refusal::usage(format!(
            "{shown}: LD_PRELOAD cannot carry a path with a space or a colon: move GreenBoost, or set {VARIABLE} to a copy elsewhere"
        )));
    }
    Ok(())
}
