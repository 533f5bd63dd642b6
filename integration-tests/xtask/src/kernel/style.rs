//! checkpatch: whether the C reads as the kernel's own does.

use super::debug::{SOURCE, source, unpack};
use crate::process::{self, quietly};
use crate::workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::time::Instant;

/// It comes with the kernel's source only, of which it needs these files.
const SCRIPTS: [&str; 3] = ["scripts/checkpatch.pl", "scripts/spelling.txt", "scripts/const_structs.checkpatch"];

const FOLDERS: [&str; 3] = ["kmod", "kmod/include/uapi", "integration-tests/kernel/peer"];

/// What it may not say: BIT() is not for headers of userspace, and our macros make functions, as the kernel's own do.
const IGNORED: &str = "--ignore=BIT_MACRO,COMPLEX_MACRO,MACRO_ARG_REUSE";

/// Checks the modules' sources, to the letter. Answers why it could not, where it could not.
///
/// # Errors
/// Shows what checkpatch has to say.
pub fn check() -> Result<Option<String>> {
    let start = Instant::now();
    let script = source().join(SCRIPTS[0]);
    if !script.is_file()
        && let Err(error) = unpack(&SCRIPTS)
    {
        return Ok(Some(format!("checkpatch lies in {SOURCE}, which cannot be had: {error:#}")));
    }
    let mut files = Vec::new();
    for folder in FOLDERS {
        let entries = fs::read_dir(workspace::root().join(folder)).with_context(|| format!("cannot read {folder}"))?;
        files.extend(
            entries
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "c" || extension == "h")),
        );
    }
    let mut perl = process::program("perl", &[]);
    perl.arg(&script).args(["--no-tree", "--terse", "--no-summary", "--quiet", "--strict", IGNORED, "-f"]).args(&files);
    if let Err(said) = quietly(&mut perl) {
        bail!("checkpatch: {said:#}");
    }
    println!("style ok {:.1} checkpatch, {} files", start.elapsed().as_secs_f64(), files.len());
    Ok(None)
}
