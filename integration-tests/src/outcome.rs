//! The result of a run of a target program.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, ExitStatus};

/// A finished run. The assertions fail with everything needed to repeat it.
#[derive(Debug)]
pub struct Outcome {
    /// The command line with its environment, as a shell would take it.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// The hook's log, when it was hooked.
    pub log: String,
    /// Whether it was killed because it took too long.
    pub timed_out: bool,
}

impl Outcome {
    /// Fails the test unless the program ended well.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "the program failed\n{}", self.report());
        self
    }

    /// Whether a fixture found its allocation caught. A fixture must say so, one way or the other.
    #[track_caller]
    pub fn caught(&self) -> bool {
        match self.field("caught").as_deref() {
            Some("1") => true,
            Some("0") => false,
            _ => panic!("no caught=0 or caught=1\n{}", self.report()),
        }
    }

    /// The value of `name=value` in the output.
    pub fn field(&self, name: &str) -> Option<String> {
        let mut words = self.stdout.split_whitespace();
        words.find_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
    }

    /// The one JSON object a fixture printed.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}\n{}", self.report()))
    }

    /// The whole run, for a message.
    pub fn report(&self) -> String {
        let mut text = format!("$ {}\n{}", self.command, self.status);
        if let Some(signal) = self.status.signal() {
            let _ = write!(text, " (signal {signal})");
        }
        if self.timed_out {
            text.push_str(" after it was killed for taking too long");
        }
        for (name, content) in [("stdout", &self.stdout), ("stderr", &self.stderr), ("log", &self.log)] {
            // The end of a log is what matters.
            let tail: Vec<_> = content.lines().rev().take(40).collect();
            if !tail.is_empty() {
                let _ = write!(text, "\n--- {name}");
                for line in tail.iter().rev() {
                    let _ = write!(text, "\n{line}");
                }
            }
        }
        text
    }
}

/// A program that is still running; killed when dropped.
#[derive(Debug)]
pub struct Running {
    pub(crate) child: Child,
    pub(crate) stdout: BufReader<ChildStdout>,
    pub(crate) log: Option<PathBuf>,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads lines until one equals `wanted`, and returns those before it.
    #[track_caller]
    pub fn until(&mut self, wanted: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.stdout.read_line(&mut line).expect("reading from the program");
            assert!(read > 0, "the program ended before '{wanted}': {lines:?}\n{}", self.log());
            if line.trim_end() == wanted {
                return lines;
            }
            lines.push(line.trim_end().to_owned());
        }
    }

    /// Sends it a line, which a fixture that goes step by step waits for.
    pub fn go_on(&mut self) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        stdin.write_all(b"\n").and_then(|()| stdin.flush()).expect("writing to the program");
    }

    /// The hook's log so far.
    pub fn log(&self) -> String {
        self.log.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default()
    }

    /// Closes its stdin and waits for it.
    pub fn finish(mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        while self.stdout.read_line(&mut rest).is_ok_and(|read| read > 0) {}
        self.child.wait().expect("waiting for the program")
    }

    /// Kills it as the OOM killer or a user would.
    pub fn kill(mut self) -> ExitStatus {
        self.child.kill().expect("killing the program");
        self.child.wait().expect("waiting for the program")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
