//! The init of a virtual machine: loads greenboost.ko and tests it, one line per test, then powers off.
//!
//! It is linked statically and plays every part but one: the second process, the other user, the memory hog. Only the
//! hook and what it is put in front of are programs of their own (`hook.rs`). Each test begins with nothing allocated and must end so. The host reads the console:
//! `gb-test NAME ok SECONDS`, `gb-figure NAME VALUE`, and `gb-done` at the end; anything the kernel complains about in
//! between fails the run as well.

mod abi;
mod budgets;
mod demo;
mod faults;
mod figures;
mod fuzz;
mod hook;
mod lifecycle;
mod machine;
mod mapping;
mod numa;
mod peer;
mod pool;
mod pressure;
mod process;
mod reserve;
mod spill;
mod test;
mod threads;
mod users;

use test::{Test, run};

fn main() {
    machine::set_up();
    let fault = machine::option("gb.inject");
    let only = machine::option("gb.only");
    println!("gb-boot {:.2}", machine::uptime());
    let groups: &[&[Test]] = &[
        lifecycle::LOADING,
        abi::TESTS,
        mapping::TESTS,
        users::TESTS,
        budgets::TESTS,
        reserve::TESTS,
        numa::TESTS,
        lifecycle::TESTS,
        pressure::TESTS,
        spill::TESTS,
        pool::TESTS,
        hook::TESTS,
        demo::TESTS,
        faults::TESTS,
        fuzz::TESTS,
        figures::TESTS,
        lifecycle::UNLOADING,
    ];
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in groups.iter().flat_map(|group| group.iter()) {
        let always = name.starts_with("loading");
        if only.as_ref().is_some_and(|only| !always && !name.contains(only.as_str())) {
            continue;
        }
        if run(name, *test) { passed += 1 } else { failed += 1 }
    }
    match fault.as_deref() {
        Some("expectation")
            if !run("injected expectation", || assert_eq!(peer::pinned_bytes(), 1, "injected: this must fail")) =>
        {
            failed += 1;
        }
        Some("leak") if !run("injected leak", machine::leak) => {
            failed += 1;
        }
        Some("warning") => peer::Peer::open().inject(peer::Fault::Warning),
        Some("kasan") => peer::Peer::open().inject(peer::Fault::Kasan),
        Some("lockdep") => peer::Peer::open().inject(peer::Fault::Lockdep),
        Some("kmemleak") => peer::Peer::open().inject(peer::Fault::Kmemleak),
        Some("atomic") => peer::Peer::open().inject(peer::Fault::Atomic),
        Some("ubsan") => peer::Peer::open().inject(peer::Fault::Ubsan),
        Some("panic") => machine::panic_kernel(),
        Some("silence") => loop {
            std::thread::park();
        },
        _ => {}
    }
    // A fault is for one checker: of these scans, which take minutes, only its own needs one.
    let scanned = fault.as_deref().is_none_or(|fault| fault == "kmemleak");
    if machine::option("gb.debug").is_some() && scanned && !run("debug: kmemleak finds nothing", faults::no_leaks) {
        failed += 1;
    }
    println!("gb-done {passed} passed {failed} failed, up {:.2}", machine::uptime());
    machine::power_off();
}
