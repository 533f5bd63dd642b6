//! The map in CONTRIBUTING.md names every folder with source in it, and nothing that is not there.
//!
//! ```text
//!     hook/                     what lies there
//!       contract/               what lies in hook/contract
//!       src/slot.rs, guard.rs   two files of hook/src
//! ```
//!
//! Two more spaces lead one folder down, beside two spaces begins the description, and a list is of things in one
//! folder. A crate's `src` is named with the crate.

use super::outcome::Outcome;
use crate::{process, workspace};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs;

const FILE: &str = "CONTRIBUTING.md";
const HEADING: &str = "## Map of the house";

/// The folders whose every folder is on the map.
const WHOLE: &[&str] = &["hook", "launcher", "integration-tests"];

/// What makes a folder one with source in it.
const SOURCE: &[&str] = &["rs", "c", "h", "cu", "ptx", "py", "sh", "toml"];

/// Lines of the map begin this far in, and a continued description much further.
const INDENT: usize = 4;
const DESCRIPTION: usize = 20;

/// Checks the map against what git keeps.
///
/// # Errors
/// Names every folder that is missing on the map, and what the map names that is not there.
pub fn run() -> Result<Outcome> {
    let text = fs::read_to_string(workspace::root().join(FILE)).with_context(|| format!("cannot read {FILE}"))?;
    let output = process::program("git", &["ls-files", "--cached", "--others", "--exclude-standard"])
        .output()
        .context("cannot run git")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).context("a file's name")?;
    // What is deleted and not yet committed is gone.
    let files: Vec<_> = listed.lines().filter(|file| workspace::root().join(file).exists()).collect();
    ensure!(!files.is_empty(), "git lists no files");
    let count = check(&text, &files)?;
    eprintln!("{count} names on the map");
    Ok(Outcome::Passed)
}

/// How many names the map has.
fn check(text: &str, files: &[&str]) -> Result<usize> {
    let map = read(text)?;
    let there = |name: &String| files.iter().any(|file| is_in(name, file));
    let unknown: Vec<_> = map.iter().filter(|name| !there(name)).cloned().collect();
    let missing: Vec<_> = folders(files).into_iter().filter(|folder| !named(folder, &map, files)).collect();
    if !unknown.is_empty() {
        bail!("the map in {FILE} names what is not there: {}", unknown.join(", "));
    }
    if !missing.is_empty() {
        bail!("the map in {FILE} has no line for {}; say in a few words what lies there", missing.join(", "));
    }
    Ok(map.len())
}

/// The folders that must be named: those that have source directly in them.
fn folders(files: &[&str]) -> BTreeSet<String> {
    let source =
        files.iter().filter(|file| file.rsplit_once('.').is_some_and(|(_, extension)| SOURCE.contains(&extension)));
    let folders = source.filter_map(|file| file.rsplit_once('/')).map(|(folder, _)| folder);
    folders.filter(|folder| WHOLE.iter().any(|whole| is_in(whole, folder))).map(str::to_owned).collect()
}

fn named(folder: &str, map: &BTreeSet<String>, files: &[&str]) -> bool {
    let of_crate = folder.strip_suffix("/src").filter(|above| files.contains(&&*format!("{above}/Cargo.toml")));
    map.contains(folder) || of_crate.is_some_and(|of_crate| map.contains(of_crate))
}

/// Whether a path is this one or lies in it.
fn is_in(folder: &str, path: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Everything the map names, from the root, without `/` at the end.
fn read(text: &str) -> Result<BTreeSet<String>> {
    let (_, after) = text.split_once(HEADING).with_context(|| format!("{FILE} has no '{HEADING}'"))?;
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines = after.lines().skip_while(|line| indent(line) < INDENT || line.trim().is_empty());
    let lines = lines.take_while(|line| indent(line) >= INDENT).filter(|line| indent(line) < DESCRIPTION);
    let mut above: Vec<(usize, String)> = Vec::new();
    let mut map = BTreeSet::new();
    for line in lines {
        let depth = indent(line);
        above.retain(|(of, _)| *of < depth);
        let folder = above.last().map_or("", |(_, folder)| folder);
        let names = line.trim().split("  ").next().unwrap_or_default();
        let mut beside = String::new();
        let mut last = String::new();
        for name in names.split(',').map(str::trim) {
            ensure!(!name.is_empty() && !name.contains(' '), "the map in {FILE}: '{}' is not understood", line.trim());
            // The first of a list says the folder of all: `src/slot.rs, guard.rs`.
            let path = format!("{folder}{beside}{name}");
            if beside.is_empty() && !name.ends_with('/') {
                beside = name.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
            }
            map.insert(path.trim_end_matches('/').to_owned());
            last = path;
        }
        if last.ends_with('/') {
            above.push((depth, last));
        }
    }
    ensure!(!map.is_empty(), "the map in {FILE} is empty");
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "# For\n\n## Map of the house\n\n    hook/                     the library\n      contract/               what two agree on,\n                              in two lines\n      src/slot.rs, guard.rs   files\n      src/memory/             bytes\n      tests/, tests/c/        tests\n    docs/                     words\n\n## Run\n\n    cargo build\n";

    const FILES: &[&str] = &[
        "hook/Cargo.toml",
        "hook/src/slot.rs",
        "hook/src/guard.rs",
        "hook/src/memory/mod.rs",
        "hook/contract/Cargo.toml",
        "hook/contract/src/lib.rs",
        "hook/tests/a.rs",
        "hook/tests/c/a.c",
        "docs/a.md",
        "kmod/src/a.rs",
    ];

    fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
        FILES.iter().chain(more).copied().collect()
    }

    #[test]
    fn a_map_that_names_all_folders_passes() {
        assert_eq!(check(MAP, FILES).expect("complete"), 8);
        // Neither folders without source, nor those of other houses.
        check(MAP, &with(&["hook/src/art/logo.svg", "kmod/deep/a.rs", "hookah/a.rs"])).expect("complete");
    }

    #[test]
    fn a_folder_that_is_not_named_fails() {
        for folder in ["hook/src/stream", "launcher", "integration-tests/gpu", "hook/src/memory/src"] {
            let file = format!("{folder}/a.rs");
            let error = check(MAP, &with(&[&file])).expect_err(folder).to_string();
            assert!(error.contains(&format!("no line for {folder};")), "{error}");
        }
    }

    #[test]
    fn a_name_that_is_not_there_fails() {
        for gone in ["hook/src/guard.rs", "hook/src/memory/mod.rs", "docs/a.md"] {
            let files: Vec<_> = FILES.iter().copied().filter(|file| *file != gone).collect();
            let error = check(MAP, &files).expect_err(gone).to_string();
            assert!(error.contains("names what is not there") && error.contains(&gone[..4]), "{error}");
        }
    }

    #[test]
    fn a_map_that_is_gone_or_is_not_understood_fails() {
        check("# For\n", FILES).expect_err("no map");
        check("## Map of the house\n\nNone.\n", FILES).expect_err("empty");
        let error = check(&MAP.replace("docs/  ", "the docs/  "), FILES).expect_err("words").to_string();
        assert!(error.contains("'the docs/"), "{error}");
    }
}
