//! The RAM budget: how much system memory may stand in for VRAM.

use crate::files;
use greenboost_contract::record::Record;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Share of the available memory taken when the user names no budget: the rest is for the program itself,
/// the page cache of the model file, and everybody else.
const DEFAULT_SHARE: f64 = 0.75;
/// Memory that must stay available whatever the budget says, so that the kernel never has to kill anyone.
pub const FLOOR: u64 = 512 << 20;

/// Bytes reserved out of a fixed budget. Reservation is one atomic step: two threads cannot both take the last
/// gigabyte.
#[derive(Debug)]
pub struct RamBudget {
    limit: u64,
    used: AtomicU64,
}

impl RamBudget {
    /// The user's limit, else a share of what is available to this process now.
    pub fn new(wanted: Option<u64>) -> Self {
        let limit = wanted.unwrap_or_else(|| (available() as f64 * DEFAULT_SHARE) as u64);
        Self { limit, used: AtomicU64::new(0) }
    }

    /// Bytes in all.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes not reserved.
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used.load(Relaxed))
    }

    /// Reserves `bytes`, or refuses: over the budget, or the machine itself has run short since.
    pub fn take(&self, bytes: u64, record: &Record) -> bool {
        let taken =
            self.used.fetch_update(Relaxed, Relaxed, |used| used.checked_add(bytes).filter(|sum| *sum <= self.limit));
        if taken.is_err() {
            return false;
        }
        let available = available();
        if available < bytes.saturating_add(FLOOR) {
            self.used.fetch_sub(bytes, Relaxed);
            log::warn!("{bytes} bytes of RAM refused: {available} are available, {FLOOR} must stay so");
            return false;
        }
        record.ram_used.store(self.used.load(Relaxed), Relaxed);
        true
    }

    /// Gives `bytes` back.
    pub fn give_back(&self, bytes: u64, record: &Record) {
        self.used.fetch_sub(bytes, Relaxed);
        record.ram_used.store(self.used.load(Relaxed), Relaxed);
    }
}

/// Bytes this process may still take: MemAvailable, or what its memory cgroups leave, whichever is less.
pub fn available() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let machine = field(&meminfo, "MemAvailable:").map_or(u64::MAX, |kib| kib << 10);
    // Page cache that the device reads cannot be dropped, but is counted as if it could.
    let machine = machine.saturating_sub(files::registered());
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
    use greenboost_contract::record::Mapped;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn racing_threads_never_take_more_than_the_budget() {
        let (budget, record) = (RamBudget::new(Some(100)), Mapped::create().expect("memfd"));
        let granted = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        granted.fetch_add(usize::from(budget.take(7, &record)), Relaxed);
                    }
                });
            }
        });
        assert_eq!((granted.load(Relaxed), budget.left()), (14, 2));
        assert_eq!(record.ram_used.load(Relaxed) % 7, 0);
    }

    #[test]
    fn more_than_the_machine_has_is_refused_whatever_the_budget() {
        let (budget, record) = (RamBudget::new(Some(u64::MAX)), Mapped::create().expect("memfd"));
        assert!(!budget.take(1 << 60, &record));
        assert_eq!(budget.left(), u64::MAX, "a refusal takes nothing");
    }

    #[test]
    fn available_memory_is_what_the_kernel_says() {
        assert!((1 << 20..1 << 50).contains(&available()));
        assert_eq!(field("MemFree: 1 kB\nMemAvailable:   42 kB\n", "MemAvailable:"), Some(42));
    }
}
