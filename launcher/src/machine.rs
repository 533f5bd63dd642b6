//! What the system says about itself, read below a root folder so that tests can make machines up.

use crate::procfs::processes;
use greenboost_contract::ram;
use std::fs;
use std::path::PathBuf;

/// A machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// `/`, or a made-up tree.
    pub root: PathBuf,
    /// `RLIMIT_MEMLOCK` in bytes; `None`: unlimited.
    pub memlock: Option<u64>,
    /// `CUDA_MPS_PIPE_DIRECTORY` is set.
    pub mps_variable: bool,
    /// `CUDA_VISIBLE_DEVICES`, where it is set, also to nothing.
    pub visible_devices: Option<String>,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the limit is written by the call, which cannot fail for a known resource.
        unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
        Self {
            root: PathBuf::from("/"),
            memlock: Some(limit.rlim_cur).filter(|bytes| *bytes != libc::RLIM_INFINITY),
            mps_variable: std::env::var_os("CUDA_MPS_PIPE_DIRECTORY").is_some_and(|value| !value.is_empty()),
            visible_devices: std::env::var_os("CUDA_VISIBLE_DEVICES").map(|value| value.to_string_lossy().into_owned()),
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Whether a file or folder exists.
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok()
    }

    /// A number of `/proc/meminfo`, without its unit.
    pub fn meminfo(&self, key: &str) -> Option<u64> {
        let text = self.text("/proc/meminfo")?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// Bytes of RAM that can be used without swapping and within the memory limits of this process, as the hook counts
    /// them.
    pub fn available(&self) -> Option<u64> {
        ram::available(&self.root, 0)
    }

    /// The word in brackets of a file such as `always [madvise] never`.
    pub fn choice(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let (_, rest) = text.split_once('[')?;
        Some(rest.split(']').next()?.to_owned())
    }

    /// The kind of container this is, if it is one.
    pub fn container(&self) -> Option<&'static str> {
        if self.exists("/.dockerenv") {
            return Some("Docker");
        }
        if self.exists("/run/.containerenv") {
            return Some("Podman");
        }
        let groups = self.text("/proc/1/cgroup")?;
        let kinds = [("kubepods", "Kubernetes"), ("docker", "Docker"), ("containerd", "containerd"), ("lxc", "LXC")];
        kinds.iter().find(|(mark, _)| groups.contains(mark)).map(|(_, kind)| *kind)
    }

    /// The tightest memory limit of the cgroups this process is in, in bytes.
    pub fn cgroup_limit(&self) -> Option<u64> {
        ram::cgroup_limit(&self.root)
    }

    /// Whether greenboost.ko is loaded.
    pub fn has_module(&self) -> bool {
        let modules = self.text("/proc/modules").unwrap_or_default();
        self.exists("/dev/greenboost") || modules.lines().any(|line| line.split(' ').next() == Some("greenboost"))
    }

    /// The MPS control daemon, if it runs.
    pub fn mps_process(&self) -> Option<u32> {
        // The kernel cuts names to 15 characters.
        let all = processes(&self.root);
        all.iter().find(|process| process.name().starts_with("nvidia-cuda-mps")).map(|process| process.pid)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A machine made of these files.
    pub fn made_of(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let folder = tempfile::tempdir().expect("folder");
        let machine =
            Machine { root: folder.path().to_owned(), memlock: None, mps_variable: false, visible_devices: None };
        for (path, text) in files {
            let path = machine.path(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            fs::write(path, text).expect("file");
        }
        (folder, machine)
    }

    #[test]
    fn choices_numbers_and_containers_are_read() {
        let (_keep, machine) = made_of(&[
            ("/proc/meminfo", "MemTotal: 100 kB\nMemAvailable:    50 kB\nHugePages_Free:       7\n"),
            ("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("/proc/1/cgroup", "0::/kubepods/pod1\n"),
            ("/proc/modules", "greenboost_other 1\ngreenboost 16384 0\n"),
        ]);
        assert_eq!((machine.available(), machine.meminfo("HugePages_Free")), (Some(50 << 10), Some(7)));
        assert_eq!(machine.choice("/sys/kernel/mm/transparent_hugepage/enabled").as_deref(), Some("madvise"));
        assert_eq!((machine.container(), machine.has_module()), (Some("Kubernetes"), true));
    }
}
