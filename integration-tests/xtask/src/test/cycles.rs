//! Inside a crate, no two files use each other in a circle.
//!
//! A file that is in a circle cannot be read, tested or moved without all the others of it. A file uses another where
//! a `use`, a path in the code or a path in a macro's arguments leads to something that the other one *defines*: a
//! `pub use` on the way is followed, so a folder's front that only hands names on ties nobody. `mod child;` does not
//! use the child; `super::Thing` is a use of the parent. Methods that an `impl` in another file adds to a type are not
//! seen: who calls them uses the type. What only tests compile does not count.

mod circles;
mod names;
mod uses;

use super::ceilings::{Check, Finding};
use super::tree;
use crate::{process, workspace};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Files in circles, by crate.
pub const CHECK: Check = Check { name: "cycles", unit: "files in circles", find };

/// Names that tie two files, at most, of those that are shown.
const NAMES: usize = 6;

/// Every file of the workspace that is in a circle, those of short circles first.
fn find(_: &Path) -> Result<Vec<Finding>> {
    let roots = roots()?;
    let mut found: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    let mut circles = Vec::new();
    for root in &roots {
        for (circle, text) in of_crate(root)? {
            circles.push((circle.len(), circle, text));
        }
    }
    circles.sort();
    let mut findings = Vec::new();
    for (_, circle, text) in circles {
        for file in &circle {
            // Files that two crates share, or that several circles go through, count once.
            if found.insert(file.clone(), circle.clone()).is_none() {
                findings.push(Finding { path: workspace::shown(file), text: text.clone() });
            }
        }
    }
    Ok(findings)
}

/// The root files of all crates of the workspace: libraries, programs, tests.
fn roots() -> Result<BTreeSet<PathBuf>> {
    let output = process::cargo(&["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .output()
        .context("cannot run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata's answer")?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let targets = packages.iter().filter_map(|package| package["targets"].as_array()).flatten();
    let roots: BTreeSet<_> = targets.filter_map(|target| target["src_path"].as_str()).map(PathBuf::from).collect();
    ensure!(!roots.is_empty(), "cargo metadata names no crate's files");
    Ok(roots)
}

/// The shortest circles of a crate: files, and what a person is told.
fn of_crate(root: &Path) -> Result<Vec<(Vec<PathBuf>, String)>> {
    let tree = tree::load(root)?;
    let edges = names::edges(&tree);
    let pairs = edges.keys().copied().collect();
    let told = |circle: Vec<usize>| {
        let next = circle.iter().cycle().skip(1);
        let mut text = format!("circle of {} files", circle.len());
        for (from, to) in circle.iter().zip(next) {
            let names: Vec<_> = edges.get(&(*from, *to)).into_iter().flatten().map(String::as_str).collect();
            let more = names.len().saturating_sub(NAMES);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let (from, to) = (workspace::shown(&tree.files[*from]), workspace::shown(&tree.files[*to]));
            text += &format!("\n    {from} uses {}{more} of {to}", names[..names.len().min(NAMES)].join(", "));
        }
        (circle.into_iter().map(|file| tree.files[file].clone()).collect(), text)
    };
    Ok(circles::shortest(&pairs).into_iter().map(told).collect())
}

#[cfg(test)]
mod tests;
