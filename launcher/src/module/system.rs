//! The machine the module is installed on: its files below a root folder, its programs in a path.

use super::Problem;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A machine.
#[derive(Debug, Clone)]
pub struct System {
    /// `/`, or a made-up tree.
    pub root: PathBuf,
    /// Where programs are looked for, as in the variable PATH.
    pub path: OsString,
    /// This process may change the system.
    pub is_root: bool,
    /// The program that runs, beside which the module's source may lie.
    pub own_program: PathBuf,
}

impl System {
    /// This one.
    pub fn here() -> Self {
        let mut path = std::env::var_os("PATH").unwrap_or_default();
        // Where dkms and modprobe are, and sudo and su do not always look.
        path.push(":/usr/sbin:/sbin:/usr/bin:/bin");
        Self {
            root: PathBuf::from("/"),
            path,
            // SAFETY: the call has no arguments and cannot fail.
            is_root: unsafe { libc::geteuid() } == 0,
            own_program: std::env::current_exe().unwrap_or_default(),
        }
    }

    /// Where a path of the machine lies.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file's text; empty where there is none.
    pub fn text(&self, path: impl AsRef<Path>) -> String {
        fs::read(self.at(path)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Whether the module is loaded now.
    pub fn is_loaded(&self) -> bool {
        self.at("/sys/module/greenboost").exists()
    }

    /// The release of the kernel that runs.
    pub fn kernel(&self) -> String {
        self.text("/proc/sys/kernel/osrelease").trim().to_owned()
    }

    /// Where a program is.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        std::env::split_paths(&self.path).map(|folder| folder.join(name)).find(|path| path.is_file())
    }

    /// Runs a program to its end, and answers with what it wrote to either output.
    ///
    /// # Errors
    /// [`Problem::Failed`] with its last lines where it cannot be started or does not succeed.
    pub fn run(&self, command: &[&str]) -> Result<String, Problem> {
        let failed = |said: String| Problem::Failed { command: command.join(" "), said: last_lines(&said, 12) };
        let program = self.program(command[0]).unwrap_or_else(|| PathBuf::from(command[0]));
        let output = Command::new(program)
            .args(command[1..].iter().map(OsStr::new))
            .env("PATH", &self.path)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(error.to_string()))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(said) } else { Err(failed(format!("{said}\n({})", output.status))) }
    }
}

/// The end of a text, where the reason of a failure usually is.
pub fn last_lines(text: &str, most: usize) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(most)..].join("\n")
}
