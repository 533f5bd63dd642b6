//! Asking the driver from a distance: this program runs as a child, and whatever happens to it, its parent goes on.

use super::report::{Event, GpuReport, Outcome};
use greenboost_contract::settings;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long a killed process may take to go; one that is stuck in the kernel never does.
const GRACE: Duration = Duration::from_secs(2);

/// Runs this program with other arguments, as a child that talks to the driver, and collects what it says.
pub fn run(arguments: &[&str], limit: Duration) -> GpuReport {
    // Not current_exe(): that path is gone when the file was replaced while running.
    let mut command = Command::new("/proc/self/exe");
    // The driver is to be seen as it is, also when this program itself runs under gb-launch.
    command.args(arguments).env_remove("LD_PRELOAD").env(settings::DISABLE, "1");
    collect(command, limit)
}

fn collect(mut command: Command, limit: Duration) -> GpuReport {
    let deadline = Instant::now() + limit;
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            return GpuReport { events: Vec::new(), outcome: Outcome::Died(format!("could not be started ({error})")) };
        }
    };
    let (send, lines) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        // Ends with the pipe; when a stuck child keeps that open, with this process.
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).all(|line| send.send(line).is_ok());
        });
    }
    let mut events = Vec::new();
    let outcome = loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => events.extend(serde_json::from_str::<Event>(&line)),
            Err(RecvTimeoutError::Disconnected) => break wait(&mut child, deadline),
            Err(RecvTimeoutError::Timeout) => break Outcome::TimedOut,
        }
    };
    if outcome == Outcome::TimedOut {
        // A child that has just ended by itself cannot be killed, and need not be.
        let _ = child.kill();
        wait(&mut child, Instant::now() + GRACE);
    }
    GpuReport { events, outcome }
}

fn wait(child: &mut Child, deadline: Instant) -> Outcome {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return ended(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => return Outcome::TimedOut,
            Err(error) => return Outcome::Died(format!("was lost ({error})")),
        }
    }
}

fn ended(status: ExitStatus) -> Outcome {
    match (status.success(), status.signal()) {
        (true, _) => Outcome::Finished,
        (_, Some(signal)) => Outcome::Died(format!("crashed with signal {signal}")),
        _ => Outcome::Died(format!("ended with {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> GpuReport {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        collect(command, limit)
    }

    const STEP: &str = r#"echo '{"event":"step","doing":"waking the GPU"}'; "#;

    #[test]
    fn what_a_hanging_driver_said_before_still_counts_and_no_child_is_left() {
        let started = Instant::now();
        let report = shell(&format!("{STEP} exec sleep 600"), Duration::from_millis(300));
        assert_eq!(report.outcome, Outcome::TimedOut);
        assert_eq!(report.failure().as_deref(), Some("the driver did not answer in time while waking the GPU"));
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_crash_names_the_signal_and_the_step() {
        let report = shell(&format!("{STEP} kill -SEGV $$"), Duration::from_secs(10));
        let failure = report.failure().expect("a failure");
        assert_eq!(failure, "the driver's process crashed with signal 11 while waking the GPU");
    }

    #[test]
    fn noise_on_stdout_is_ignored() {
        let report = shell(&format!("echo hello; {STEP}"), Duration::from_secs(10));
        assert_eq!((report.events.len(), report.outcome.clone(), report.failure()), (1, Outcome::Finished, None));
    }
}
