//! The shell and Python scripts: whether they parse, and the GPU script's own test.

use super::outcome::Outcome;
use crate::{process, workspace};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Every script must parse; shellcheck has its say where it is installed.
///
/// # Errors
/// Names the script that does not parse.
pub fn syntax() -> Result<Outcome> {
    let (mut shell, mut python) = (Vec::new(), Vec::new());
    collect(&workspace::root(), &mut |path| {
        let name = path.extension().unwrap_or_default();
        if name == "py" {
            python.push(path.to_path_buf());
        } else if name == "sh" || starts_with_shell(path) {
            shell.push(path.to_path_buf());
        }
    })?;
    for path in &shell {
        process::succeed(process::program("bash", &["-n"]).arg(path))?;
    }
    if process::exists("shellcheck") {
        process::succeed(process::program("shellcheck", &["--severity=warning"]).args(&shell))?;
    }
    // Compiles in memory: py_compile would leave __pycache__ behind.
    let check = "import sys\nfor name in sys.argv[1:]: compile(open(name, encoding='utf-8').read(), name, 'exec')";
    process::succeed(process::program("python3", &["-c", check]).args(&python))?;
    eprintln!("{} shell and {} Python scripts parse", shell.len(), python.len());
    if shell.is_empty() || python.is_empty() {
        bail!("no scripts were found where there are some");
    }
    Ok(Outcome::Passed)
}

/// Runs the GPU script with stand-ins for the GPU and for llama.cpp.
///
/// # Errors
/// When the script finds a fault in itself.
pub fn self_test() -> Result<Outcome> {
    process::succeed(&mut process::program("bash", &["integration-tests/gpu/run.sh", "--self-test"]))?;
    Ok(Outcome::Passed)
}

fn starts_with_shell(path: &Path) -> bool {
    let Ok(mut file) = fs::File::open(path) else { return false };
    let mut start = [0u8; 32];
    let length = std::io::Read::read(&mut file, &mut start).unwrap_or(0);
    let line = String::from_utf8_lossy(&start[..length]);
    line.starts_with("#!") && line.lines().next().is_some_and(|line| line.ends_with("sh"))
}

/// Calls `see` with every file of the repository that is not built or git's own.
pub fn collect(folder: &Path, see: &mut impl FnMut(&Path)) -> Result<()> {
    let target = workspace::target();
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    entries.sort();
    for path in entries {
        let skipped = ["target", ".git", "__pycache__", "gpu-results"];
        let is_skipped = path.file_name().is_some_and(|name| skipped.iter().any(|skip| name == *skip));
        if path.is_symlink() || is_skipped || path == target {
            continue;
        }
        if path.is_dir() {
            collect(&path, see)?;
        } else {
            see(&path);
        }
    }
    Ok(())
}
