//! What a measurement is worth: how far its repetitions lay apart, what else the machine was doing, and how old it is.

use libloading::Library;
use serde::{Deserialize, Serialize};
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A CPU that is busier than this measures too little of itself.
const BUSY_CPU: f64 = 0.25;
/// The same of a GPU.
const BUSY_GPU: f64 = 0.1;
/// Repetitions that lie further apart than this share of their median say that something came between.
const APART: f64 = 0.15;
/// A measurement that was disturbed is repeated when it is older than this and nothing disturbs.
const PROVISIONAL: Duration = Duration::from_secs(60);
/// How long the CPU is watched.
const WATCH: Duration = Duration::from_millis(60);

/// The conditions of a measurement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// When, in seconds since 1970.
    pub at: u64,
    /// The share of the processors that others used before.
    pub cpu_busy: Option<f64>,
    /// The share of the time that the GPU was in use before.
    pub gpu_busy: Option<f64>,
    /// The furthest that repetitions of one figure lay apart, as a share of their median.
    pub spread: Option<f64>,
}

impl Conditions {
    /// Now, before anything is measured, with a GPU that is so busy.
    pub fn now(gpu_busy: Option<f64>) -> Self {
        Self { at: now(), cpu_busy: cpu_busy(WATCH), gpu_busy, spread: None }
    }

    /// One more figure's spread.
    pub fn add_spread(&mut self, spread: f64) {
        self.spread = Some(self.spread.unwrap_or(0.0).max(spread)).filter(|spread| spread.is_finite());
    }

    /// How long ago.
    pub fn age(&self) -> Duration {
        Duration::from_secs(now().saturating_sub(self.at))
    }

    /// What disturbed it.
    pub fn disturbances(&self) -> Vec<String> {
        let percent = |share: f64| format!("{:.0}%", share * 100.0);
        let busy = |what: &str, share: Option<f64>, most: f64| {
            share.filter(|share| *share > most).map(|share| format!("the {what} was {} busy", percent(share)))
        };
        let apart = self.spread.filter(|spread| *spread > APART);
        let apart = apart.map(|spread| format!("repetitions lay {} apart", percent(spread)));
        [busy("CPU", self.cpu_busy, BUSY_CPU), busy("GPU", self.gpu_busy, BUSY_GPU), apart]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Whether to measure again, now that the machine has time, with a GPU that is so busy.
    pub fn is_due_again(&self, gpu_busy: Option<f64>) -> bool {
        !self.disturbances().is_empty() && self.age() > PROVISIONAL && Self::now(gpu_busy).disturbances().is_empty()
    }

    /// In one line.
    pub fn text(&self) -> String {
        let age = self.age().as_secs();
        let (count, unit) = [(86400, "days"), (3600, "hours"), (60, "minutes")]
            .into_iter()
            .find(|(seconds, _)| age >= 2 * seconds)
            .map_or((age, "seconds"), |(seconds, unit)| (age / seconds, unit));
        let spread = self.spread.map_or_else(String::new, |spread| format!(", repeated within {:.0}%", spread * 100.0));
        format!("measured {count} {unit} ago{spread}")
    }
}

/// The median of some figures, and how far they lie apart as a share of it.
pub fn median(figures: &mut [f64]) -> (f64, f64) {
    figures.sort_by(f64::total_cmp);
    let [first, .., last] = figures else { return (figures.first().copied().unwrap_or(0.0), 0.0) };
    let (first, last) = (*first, *last);
    let middle = figures[figures.len() / 2];
    (middle, if middle > 0.0 { (last - first) / middle } else { 0.0 })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The share of all processors' time that was used while this waited.
fn cpu_busy(watch: Duration) -> Option<f64> {
    let (busy, all) = cpu_times(&fs::read_to_string("/proc/stat").ok()?)?;
    std::thread::sleep(watch);
    let (busy_then, all_then) = cpu_times(&fs::read_to_string("/proc/stat").ok()?)?;
    let all = all_then.saturating_sub(all);
    (all > 0).then(|| busy_then.saturating_sub(busy) as f64 / all as f64)
}

/// Time in use and all time, of all processors together.
fn cpu_times(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user, nice, system, idle, waiting for disks, interrupts, ..., stolen; guests are in user already.
    let times: Vec<u64> = line.split_whitespace().take(8).filter_map(|time| time.parse().ok()).collect();
    let idle = times.get(3)? + times.get(4)?;
    let all = times.iter().sum::<u64>();
    Some((all.saturating_sub(idle), all))
}

/// The share of the last moments in which the GPU ran kernels; `None` where NVML does not say. For the child that talks to
/// the driver.
pub fn gpu_busy(uuid: &str) -> Option<f64> {
    type Init = unsafe extern "C" fn() -> c_int;
    type Find = unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int;
    type Use = unsafe extern "C" fn(*mut c_void, *mut [c_uint; 2]) -> c_int;
    let uuid = CString::new(uuid).ok()?;
    let (mut device, mut used) = (std::ptr::null_mut(), [0; 2]);
    // SAFETY: NVML's own functions with its own types, as nvml.h declares them; results are written by the calls, and the
    // library stays loaded: it starts no thread of its own, but nobody has to find that out.
    unsafe {
        let library = std::mem::ManuallyDrop::new(Library::new("libnvidia-ml.so.1").ok()?);
        let init = library.get::<Init>(b"nvmlInit_v2\0").ok()?;
        let find = library.get::<Find>(b"nvmlDeviceGetHandleByUUID\0").ok()?;
        let usage = library.get::<Use>(b"nvmlDeviceGetUtilizationRates\0").ok()?;
        let known = init() == 0 && find(uuid.as_ptr(), &mut device) == 0 && usage(device, &mut used) == 0;
        known.then(|| f64::from(used[0]) / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_repetition_that_was_disturbed_is_not_the_figure() {
        assert_eq!(median(&mut [50.0, 52.0, 20.0, 51.0, 51.5]), (51.0, 32.0 / 51.0));
        assert_eq!(median(&mut [7.0]), (7.0, 0.0));
        assert_eq!(median(&mut []), (0.0, 0.0));
    }

    #[test]
    fn a_busy_machine_is_noticed() {
        let quiet = Conditions { at: now(), cpu_busy: Some(0.05), gpu_busy: None, spread: Some(0.03) };
        assert_eq!(quiet.disturbances(), [] as [String; 0]);
        let busy = Conditions { cpu_busy: Some(0.8), gpu_busy: Some(0.5), spread: Some(0.4), ..quiet };
        let said = ["the CPU was 80% busy", "the GPU was 50% busy", "repetitions lay 40% apart"];
        assert_eq!(busy.disturbances(), said);
        assert!(!busy.is_due_again(None), "not at once");
        let old = Conditions { at: now() - 7300, ..busy };
        assert!(!old.is_due_again(Some(0.9)), "not while it is busy");
        assert_eq!(old.text(), "measured 2 hours ago, repeated within 40%");
    }

    #[test]
    fn times_of_the_processors_are_read_as_the_kernel_writes_them() {
        assert_eq!(cpu_times("cpu  10 1 5 100 20 2 2 1 9 9\ncpu0 1 1 1 1"), Some((21, 141)));
        assert_eq!(cpu_times("nothing"), None);
        assert!(cpu_busy(Duration::from_millis(30)).is_none_or(|share| (0.0..=1.0).contains(&share)));
    }
}
