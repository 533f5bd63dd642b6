//! The module's own threads: found, bound to a processor, and held up there.

use crate::machine::eventually;
use crate::process::{Child, Count, bind, run_before_all};
use std::fs;
use std::time::{Duration, Instant};

/// Keeps everything else off the first processor, for less than a second.
pub struct HoldUp(Count, Child);

impl HoldUp {
    /// Begins to.
    pub fn begin(&mut self) {
        self.1.go_on();
        eventually("it is held up", || self.0.get() > 0);
    }

    /// Waits for its end.
    pub fn ended_well(self) -> bool {
        self.1.ended_well()
    }

    /// Whether it still does.
    pub fn is_on(&self) -> bool {
        self.0.get() == 1
    }
}

/// A process that will. It is made first: it holds what there is at that time.
pub fn hindrance() -> HoldUp {
    let busy = Count::new();
    let child = Child::run(|parent| {
        bind(0, &[0]);
        parent.wait();
        run_before_all();
        busy.one_more();
        let start = Instant::now();
        // Linux leaves other threads a twentieth of each second.
        while start.elapsed() < Duration::from_millis(850) {}
        busy.one_more();
    });
    HoldUp(busy, child)
}

/// Keeps the thread that fills the reserve to these processors.
pub fn bind_filler(processors: &[usize]) {
    bind(kernel_thread("greenboost_fill"), processors);
    // And this one, if to one of them, to the other.
    bind(0, if processors == [0] { &[1] } else { &[0, 1] });
}

/// The process of a kernel thread.
pub fn kernel_thread(name: &str) -> i32 {
    let processes = fs::read_dir("/proc").expect("proc is mounted").flatten();
    let named = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name);
    let found = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(named);
    found.unwrap_or_else(|| panic!("there is no thread {name}"))
}
