//! How fast the disk of a model gives it, past the page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

const BLOCK: u64 = 4 << 20;
/// Direct reads want a buffer aligned to the disk's sectors.
const ALIGNMENT: usize = 4096;
const READERS: u64 = 4;
const MOST: u64 = 384 << 20;
const LEAST: u64 = 32 << 20;
const LONG: Duration = Duration::from_millis(1200);

/// Gigabytes a second.
///
/// # Errors
/// Why it cannot be said.
pub fn read(model: &Path) -> Result<f64, String> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(model);
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => "this file system has no direct reads".to_owned(),
        _ => error.to_string(),
    })?;
    let blocks = file.metadata().map_err(|error| error.to_string())?.len().min(MOST) / BLOCK;
    if blocks * BLOCK < LEAST {
        return Err("the model is too small to tell".to_owned());
    }
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let started = Instant::now();
    let readers = thread::scope(|scope| {
        let running: Vec<_> =
            (0..READERS).map(|_| scope.spawn(|| read_blocks(&file, blocks, &next, &done, started))).collect();
        running.into_iter().try_for_each(|thread| thread.join().unwrap_or(Ok(())))
    });
    readers.map_err(|error| error.to_string())?;
    Ok(done.load(Relaxed) as f64 / started.elapsed().as_secs_f64() / 1e9)
}

fn read_blocks(file: &File, blocks: u64, next: &AtomicU64, done: &AtomicU64, started: Instant) -> io::Result<()> {
    let mut memory = vec![0u8; BLOCK as usize + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    let buffer = &mut memory[start..start + BLOCK as usize];
    while started.elapsed() < LONG {
        let block = next.fetch_add(1, Relaxed);
        if block >= blocks {
            break;
        }
        done.fetch_add(file.read_at(buffer, block * BLOCK)? as u64, Relaxed);
    }
    Ok(())
}
