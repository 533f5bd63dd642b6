//! The link between host and device, throttled so that tests can see whether copies overlap work.

use crate::clock::seconds;
use std::sync::Mutex;
use std::time::Instant;

/// One link; both directions share it, and so do copies and kernels that read over it.
#[derive(Default)]
pub struct Link {
    busy_until: Mutex<Option<Instant>>,
}

impl Link {
    /// When these bytes have arrived, which can be sent from this time on and follow everything already on the link.
    pub fn carry(&self, from: Instant, bytes: u64, gbps: Option<f64>) -> Instant {
        if gbps.is_none() {
            return from;
        }
        let mut busy_until = self.busy_until.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let start = busy_until.map_or(from, |busy| busy.max(from));
        *busy_until.insert(start + seconds(bytes, gbps))
    }
}
