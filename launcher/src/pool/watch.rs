//! `greenboost pool watch`: a line for each change of the level.
//!
//! It waits for three things at once: news of the device, a signal that asks it to end, and a reader that has gone away.
//! The last would otherwise be noticed at the next change only, which may be never.

use super::{Paths, Problem};
use greenboost_contract::format_size;
use greenboost_kmod::{Causes, Device, Event, Level};
use serde_json::json;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where events come from.
pub trait Source: AsFd {
    /// The next one, if there is one now.
    ///
    /// # Errors
    /// What reading says.
    fn next(&self) -> greenboost_kmod::Result<Option<Event>>;
}

impl Source for Device {
    fn next(&self) -> greenboost_kmod::Result<Option<Event>> {
        self.next_event(None)
    }
}

/// How an event is written.
pub type Line = fn(&Event) -> String;

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_signal: libc::c_int) {
    STOP.store(true, Relaxed);
}

/// Follows the device until it is told to stop.
pub(super) fn run(paths: &Paths, json: bool) -> Result<(), Problem> {
    let of_device = |error| Problem::of_device(&paths.device, error);
    let device = Device::open_path(&paths.device).map_err(of_device)?;
    let info = device.info().map_err(of_device)?;
    // SAFETY: the handler does nothing but store to an atomic. A pipe without a reader is found out by its error,
    // since death by SIGPIPE would look like a failure to who waits for us.
    unsafe {
        let handler: extern "C" fn(libc::c_int) = stop;
        libc::signal(libc::SIGINT, handler as libc::sighandler_t);
        libc::signal(libc::SIGTERM, handler as libc::sighandler_t);
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
    // How things are to begin with: otherwise a quiet machine shows nothing, as a broken one would.
    let now = Event {
        level: info.level(),
        spill_level: info.spill_level(),
        causes: Causes(info.causes),
        seq: 0,
        available_bytes: info.available_bytes,
        spill_free_bytes: info.spill_free_bytes,
    };
    let stdout = io::stdout();
    let line = if json { json_line } else { text_line };
    follow(&device, &now, &mut stdout.lock(), stdout.as_fd(), &STOP, line).map_err(|ended| match ended {
        Ended::Output(error) => Problem::Output(error),
        Ended::Source(error) => of_device(error),
    })
}

/// Why following ended before it was told to.
#[derive(Debug)]
pub enum Ended {
    /// The output cannot be written.
    Output(io::Error),
    /// The source fails.
    Source(greenboost_kmod::Error),
}

/// Writes `now`, and then a line for each event that says something else than the line before, until `stop` is set (a
/// signal's arrival is noticed at once) or nobody reads `reader`, which is the descriptor `out` writes to.
///
/// # Errors
/// Where the output or the source fails. That the reader has gone is not an error.
pub fn follow(
    source: &impl Source,
    now: &Event,
    out: &mut impl Write,
    reader: BorrowedFd<'_>,
    stop: &AtomicBool,
    line: Line,
) -> Result<(), Ended> {
    let mut shown = *now;
    let mut news = Some(*now);
    loop {
        if let Some(event) = news {
            match writeln!(out, "{}", line(&event)).and_then(|()| out.flush()) {
                Ok(()) => shown = event,
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(Ended::Output(error)),
            }
        }
        if stop.load(Relaxed) || !wait(source.as_fd(), reader) {
            return Ok(());
        }
        let next = source.next().map_err(Ended::Source)?;
        let says = |event: &Event| (event.level, event.spill_level, event.causes);
        news = next.filter(|event| says(event) != says(&shown));
    }
}

/// Waits for news or a signal; false where nobody reads any more.
fn wait(source: BorrowedFd<'_>, reader: BorrowedFd<'_>) -> bool {
    // A signal may come between the look at the flag and the wait: hence not for ever.
    const LONGEST_MS: i32 = 250;
    let mut polled = [
        libc::pollfd { fd: source.as_raw_fd(), events: libc::POLLIN, revents: 0 },
        // Asked for nothing: that it has no reader is told unasked.
        libc::pollfd { fd: reader.as_raw_fd(), events: 0, revents: 0 },
    ];
    // SAFETY: two structs that live through the call.
    unsafe { libc::poll(polled.as_mut_ptr(), 2, LONGEST_MS) };
    // A pipe says the one, a socket the other.
    polled[1].revents & (libc::POLLERR | libc::POLLHUP) == 0
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Low => "low",
        Level::Critical => "critical",
    }
}

/// An event for people: time of day (UTC), level, reason, RAM; and the spill path, where that is short.
pub fn text_line(event: &Event) -> String {
    let seconds = now().as_secs() % 86_400;
    let why = event.causes.words().join(", ");
    let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
    let spill = match event.spill_level {
        Level::Ok => String::new(),
        level => format!("; spill path {}, {} free", word(level), format_size(event.spill_free_bytes)),
    };
    format!(
        "{:02}:{:02}:{:02}Z {}{why}; {} of RAM available{spill}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        word(event.level),
        format_size(event.available_bytes)
    )
}

/// An event for programs; `time` is in seconds since 1970, `seq` 0 is how things were to begin with.
fn json_line(event: &Event) -> String {
    json!({
        "time": now().as_secs_f64(),
        "level": word(event.level),
        "spill_level": word(event.spill_level),
        "causes": event.causes.words(),
        "seq": event.seq,
        "available_bytes": event.available_bytes,
        "spill_free_bytes": event.spill_free_bytes,
    })
    .to_string()
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
