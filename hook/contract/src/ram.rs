//! How much system RAM may still be taken. What a plan promises, what doctor says and what the hook grants come from here.
//!
//! The machine has its limit and so has each memory cgroup on the way up from this process. What the kernel can drop at
//! once counts as free in both: a model file that was just read fills a cgroup with page cache, and the kernel drops it
//! when somebody wants memory. Page cache that a device reads is pinned and cannot be dropped; whoever pins it says how much.

use std::fs;
use std::path::{Path, PathBuf};

/// The share of the available RAM that may stand in for VRAM where the user names no budget: the rest is for the program
/// itself, the page cache of the model file, and everybody else.
pub const SHARE: f64 = 0.75;
/// Bytes that must stay available whatever the budget says, so that the kernel never has to kill anyone.
pub const FLOOR: u64 = 512 << 20;

/// Bytes that this process may still take: what the machine has available, or what its cgroups leave, whichever is less.
/// `root` is `/`, or a made-up tree; `pinned`: bytes of page cache that devices read.
pub fn available(root: &Path, pinned: u64) -> Option<u64> {
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let machine = (field(&meminfo, "MemAvailable:")? << 10).saturating_sub(pinned);
    let left = groups(root).iter().filter_map(|group| group.left(pinned)).min();
    Some(machine.min(left.unwrap_or(u64::MAX)))
}

/// The budget where the user names none.
pub fn budget(available: u64) -> u64 {
    (available as f64 * SHARE) as u64
}

/// The tightest memory limit of the cgroups this process is in, in bytes.
pub fn cgroup_limit(root: &Path) -> Option<u64> {
    groups(root).iter().filter_map(Group::limit).min()
}

/// A folder of a memory cgroup.
struct Group {
    folder: PathBuf,
    version: &'static Version,
}

/// How the files are called.
struct Version {
    /// The folder of all groups.
    tree: &'static str,
    /// Above these the kernel reclaims, or kills.
    limits: &'static [&'static str],
    usage: &'static str,
    /// The prefix of fields of `memory.stat` that count the groups below as well.
    total: &'static str,
}

const ONE: Version = Version {
    tree: "sys/fs/cgroup/memory",
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    total: "total_",
};
/// Above `memory.high` nothing is killed, but everything crawls.
const TWO: Version =
    Version { tree: "sys/fs/cgroup", limits: &["memory.max", "memory.high"], usage: "memory.current", total: "" };

/// Every group on the way from this process's up to the root. In a container the path may be the host's: what is not
/// there is left out, and the root is the container's own group.
fn groups(root: &Path) -> Vec<Group> {
    let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let groups = own.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or("none"), fields.next().unwrap_or_default());
        let is_memory = controllers.split(',').any(|name| name == "memory");
        // Version 2 has one tree and an empty list of controllers; version 1 a tree for each.
        let version = if controllers.is_empty() { Some(&TWO) } else { is_memory.then_some(&ONE) };
        let folders = version.into_iter().flat_map(|version| {
            let tree = root.join(version.tree);
            let leaf = tree.join(path.trim_start_matches('/'));
            let up: Vec<_> =
                leaf.ancestors().take_while(|folder| folder.starts_with(&tree)).map(Path::to_owned).collect();
            up.into_iter().map(move |folder| Group { folder, version })
        });
        folders.collect::<Vec<_>>()
    });
    groups.collect()
}

impl Group {
    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.folder.join(file)).ok()?.trim().parse().ok()
    }

    /// "max" and version 1's "9223372036854771712" are none.
    fn limit(&self) -> Option<u64> {
        let limits = self.version.limits.iter().filter_map(|file| self.number(file));
        limits.filter(|bytes| *bytes < 1 << 60).min()
    }

    fn left(&self, pinned: u64) -> Option<u64> {
        let used = self.number(self.version.usage)?.saturating_sub(self.droppable().saturating_sub(pinned));
        Some(self.limit()?.saturating_sub(used))
    }

    /// Clean page cache. What is dirty has to be written first, and what is locked is on neither list.
    fn droppable(&self) -> u64 {
        let stat = fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let sum = |names: &[&str]| -> u64 {
            let field = |name: &&str| field(&stat, &format!("{}{name} ", self.version.total)).unwrap_or(0);
            names.iter().map(field).fold(0, u64::saturating_add)
        };
        let unwritten = sum(&["file_dirty", "file_writeback", "dirty", "writeback"]);
        sum(&["inactive_file", "active_file"]).saturating_sub(unwritten)
    }
}

/// The number after a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A tree of these files.
    fn made_of(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("folder");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            fs::write(path, text).expect("file");
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemFree: 1 kB\nMemAvailable:   67108864 kB\n");

    #[test]
    fn without_a_cgroup_it_is_what_the_machine_has_less_what_is_pinned() {
        let root = made_of(&[MEMINFO]);
        assert_eq!(available(root.path(), 0), Some(64 * GIB));
        assert_eq!(available(root.path(), GIB), Some(63 * GIB));
        assert_eq!(available(root.path(), u64::MAX), Some(0));
        assert_eq!(available(made_of(&[]).path(), 0), None);
    }

    #[test]
    fn clean_page_cache_counts_as_available_in_both_versions() {
        let two = made_of(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.max", "10737418240\n"),
            ("sys/fs/cgroup/a/memory.current", "10737418240\n"),
            (
                "sys/fs/cgroup/a/memory.stat",
                "anon 1\nfile_mapped 5\nfile_dirty 1073741824\nfile_writeback 0\ninactive_file 4294967296\nactive_file 1073741824\n",
            ),
        ]);
        assert_eq!((cgroup_limit(two.path()), available(two.path(), 0)), (Some(10 * GIB), Some(4 * GIB)));
        assert_eq!(available(two.path(), 3 * GIB), Some(GIB), "what a device reads cannot be dropped");
        let one = made_of(&[
            MEMINFO,
            ("proc/self/cgroup", "4:cpu,memory:/x\n1:pids:/y\n"),
            ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "2147483648\n"),
            ("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "2147483648\n"),
            (
                "sys/fs/cgroup/memory/x/memory.stat",
                "inactive_file 5\ntotal_inactive_file 1073741824\ntotal_active_file 0\ntotal_dirty 0\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "5\n"),
        ]);
        assert_eq!((cgroup_limit(one.path()), available(one.path(), 0)), (Some(2 * GIB), Some(GIB)));
    }

    #[test]
    fn the_tightest_limit_on_the_way_up_counts_the_soft_one_included() {
        let root = made_of(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "10737418240\n"),
            ("sys/fs/cgroup/a/memory.high", "3221225472\n"),
            ("sys/fs/cgroup/a/memory.current", "1073741824\n"),
        ]);
        assert_eq!((cgroup_limit(root.path()), available(root.path(), 0)), (Some(3 * GIB), Some(2 * GIB)));
    }

    #[test]
    fn this_machine_has_some() {
        assert!((1 << 20..1 << 50).contains(&available(Path::new("/"), 0).expect("/proc/meminfo")));
        assert_eq!(budget(4 * GIB), 3 * GIB);
    }
}
