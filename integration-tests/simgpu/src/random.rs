//! The delays and the choices of the simulation: random, and the same for the same seed.

use crate::driver;
use crate::env::options;
use std::time::Duration;

/// A small random generator (splitmix64): the same seed gives the same delays.
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Waits up to `SIMGPU_DELAY_US`.
    pub fn delay(&mut self) {
        let most = options().delay_us;
        if most > 0 && !driver::forked() {
            std::thread::sleep(Duration::from_micros(self.number() % (most + 1)));
        }
    }
}
