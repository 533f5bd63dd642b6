//! The RAM budget: how much system memory may stand in for VRAM.

use std::fs;
use std::path::Path;

/// Share of the available memory taken when the user names no budget: the rest is for the program itself,
/// the page cache of the model file, and everybody else.
const DEFAULT_SHARE: f64 = 0.75;
/// Memory that must stay available whatever the budget says, so that the kernel never has to kill anyone.
pub const FLOOR: u64 = 512 << 20;

/// The budget: what the user asked for, else a share of what is available to this process now.
pub fn limit(wanted: Option<u64>) -> u64 {
    wanted.unwrap_or_else(|| (available(0) as f64 * DEFAULT_SHARE) as u64)
}

/// Bytes this process may still take: MemAvailable, or what its memory cgroups leave, whichever is less.
///
/// `pinned`: bytes of page cache that devices read, which cannot be dropped and are counted as if they could.
pub fn available(pinned: u64) -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let machine = field(&meminfo, "MemAvailable:").map_or(u64::MAX, |kib| kib << 10);
    let machine = machine.saturating_sub(pinned);
    machine.min(cgroup_left().unwrap_or(u64::MAX))
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// What the tightest cgroup above this process leaves (v2, else v1); `None` without a limit.
fn cgroup_left() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    own.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let v1 = controllers.split(',').any(|name| name == "memory");
            match (controllers.is_empty(), v1) {
                (true, _) => tightest("/sys/fs/cgroup", path, "memory.max", "memory.current"),
                (_, true) => tightest("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes"),
                _ => None,
            }
        })
        .min()
}

fn tightest(root: &str, path: &str, limit: &str, usage: &str) -> Option<u64> {
    // In a container the path may be the host's; the root is then the container's own group.
    let leaf = Path::new(root).join(path.trim_start_matches('/'));
    let number = |file: &Path| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    leaf.ancestors()
        .take_while(|group| group.starts_with(root))
        .filter_map(|group| Some(number(&group.join(limit))?.saturating_sub(number(&group.join(usage))?)))
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_what_the_kernel_says() {
        assert!((1 << 20..1 << 50).contains(&available(0)));
        assert_eq!(available(u64::MAX), 0, "all of it is pinned");
        assert_eq!(field("MemFree: 1 kB\nMemAvailable:   42 kB\n", "MemAvailable:"), Some(42));
    }

    #[test]
    fn a_budget_that_the_user_names_is_taken_as_it_is() {
        assert_eq!((limit(Some(7)), limit(Some(0))), (7, 0));
        assert!(limit(None) > 0);
    }
}
