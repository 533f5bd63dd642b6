//! The guest's console: the only witness.

use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What the console said.
#[derive(Default)]
pub struct Console {
    passed: usize,
    failed: Vec<String>,
    complaints: Vec<String>,
    figures: BTreeMap<String, Vec<f64>>,
    /// All else: also why tests failed.
    noise: String,
    stopped: Option<String>,
    done: bool,
}

/// How the kernel begins what it should not have to say.
const COMPLAINTS: &[&str] = &[
    "BUG:",
    "WARNING:",
    "Oops",
    "Kernel panic",
    "general protection fault",
    "kernel BUG at",
    "KASAN:",
    "UBSAN:",
    "KFENCE:",
    "new suspected memory leaks",
    "DMA-API:",
    "held lock freed",
    "inconsistent lock state",
    "invalid wait context",
    "Bad page state",
    "Bad rss-counter",
    "INFO: task",
    "rcu: INFO:",
    "soft lockup",
    "possible circular locking",
    "possible recursive locking",
    "suspicious RCU usage",
    "sleeping function called",
    "Out of memory: Killed",
    "page allocation failure",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "stack-protector:",
];

/// Complaints that are not about us.
const EXCUSED: &[&str] = &[
    // Linux 6.1 warns whenever an exporter's vmap fails, also for want of memory, which the fault sweep makes happen.
    "drivers/dma-buf/dma-buf.c:1487 dma_buf_vmap+",
];

/// What a line means to a reader of the run.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The line of a test, a figure, or the end.
    Report,
    /// The kernel complains.
    Complaint,
    /// Anything else.
    Noise,
}

impl Console {
    /// Takes a line.
    pub fn line(&mut self, line: &str) -> Meaning {
        let line = line.trim_end();
        // The kernel and the tests share the line discipline: a report may follow a fragment of something else.
        if line.find("gb-").is_some_and(|at| self.report(&line[at..])) {
            return Meaning::Report;
        }
        let says = |words: &[&str]| words.iter().any(|word| line.contains(word));
        if says(COMPLAINTS) && !says(EXCUSED) {
            self.complaints.push(line.to_owned());
            return Meaning::Complaint;
        }
        self.noise += line;
        self.noise.push('\n');
        Meaning::Noise
    }

    /// The machine was stopped, and why.
    pub fn stopped(&mut self, why: String) {
        self.stopped = Some(why);
    }

    fn report(&mut self, report: &str) -> bool {
        let (word, rest) = report.split_once(' ').unwrap_or((report, ""));
        match word {
            "gb-test" => match rest.split_once(' ') {
                Some(("ok", _)) => self.passed += 1,
                _ => self.failed.push(rest.to_owned()),
            },
            "gb-figure" => self.figure(rest),
            "gb-boot" | "gb-round" => {}
            "gb-done" => self.done = true,
            _ => return false,
        }
        true
    }

    /// Figures that are numbers; others are for a reader only.
    fn figure(&mut self, figure: &str) {
        let (name, values) = figure.split_once(' ').unwrap_or((figure, ""));
        if let Ok(values) = values.split_whitespace().map(str::parse).collect::<Result<_, _>>() {
            self.figures.insert(name.to_owned(), values);
        }
    }

    /// What the tests measured: samples by name.
    pub fn figures(&self) -> &BTreeMap<String, Vec<f64>> {
        &self.figures
    }

    /// How many tests passed, if all did and nothing else happened.
    ///
    /// # Errors
    /// Says all that was wrong.
    pub fn verdict(&self) -> Result<usize> {
        let mut wrong = String::new();
        for test in &self.failed {
            let _ = write!(wrong, "; test {test}");
        }
        for complaint in &self.complaints {
            let _ = write!(wrong, "; the kernel says: {complaint}");
        }
        if let Some(why) = &self.stopped {
            let _ = write!(wrong, "; {why}");
        }
        if !self.done {
            wrong.push_str("; the tests did not reach their end");
        } else if self.passed + self.failed.len() == 0 {
            wrong.push_str("; no test ran");
        }
        if wrong.is_empty() { Ok(self.passed) } else { bail!("{}", &wrong[2..]) }
    }

