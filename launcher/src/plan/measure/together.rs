//! How fast the CPU reads RAM and the copy engine copies from it when both do so at once: the strategy that lets them
//! work side by side gains as much as the RAM gives to both.
//!
//! The thread that submits the copies sleeps while they run, since the driver would spin in a wait and take a core from the
//! threads that read.

use super::bench::{Bench, MOST_HOST, Sides};
use super::cpu;
use crate::driver::describe::step;
use crate::driver::report::{Event, GpuReport};
use serde::{Deserialize, Serialize};
use std::ffi::c_void;
use std::thread;
use std::time::{Duration, Instant};

/// What both get, in GB/s.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Together {
    /// Threads that read.
    pub threads: usize,
    /// Read by them.
    pub cpu: f64,
    /// Copied to the GPU.
    pub link: f64,
}

const CPU: &str = "cpu_beside_link";
const LINK: &str = "link_beside_cpu";
/// In what is missing.
pub const WORDS: &str = "CPU and link at once";

/// Long against the moments in which only one of them runs.
const LONG: Duration = Duration::from_millis(300);
/// Copies are submitted in batches of about this: long against a sleep.
const BATCH: Duration = Duration::from_millis(20);
const NAP: Duration = Duration::from_micros(100);
const LEAST: u64 = 4 << 20;
const MOST_COPIES: u32 = 64;

impl Together {
    /// What was reported, if it was measured.
    pub fn of(report: &GpuReport, threads: usize) -> Option<Self> {
        let rate = |name: &str| {
            let mut rates = report.events.iter().filter_map(|event| match event {
                Event::Rate { what, gigabytes } if what == name => Some(*gigabytes),
                _ => None,
            });
            rates.next_back().filter(|rate| rate.is_finite() && *rate > 0.0)
        };
        Some(Self { threads, cpu: rate(CPU)?, link: rate(LINK)? })
    }
}

/// Measures both, with this much free VRAM.
pub fn measure(bench: &Bench<'_>, threads: usize, free: u64) -> Result<[Event; 2], String> {
    let Sides { vram: to, host: from, host_bytes: most, .. } = bench.sides(free, MOST_HOST)?;
    step("copying to the GPU while the CPU reads");
    let (mut bytes, mut times) = (LEAST.min(most), 1);
    while copy(bench, from, to, bytes, times)? < BATCH && times < MOST_COPIES {
        if bytes < most {
            bytes = (bytes * 2).min(most);
        } else {
            times *= 2;
        }
    }
    let (cpu, copied) = cpu::reads_beside(threads, || -> Result<f64, String> {
        let (started, mut copied) = (Instant::now(), 0.0);
        while started.elapsed() < LONG {
            copy(bench, from, to, bytes, times)?;
            copied += bytes as f64 * f64::from(times);
        }
        Ok(copied / started.elapsed().as_secs_f64() / 1e9)
    });
    let event = |what: &str, gigabytes| Event::Rate { what: what.to_owned(), gigabytes };
    Ok([event(CPU, cpu), event(LINK, copied?)])
}

/// A batch of copies, from its first to its last byte.
fn copy(bench: &Bench<'_>, from: *const c_void, to: u64, bytes: u64, times: u32) -> Result<Duration, String> {
    let started = Instant::now();
    for _ in 0..times {
        // SAFETY: both sides have at least as many bytes as are copied, and stay until the process ends.
        unsafe { bench.transfers.to_device_async(to, from, bytes as usize, std::ptr::null_mut()) }
            .map_err(|error| error.to_string())?;
    }
    loop {
        // SAFETY: the stream is the context's own.
        match unsafe { bench.transfers.query(std::ptr::null_mut()) } {
            Ok(()) => return Ok(started.elapsed()),
            Err(error) if error.is_not_ready() => thread::sleep(NAP),
            Err(error) => return Err(error.to_string()),
        }
    }
}
