//! What a test is, and how one runs.

use crate::machine;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// A test's name as the console shows it, and what it does; it fails by a panic.
pub type Test = (&'static str, fn());

/// Runs a test and puts one line on the console. A test that leaves anything allocated has failed, and what it left is
/// dropped as far as that is possible.
pub fn run(name: &str, test: fn()) -> bool {
    let start = Instant::now();
    let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
    let clean = catch_unwind(AssertUnwindSafe(machine::expect_nothing_left)).is_ok();
    let ok = passed && clean;
    if !ok {
        machine::start_over();
    }
    println!("gb-test {} {:.2} {name}", if ok { "ok" } else { "FAILED" }, start.elapsed().as_secs_f64());
    ok
}
