//! `cargo xtask gpu-pack DIR`: all that the GPU script needs on a machine that has neither Rust nor a network.

use crate::artefacts::{Artefacts, replace};
use crate::{process, workspace};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// Bytes a pack may have; it travels.
const MOST: u64 = 40 << 20;

const PROGRAMS: &[&str] = &["libgreenboost_hook.so", "gb-launch", "greenboost", "toy-llm"];
const PACKAGES: &[&str] = &["greenboost-hook", "greenboost-launcher", "toy-llm"];

/// Builds and packs.
///
/// # Errors
/// When something cannot be built or copied, or the pack is too large to travel.
pub fn run(dir: &Path) -> Result<ExitCode> {
    let built = Artefacts::release(PACKAGES)?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for name in PROGRAMS {
        let (from, to) = (built.file(name)?, dir.join(name));
        replace(&from, &to)?;
        // Debug information is most of the size and of no use there. A missing strip costs only size.
        let _ = process::program("strip", &["--strip-debug"]).arg(fs::canonicalize(&to)?).status();
    }
    let scripts = workspace::root().join("integration-tests/gpu");
    copy_files(&scripts, &dir.join("gpu"))?;
    let fixtures = workspace::target().join("gpu-fixtures");
    integration_tests::fixtures::build_all(&fixtures)?;
    // The stub driver that the fixtures were linked against lies in a folder of its own, and stays here.
    copy_files(&fixtures, &dir.join("fixtures"))?;
    replace(&scripts.join("fixtures.list"), &dir.join("fixtures/list"))?;
    let bytes = folder_bytes(dir)?;
    ensure!(bytes <= MOST, "the pack has {} MiB, more than {}", bytes >> 20, MOST >> 20);
    println!("{} holds {} MiB; there: bash gpu/run.sh all", dir.display(), bytes >> 20);
    Ok(ExitCode::SUCCESS)
}

/// Copies the files of a folder, without the folders in it and without notes of the build.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?.flatten() {
        let path = entry.path();
        let is_note = path.extension().is_some_and(|extension| extension == "key" || extension == "a");
        if path.is_file() && !is_note {
            replace(&path, &to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn folder_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?.flatten() {
        let meta = entry.metadata()?;
        bytes += if meta.is_dir() { folder_bytes(&entry.path())? } else { meta.len() };
    }
    Ok(bytes)
}
