//! What `/proc` says about other processes. Whatever a user may not read is absent, never an error.

use std::fs;
use std::path::{Path, PathBuf};

/// A process, by its folder.
#[derive(Debug, Clone)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    folder: PathBuf,
}

impl Process {
    /// The process of that id under `root` (`/`, or a made-up tree in tests).
    pub fn new(root: &Path, pid: u32) -> Self {
        Self { pid, folder: root.join("proc").join(pid.to_string()) }
    }

    /// The kernel's short name of the program.
    pub fn name(&self) -> String {
        fs::read_to_string(self.folder.join("comm")).unwrap_or_default().trim_end().to_owned()
    }

    /// The command line.
    pub fn arguments(&self) -> Vec<String> {
        split(&fs::read(self.folder.join("cmdline")).unwrap_or_default())
    }

    /// The environment it was started with, where it may be read.
    pub fn environment(&self) -> Option<Vec<String>> {
        fs::read(self.folder.join("environ")).ok().map(|bytes| split(&bytes))
    }

    /// The value of a variable that it was started with, where it may be read.
    pub fn variable(&self, name: &str) -> Option<String> {
        let of = |line: String| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned());
        self.environment()?.into_iter().find_map(of)
    }

    /// The systemd unit it belongs to, when that is a service.
    pub fn service(&self) -> Option<String> {
        let groups = fs::read_to_string(self.folder.join("cgroup")).ok()?;
        let unit = groups.lines().flat_map(|line| line.rsplit('/')).find(|part| part.ends_with(".service"))?;
        Some(unit.to_owned())
    }
}

/// All processes under `root`, by id.
pub fn processes(root: &Path) -> Vec<Process> {
    let Ok(entries) = fs::read_dir(root.join("proc")) else { return Vec::new() };
    let mut pids: Vec<u32> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids.into_iter().map(|pid| Process::new(root, pid)).collect()
}

fn split(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end_matches('\0').split('\0').map(str::to_owned).filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_with_its_command_line() {
        let all = processes(Path::new("/"));
        let own = all.iter().find(|process| process.pid == std::process::id()).expect("own process");
        assert_eq!(own.arguments().first(), std::env::args().next().as_ref());
        assert!(own.environment().is_some());
    }
}
