//! `cargo xtask demo` on a machine that has the module: what it shows to somebody who watches.

use crate::machine::{SPILL, value};
use crate::test::Test;
use std::process::{Command, Stdio};

pub const TESTS: &[Test] = &[("demo: its tier map shows the pool", tier_map)];

fn tier_map() {
    let allocations = value("allocations");
    let mut demo = Command::new(format!("{SPILL}/xtask"));
    demo.args(["demo", "--simulated-only", "--built", "/gb", "--model", "32MiB", "--tokens", "2"]);
    demo.env_clear().env("PATH", "/gb").env("CARGO_TARGET_DIR", "/tmp/target").stdin(Stdio::null());
    // In proportion to so small a GPU.
    demo.env("GREENBOOST_VRAM_RESERVE", "0").env("GREENBOOST_THRESHOLD", "4MiB");
    let output = demo.output().expect("the demo lies on the disk");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let row = said.lines().find(|line| line.contains("T2  system RAM, kmod"));
    let row = row.unwrap_or_else(|| panic!("no row of the pool in\n{said}"));
    assert!(row.contains("MiB") && row.contains('#'), "{row}");
    assert!(!said.contains("host-numa") && !said.contains("memfd"), "{said}");
    assert!(said.contains("All checksums are equal"), "{said}");
    assert!(value("allocations") > allocations, "no buffer was made");
    for line in said.lines().filter(|line| line.contains("T1") || line.contains("T2")) {
        println!("gb-figure demo {}", line.trim());
    }
}
