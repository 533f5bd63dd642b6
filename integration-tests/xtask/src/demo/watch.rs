//! One run of the toy model: its output, and its tier map while it lives.

use crate::process;
use crate::tier_map::TierMap;
use anyhow::{Context, Result, bail, ensure};
use greenboost_contract::record;
use std::io::{IsTerminal, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What became of a run.
pub struct Run {
    status: ExitStatus,
    stdout: String,
    stderr: String,
    map: TierMap,
}

/// Runs a command to its end. Its status record is looked at all the while, and its largest state is kept:
/// gb-launch becomes its target, so the record carries the id of the process started here.
pub fn watch(command: &mut Command) -> Result<Run> {
    let typed = process::typed(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{typed}`"))?;
    let stdout = drain(child.stdout.take().context("piped above")?);
    let stderr = drain(child.stderr.take().context("piped above")?);
    let (start, terminal) = (Instant::now(), std::io::stderr().is_terminal());
    let (mut record, mut map) = (None, TierMap::default());
    let status = loop {
        record = record.or_else(|| record::of_process(child.id()));
        if let Some(record) = &record {
            let seen = TierMap::of(record);
            if seen.total() >= map.total() {
                map = seen;
            }
        }
        if let Some(status) = child.try_wait().context("waiting for the run")? {
            break status;
        }
        if terminal {
            eprint!("\r   {:.0} s ", start.elapsed().as_secs_f64());
            let _ = std::io::stderr().flush();
        }
        thread::sleep(Duration::from_millis(10));
    };
    if terminal {
        eprint!("\r          \r");
    }
    println!("   {:.1} s", start.elapsed().as_secs_f64());
    let text = |thread: thread::JoinHandle<String>| thread.join().unwrap_or_default();
    Ok(Run { status, stdout: text(stdout), stderr: text(stderr), map })
}

fn drain(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

impl Run {
    /// The checksum a good run prints.
    ///
    /// # Errors
    /// When the run failed or printed none.
    pub fn checksum(&self) -> Result<&str> {
        ensure!(self.status.success(), "the run {}: {}", process::ended(self.status), self.stderr.trim());
        let line = self.stdout.lines().find_map(|line| line.split_once("checksum"));
        let (_, after) = line.with_context(|| format!("the run printed no checksum but: {}", self.stdout.trim()))?;
        Ok(after.trim_start_matches([':', '=', ' ']).trim())
    }

    /// Makes sure the run failed for want of memory; answers what it said.
    ///
    /// # Errors
    /// When it succeeded, or failed of something else.
    pub fn must_have_run_out_of_memory(&self) -> Result<&str> {
        ensure!(!self.status.success(), "it fitted, so this demo shows nothing: make the model larger");
        let is_meant = |line: &&str| {
            let line = line.to_lowercase().replace('_', " ");
            line.contains("out of memory")
        };
        match self.stderr.lines().chain(self.stdout.lines()).find(is_meant) {
            Some(line) => Ok(line),
            None => bail!("the run {} but not of memory: {}", process::ended(self.status), self.stderr.trim()),
        }
    }

    /// The tier map of a run that must have used RAM.
    ///
    /// # Errors
    /// When it did not: then nothing was extended, and an equal checksum shows nothing.
    pub fn map_of_a_spilled_run(&self) -> Result<&TierMap> {
        ensure!(self.map.outside() > 0, "nothing of this run was seen outside VRAM");
        Ok(&self.map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Run {
        watch(Command::new("sh").args(["-c", script])).expect("sh runs")
    }

    #[test]
    fn a_checksum_counts_only_when_the_run_succeeded() {
        assert_eq!(shell("echo tokens 1 2; echo checksum: 00ff").checksum().expect("printed"), "00ff");
        assert!(shell("echo checksum: 00ff; exit 1").checksum().is_err());
        assert!(shell("echo nothing").checksum().is_err());
    }

    #[test]
    fn only_want_of_memory_counts_as_such() {
        assert!(shell("echo CUDA_ERROR_OUT_OF_MEMORY >&2; exit 1").must_have_run_out_of_memory().is_ok());
        assert!(shell("echo no driver >&2; exit 1").must_have_run_out_of_memory().is_err());
        assert!(shell("true").must_have_run_out_of_memory().is_err());
        assert!(shell("true").map_of_a_spilled_run().is_err());
    }
}
