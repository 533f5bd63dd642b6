//! The link between host and device, throttled so that tests can see whether copies overlap work.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// One link; both directions share it.
pub struct Link {
    seconds_per_byte: Option<f64>,
    busy_until: Mutex<Option<Instant>>,
}

impl Link {
    /// A link of so many GB/s, or one that takes no time.
    pub fn new(gbps: Option<f64>) -> Link {
        Link { seconds_per_byte: gbps.map(|gbps| 1e-9 / gbps), busy_until: Mutex::new(None) }
    }

    /// Waits as long as these bytes take, behind everything that is already on the link.
    pub fn carry(&self, bytes: u64) {
        let Some(seconds_per_byte) = self.seconds_per_byte else { return };
        let now = Instant::now();
        let done = {
            let mut busy_until = self.busy_until.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let start = busy_until.unwrap_or(now).max(now);
            let done = start + Duration::from_secs_f64(bytes as f64 * seconds_per_byte);
            *busy_until = Some(done);
            done
        };
        let wait = done.saturating_duration_since(now);
        // Shorter waits than the timer's resolution add up on the link and are waited for then.
        if wait > Duration::from_micros(100) {
            std::thread::sleep(wait);
        }
    }
}
