//! A bar on the terminal for what takes longer than a second. Nothing is drawn on a pipe.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Shorter than this, nobody asks what is going on.
const PATIENCE: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(50);
const STYLE: &str = "{msg}, {elapsed} {bar:30}";

/// Does the work, and shows for how long it has been at it, out of `limit`, on stderr if that is a terminal.
pub fn during<T: Send>(what: &str, limit: Duration, is_silent: bool, work: impl FnOnce() -> T + Send) -> T {
    if is_silent || !std::io::stderr().is_terminal() {
        return work();
    }
    std::thread::scope(|scope| {
        let (started, working) = (Instant::now(), scope.spawn(work));
        let mut bar = None;
        while !working.is_finished() {
            std::thread::sleep(STEP);
            if started.elapsed() > PATIENCE {
                let bar: &mut ProgressBar = bar.get_or_insert_with(|| new(what, limit, started));
                bar.set_position(started.elapsed().as_millis().try_into().unwrap_or(u64::MAX));
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn new(what: &str, limit: Duration, started: Instant) -> ProgressBar {
    let bar = ProgressBar::new(limit.as_millis().try_into().unwrap_or(u64::MAX));
    let bar = bar.with_message(what.to_owned()).with_elapsed(started.elapsed());
    // The style is fine; a test holds that.
    match ProgressStyle::with_template(STYLE) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_style_can_be_read_and_work_without_a_terminal_is_just_done() {
        assert!(ProgressStyle::with_template(STYLE).is_ok());
        assert_eq!(during("x", PATIENCE, false, || 7), 7);
        assert_eq!(during("x", PATIENCE, true, || 7), 7);
    }
}
