//! Folders where they belong, files of a readable length.

use super::outcome::Outcome;
use super::scripts::collect;
use crate::workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

/// The folders of the house; everything else at the top is a file of [`FILES`] or a dotfile.
const FOLDERS: &[&str] = &["hook", "kmod", "profiles", "launcher", "integration-tests", "fuzz", "docs"];
const FILES: &[&str] = &["Cargo.toml", "Cargo.lock", "rustfmt.toml", "README.md", "CONTRIBUTING.md"];

/// A file longer than this is usually two ideas. Longer ones are listed, not refused.
const LONG: usize = 400;

/// Checks the top of the repository, and lists long files.
///
/// # Errors
/// Names what lies at the top and should not.
pub fn run() -> Result<Outcome> {
    let root = workspace::root();
    let entries = fs::read_dir(&root).with_context(|| format!("cannot read {}", root.display()))?;
    let strangers: Vec<_> = entries
        .flatten()
        .filter(|entry| !belongs(&entry.file_name().to_string_lossy(), entry.path().is_dir()))
        .filter(|entry| !ignored(&entry.path()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    if !strangers.is_empty() {
        bail!(
            "at the top lie {} and beside files only dotfiles and the folders {} belong there",
            strangers.join(", "),
            FOLDERS.join(", ")
        );
    }
    let mut long = Vec::new();
    collect(&root, &mut |path| {
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        if matches!(&*extension, "rs" | "c" | "h" | "py" | "sh") {
            let lines = fs::read_to_string(path).map_or(0, |text| text.lines().count());
            if lines > LONG {
                long.push((lines, workspace::shown(path)));
            }
        }
    })?;
    long.sort_unstable_by(|a, b| b.cmp(a));
    for (lines, path) in long {
        eprintln!("warning: {path} has {lines} lines; over {LONG} it is usually two ideas");
    }
    Ok(Outcome::Passed)
}

fn belongs(name: &str, is_dir: bool) -> bool {
    name.starts_with('.')
        || if is_dir { FOLDERS.contains(&name) } else { FILES.contains(&name) || name.starts_with("LICENSE") }
}

/// Build outputs and whatever else git was told to overlook.
fn ignored(path: &Path) -> bool {
    if *path == workspace::target() {
        return true;
    }
    let mut git = crate::process::program("git", &["check-ignore", "--quiet"]);
    git.arg(path).status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_top_level_folder_is_noticed() {
        assert!(belongs("hook", true) && belongs(".ci", true) && belongs("LICENSE-MIT", false));
        assert!(
            !belongs("xtask", true) && !belongs("src", true) && !belongs("hook", false) && !belongs("notes.md", false)
        );
    }
}