    /// What was wrong, where this and only this was: a failed test says it, the kernel says it in each of its complaints,
    /// or the machine was stopped for it.
    ///
    /// # Errors
    /// Where nothing was wrong, or it was for another reason.
    pub fn noticed(&self, reason: &str) -> Result<String> {
        let Err(wrong) = self.verdict() else { bail!("nothing was wrong") };
        let says = |text: &str| text.contains(reason);
        let injected = |test: &String| test.contains("injected") || test.contains("kmemleak");
        let witnessed = match &self.stopped {
            // A machine that never came so far is not silent for being told to.
            Some(why) => says(why) && self.passed > 0,
            None => !self.complaints.is_empty() || !self.failed.is_empty() && says(&self.noise),
        };
        if witnessed && self.failed.iter().all(injected) && self.complaints.iter().all(|line| says(line)) {
            Ok(format!("{reason} ({wrong})"))
        } else {
            bail!("not for {reason:?}, but: {wrong}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(lines: &[&str]) -> Result<usize> {
        let mut console = Console::default();
        for line in lines {
            console.line(line);
        }
        console.verdict()
    }

    #[test]
    fn tests_that_all_pass_and_end_are_a_success() {
        assert_eq!(verdict(&["gb-test ok 0.1 a", "[ 1.0] something", "gb-done"]).expect("success"), 1);
    }

    #[test]
    fn an_injected_fault_is_noticed_only_for_its_own_reason() {
        let noticed = |lines: &[&str], reason: &str| {
            let mut console = Console::default();
            lines.iter().for_each(|line| {
                console.line(line);
            });
            console.noticed(reason)
        };
        let warning = "[ 1.0] WARNING: CPU: 0 PID: 1 at inject.c:19 peer_inject+0x1";
        assert!(noticed(&["gb-test ok 0.1 a", warning, "gb-done"], "peer_inject").is_ok());
        assert!(noticed(&["gb-test ok 0.1 a", "gb-done"], "peer_inject").is_err(), "nothing was wrong");
        let other = "[ 1.0] WARNING: CPU: 0 PID: 1 at mm/x.c";
        assert!(noticed(&["gb-test ok 0.1 a", warning, other, "gb-done"], "peer_inject").is_err(), "that as well");
        assert!(noticed(&["gb-test FAILED 0.1 a", warning, "gb-done"], "peer_inject").is_err(), "a test as well");
        assert!(noticed(&["gb-test ok 0.1 a"], "peer_inject").is_err(), "the machine just went");
        let test = ["injected: this must fail", "gb-test FAILED 0.1 injected expectation", "gb-done"];
        assert!(noticed(&test, "injected: this must fail").is_ok());
        assert!(noticed(&test[1..], "injected: this must fail").is_err(), "it failed for something else");
        let mut silent = Console::default();
        silent.stopped("silent".to_owned());
        assert!(silent.noticed("silent").is_err(), "it never came so far");
        silent.line("gb-test ok 0.1 a");
        assert!(silent.noticed("silent").is_ok() && silent.noticed("peer_inject").is_err());
    }

    #[test]
    fn figures_are_the_numbers_among_what_is_printed_as_such() {
        let mut console = Console::default();
        for line in ["gb-figure a.b 1.5 2", "gb-figure demo T2  system RAM 3 MiB", "gb-figure c 7"] {
            console.line(line);
        }
        let expected = [("a.b".to_owned(), vec![1.5, 2.0]), ("c".to_owned(), vec![7.0])];
        assert_eq!(console.figures(), &BTreeMap::from(expected));
    }

    #[test]
    fn only_the_warning_that_is_not_about_us_is_excused() {
        let said = |at: &str| format!("[ 1.0] WARNING: CPU: 0 PID: 50 at drivers/dma-buf/{at}");
        assert!(verdict(&["gb-test ok 0.1 a", &said("dma-buf.c:1487 dma_buf_vmap+0x1f4/0x2b5"), "gb-done"]).is_ok());
        assert!(verdict(&["gb-test ok 0.1 a", &said("dma-buf.c:1487 dma_buf_put+0x1f4/0x2b5"), "gb-done"]).is_err());
    }

    #[test]
    fn a_failed_test_a_complaint_a_missing_end_and_an_empty_run_each_fail() {
        let failures: &[&[&str]] = &[
            &["gb-test ok 0.1 a", "gb-test FAILED 0.1 b", "gb-done"],
            &["gb-test ok 0.1 a", "[ 1.0] WARNING: CPU: 0 PID: 1 at mm/x.c", "gb-done"],
            &["gb-test ok 0.1 a", "[ 1.0] Kernel panic - not syncing: x", "gb-done"],
            &["gb-test ok 0.1 a"],
            &["gb-done"],
        ];
        for lines in failures {
            assert!(verdict(lines).is_err(), "{lines:?}");
        }
    }
}
