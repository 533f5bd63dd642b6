//! The log: lines appended to one file, by this and other processes, and nothing anywhere else.

use log::{Level, LevelFilter, Log, Metadata, Record};
use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// Starts logging to `path`. Without one nothing is logged, ever.
pub fn open(path: Option<PathBuf>, level: &str) {
    let Some(path) = path else { return };
    let level = level.parse().unwrap_or(LevelFilter::Info);
    let pid = std::process::id();
    let logger = env_logger::Builder::new()
        .filter_level(level)
        .write_style(env_logger::WriteStyle::Never)
        .format(move |line, record| {
            let (time, level, target) = (line.timestamp_millis(), record.level(), record.target());
            // The crate is of no interest: modules have names of their own.
            let target = target
                .strip_prefix("greenboost_")
                .and_then(|rest| rest.split_once("::"))
                .map_or(target, |(_, module)| module);
            writeln!(line, "{time} {pid} {level:<5} {target}: {}", record.args())
        })
        .target(env_logger::Target::Pipe(Box::new(Appender { path, file: None })))
        .build();
    if log::set_boxed_logger(Box::new(Gated(logger))).is_ok() {
        log::set_max_level(level);
    }
}

/// Appends to a file that is opened with the first line. Where it cannot be written, lines are lost.
struct Appender {
    path: PathBuf,
    file: Option<(File, (u64, u64))>,
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Write for Appender {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Programs that close all descriptors close this one too, and its number may be a socket of theirs now.
        if let Some((file, ours)) = &self.file
            && identity(file).ok().as_ref() != Some(ours)
            && let Some((file, _)) = self.file.take()
        {
            // Not closed: it is not ours any more.
            let _ = file.into_raw_fd();
        }
        if self.file.is_none() {
            let file = OpenOptions::new().append(true).create(true).open(&self.path)?;
            let ours = identity(&file)?;
            self.file = Some((file, ours));
        }
        // The formatter hands over whole lines, and one append of one line is not torn by another process.
        match &mut self.file {
            Some((file, _)) => file.write(line),
            None => Ok(line.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps a fork from happening in the middle of a line, and a line from being written inside a line.
struct Gated<L>(L);

static WRITING: AtomicBool = AtomicBool::new(false);

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Waits for a line being written, and holds further ones.
pub fn hold() {
    let mut patience = 100_000;
    while WRITING.swap(true, Ordering::Acquire) && patience > 0 {
        std::thread::yield_now();
        patience -= 1;
    }
}

/// Lets lines be written again.
pub fn release() {
    WRITING.store(false, Ordering::Release);
}

impl<L: Log> Log for Gated<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Other crates inside this library have nothing to say below a warning.
        self.0.enabled(metadata) && (metadata.level() <= Level::Warn || metadata.target().starts_with("greenboost"))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) || INSIDE.replace(true) {
            return;
        }
        hold();
        self.0.log(record);
        release();
        INSIDE.set(false);
    }

    fn flush(&self) {}
}
