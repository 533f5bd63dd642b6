//! The trace's file: an array of JSON objects that is closed after every write, so that it can be read while the program
//! runs and however it dies.
//!
//! The first process of a command has the file; others that stream (a server that starts one process for each model)
//! write beside it, `trace.json` becoming `trace.PID.json`. The file grows up to a limit, and then says so.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most bytes of a trace: what viewers still open.
const MOST: u64 = 128 << 20;
/// Bytes that are written at once.
const BATCH: usize = 32 << 10;
/// The longest that something is kept back.
const PATIENCE: Duration = Duration::from_millis(100);
const CLOSE: &str = "\n]\n";
const FULL: &str = r#"{"name":"the trace is full: nothing is recorded from here on","cat":"end","ph":"i","s":"g","pid":1,"tid":1,"ts":"#;

struct Sink {
    /// `None` once it cannot be written any more.
    file: Option<File>,
    identity: (u64, u64),
    /// Where the next object goes.
    at: u64,
    buffer: String,
    flushed: Instant,
    began: Instant,
    most: u64,
    is_full: bool,
}

static SINK: Mutex<Option<Sink>> = Mutex::new(None);

fn lock() -> MutexGuard<'static, Option<Sink>> {
    SINK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the file, if that has not been done. Microseconds since then; `None`: there is no trace.
pub fn open(path: &Path) -> Option<f64> {
    let mut sink = lock();
    if sink.is_none() {
        let opened = Sink::open(path, MOST);
        *sink = opened.inspect_err(|error| log::warn!("no trace at {}: {error}", path.display())).ok();
    }
    let sink = sink.as_ref()?;
    (sink.file.is_some() && !sink.is_full).then(|| sink.began.elapsed().as_secs_f64() * 1e6)
}

/// Adds an object. False when nothing more is wanted.
pub fn add(object: &str) -> bool {
    lock().as_mut().is_some_and(|sink| sink.add(object))
}

/// Adds an object that closes a trace, also to a full one, and writes everything.
pub fn add_last(object: &str) {
    if let Some(sink) = lock().as_mut() {
        sink.push(object);
        sink.flush();
    }
}

/// Writes what has been kept back for long.
pub fn write_what_is_due() {
    if let Some(sink) = lock().as_mut().filter(|sink| sink.flushed.elapsed() > PATIENCE) {
        sink.flush();
    }
}

impl Sink {
    fn open(path: &Path, most: u64) -> io::Result<Self> {
        let file = match own(path)? {
            Some(file) => file,
            None => OpenOptions::new().write(true).create(true).truncate(true).open(beside(path))?,
        };
        let metadata = file.metadata()?;
        Ok(Self {
            file: Some(file),
            identity: (metadata.dev(), metadata.ino()),
            at: 0,
            buffer: String::new(),
            flushed: Instant::now(),
            began: Instant::now(),
            most,
            is_full: false,
        })
    }

    fn push(&mut self, object: &str) {
        self.buffer.push_str(if self.at == 0 && self.buffer.is_empty() { "[\n" } else { ",\n" });
        self.buffer.push_str(object);
    }

    fn add(&mut self, object: &str) -> bool {
        if self.is_full || self.file.is_none() {
            return false;
        }
        if self.at + (self.buffer.len() + object.len()) as u64 > self.most {
            self.is_full = true;
            self.push(&format!("{FULL}{}}}", self.began.elapsed().as_micros()));
            self.flush();
            return false;
        }
        self.push(object);
        if self.buffer.len() >= BATCH {
            self.flush();
        }
        true
    }

    /// One write, which ends with what closes the array and begins where the last one's did.
    fn flush(&mut self) {
        self.flushed = Instant::now();
        if self.buffer.is_empty() {
            return;
        }
        let Some(file) = &self.file else { return };
        // Programs that close all descriptors close this one too, and its number may be a socket of theirs now.
        let is_ours = file.metadata().is_ok_and(|now| (now.dev(), now.ino()) == self.identity);
        if !is_ours {
            log::warn!("the trace ends: the program has closed its file");
            // Not closed: it is not ours any more.
            self.file.take().map(IntoRawFd::into_raw_fd);
            return;
        }
        let bytes = self.buffer.len();
        self.buffer.push_str(CLOSE);
        match file.write_all_at(self.buffer.as_bytes(), self.at) {
            Ok(()) => self.at += bytes as u64,
            Err(error) => {
                log::warn!("the trace ends: {error}");
                // What was written in part goes again; a disk that is full has room for the end it had.
                let closed = file.write_all_at(CLOSE.as_bytes(), self.at);
                let _ = closed.and_then(|()| file.set_len(self.at + CLOSE.len() as u64));
                self.file = None;
            }
        }
        self.buffer.clear();
    }
}

/// The file itself, unless another process has it, or had it.
fn own(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    // SAFETY: a plain system call on a descriptor of ours.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok((file.metadata()?.len() == 0).then_some(file));
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        error => Err(error),
    }
}

fn beside(path: &Path) -> PathBuf {
    let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy())).unwrap_or_default();
    path.with_extension(format!("{}{extension}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(path: &Path) -> String {
        std::fs::read_to_string(path).expect("read")
    }

    #[test]
    fn the_array_is_closed_after_every_write() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("trace.json");
        let mut sink = Sink::open(&path, 1 << 20).expect("open");
        assert!(sink.add("{\"a\":1}"));
        assert_eq!(contents(&path), "", "kept back");
        sink.flush();
        assert_eq!(contents(&path), "[\n{\"a\":1}\n]\n");
        sink.add("{}");
        sink.add("{}");
        sink.flush();
        sink.flush();
        assert_eq!(contents(&path), "[\n{\"a\":1},\n{},\n{}\n]\n");
    }

    #[test]
    fn a_full_trace_says_so_and_takes_nothing_but_its_end() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("trace.json");
        let mut sink = Sink::open(&path, 1000).expect("open");
        let added = (0..1000).filter(|_| sink.add("{\"some\":\"thing\"}")).count();
        assert!((40..60).contains(&added), "{added}");
        sink.push("{\"the\":\"end\"}");
        sink.flush();
        let text = contents(&path);
        assert!(
            text.matches("the trace is full").count() == 1 && text.ends_with(",\n{\"the\":\"end\"}\n]\n"),
            "{text}"
        );
        assert!(text.len() < 1400, "{}", text.len());
    }

    #[test]
    fn a_second_process_writes_beside_the_file_and_leaves_it_as_it_is() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("trace.json");
        let mut first = Sink::open(&path, 1 << 20).expect("open");
        first.add("{\"first\":1}");
        for _ in 0..2 {
            // First while another has it open, then when that one has ended.
            let mut second = Sink::open(&path, 1 << 20).expect("open");
            second.add("{\"second\":2}");
            second.flush();
            first.flush();
            first.file = None;
            assert_eq!(contents(&path), "[\n{\"first\":1}\n]\n");
            let other = folder.path().join(format!("trace.{}.json", std::process::id()));
            assert_eq!(contents(&other), "[\n{\"second\":2}\n]\n");
        }
    }
}
