//! With a debug kernel only: every allocation inside a call fails once, the call fails cleanly or succeeds, and nothing
//! is left; and at the end kmemleak has found nothing.

use crate::machine::{option, set, value};
use crate::mapping::{buffer, device};
use crate::peer::{self, Peer};
use crate::process::elsewhere;
use crate::test::Test;
use greenboost_kmod::{Access, CHUNK, Device, Mapping, Request};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub const TESTS: &[Test] = &[("faults: each allocation inside each call fails once, and nothing is left", sweep)];

const DEBUGFS: &str = "/sys/kernel/debug";
const NTH: &str = "/proc/self/fail-nth";

/// Runs a body again and again, failing the first, the second, ... allocation in it, until it has no more.
fn fail_each(what: &str, body: impl Fn() -> Option<Mapping>) -> u32 {
    // Opened before: opening it allocates, and would take the fault that the body did not.
    let file = File::options().read(true).write(true).open(NTH).expect("fault injection");
    for nth in 1..2000 {
        file.write_at(nth.to_string().as_bytes(), 0).expect("fault injection");
        // Given back with the fault off: munmap allocates, and what cannot be unmapped stays mapped.
        let held = body();
        let mut left = [0; 16];
        let len = file.read_at(&mut left, 0).expect("fault injection");
        file.write_at(b"0", 0).expect("fault injection");
        drop(held);
        // What is left of the count says whether the fault was reached.
        if left[..len].trim_ascii() != b"0" {
            return nth - 1;
        }
    }
    panic!("{what} has no end");
}

fn sweep() {
    if option("gb.debug").is_none() {
        return;
    }
    for attribute in ["failslab", "fail_page_alloc"] {
        for (name, to) in [("ignore-gfp-wait", "N"), ("ignore-gfp-highmem", "N"), ("min-order", "0"), ("verbose", "0")]
        {
            let path = format!("{DEBUGFS}/{attribute}/{name}");
            if Path::new(&path).exists() {
                fs::write(&path, to).unwrap_or_else(|error| panic!("{path}: {error}"));
            }
        }
    }
    set("reserve_bytes", 0);
    // In a process of its own: the harness itself should not fail.
    elsewhere(|| {
        let mut total = 0;
        let mut each = |what: &str, least: u32, body: &dyn Fn() -> Option<Mapping>| {
            let injected = fail_each(what, body);
            println!("gb-figure faults.{what} {injected}");
            assert!(injected >= least, "{what}: only {injected} faults");
            total += injected;
        };
        let (first, mapping) = buffer(2);
        let device = device();
        each("open", 1, &|| {
            drop(Device::open());
            None
        });
        each("alloc", 5, &|| {
            drop(device.alloc(&Request::new(4 * CHUNK as u64)));
            None
        });
        // Opened before, as the harness itself should not fail.
        let peer = Peer::open();
        each("map", 1, &|| {
            let mapping = first.map(Access::ReadWrite).ok()?;
            if peer.pin(mapping.as_ptr(), mapping.len(), true).is_ok() {
                peer.unpin();
            }
            Some(mapping)
        });
        each("import", 3, &|| {
            if peer.import(first.as_fd(), peer::BIDIRECTIONAL, 1).is_ok() {
                peer.release();
            }
            None
        });
        drop(mapping);
        assert_eq!(value("pool_used_bytes"), 2 * CHUNK as u64, "a fault has left something");
        println!("gb-figure faults.total {total}");
    });
}

/// Two scans, since the first may have seen a pointer on its way.
pub fn no_leaks() {
    let path = format!("{DEBUGFS}/kmemleak");
    for _ in 0..2 {
        std::thread::sleep(std::time::Duration::from_secs(6));
        fs::write(&path, "scan").expect("kmemleak");
    }
    let found = fs::read_to_string(&path).expect("kmemleak");
    assert!(found.is_empty(), "{found}");
}
