//! What is measured, as objects of the trace, and what it adds up to.
//!
//! A device is a process of the viewer; its copy stream is the first track, and each stream that reads staging slots has a track.

use super::item::{Found, Item, Read, What};
use super::sink;
use crate::json::quoted;
use crate::ring::Key;
use greenboost_contract::record::DeviceRecord;
use greenboost_cuda::abi::{CUdevice, CUstream};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

/// Times in microseconds of the trace.
#[derive(Debug, Default)]
struct Totals {
    copies: u64,
    copied: u64,
    launches: u64,
    graphs: u64,
    /// The copy stream's copies, added up: they follow each other.
    busy: f64,
    /// What streams waited for copies, added up.
    waited: f64,
    first: Option<f64>,
    last: f64,
}

/// See the module.
#[derive(Debug)]
pub struct Bars {
    device: CUdevice,
    tracks: Vec<CUstream>,
    /// When the last copy of each weight ended.
    copied: HashMap<Key, f64>,
    /// When the last copy of all ended.
    last_copy: f64,
    totals: Totals,
}

// SAFETY: streams are compared and never used.
unsafe impl Send for Bars {}

impl Bars {
    /// Of a device whose copies are made on `copy_stream`.
    pub fn new(device: CUdevice, copy_stream: CUstream) -> Self {
        let mut bars = Self {
            device,
            tracks: Vec::new(),
            copied: HashMap::new(),
            last_copy: f64::NEG_INFINITY,
            totals: Totals::default(),
        };
        let name = format!("GPU {device} of process {}", std::process::id());
        bars.name("process_name", 1, &name);
        bars.track(copy_stream);
        bars
    }

    /// The viewer hides what is of process 0.
    fn process(&self) -> i32 {
        self.device + 1
    }

    fn name(&self, what: &str, track: usize, name: &str) -> bool {
        let (process, name) = (self.process(), quoted(name));
        let said = format!(r#"{{"name":"{what}","ph":"M","pid":{process},"tid":{track},"args":{{"name":{name}}}}}"#);
        sink::add(&said)
    }

    fn track(&mut self, stream: CUstream) -> usize {
        let known = self.tracks.iter().position(|track| *track == stream);
        let at = known.unwrap_or_else(|| {
            self.tracks.push(stream);
            let name = match self.tracks.len() {
                1 => "copies into slots".to_owned(),
                _ => format!("stream {:#x}", stream as usize),
            };
            self.name("thread_name", self.tracks.len(), &name);
            self.tracks.len() - 1
        });
        at + 1
    }

    /// Adds what happened from `begins` to `ends`, and the wait before it. False when the trace takes no more.
    pub fn add(&mut self, item: &Item, waits: Option<f64>, begins: f64, ends: f64) -> bool {
        let track = self.track(item.stream);
        self.totals.first.get_or_insert(begins);
        self.totals.last = self.totals.last.max(ends);
        match &item.what {
            What::Copy { key, name, offset, bytes } => {
                self.copied.insert(*key, ends);
                self.last_copy = ends;
                self.totals.copies += 1;
                self.totals.copied += bytes;
                self.totals.busy += ends - begins;
                let speed = speed(*bytes, ends - begins);
                let more = format!(r#""bytes":{bytes},"GB/s":{speed:.1},"slot":{offset}"#);
                self.bar("copy", name, track, begins, ends, &more)
            }
            What::Launch { kernel, reads } => {
                self.totals.launches += 1;
                let copied = reads.iter().filter_map(|read| self.copied.get(&read.key).copied());
                let copied = copied.fold(f64::NEG_INFINITY, f64::max);
                let waited = self.wait(track, waits, begins, copied);
                let at = waits.unwrap_or(begins);
                reads.iter().for_each(|read| self.instant(track, at, read, waited));
                let names: Vec<_> = reads.iter().map(|read| quoted(&read.name)).collect();
                let slots: Vec<_> = reads.iter().map(|read| read.offset.to_string()).collect();
                let more = format!(r#""reads":[{}],"slots":[{}]"#, names.join(","), slots.join(","));
                let kernel = if kernel.is_empty() { "kernel" } else { kernel };
                self.bar("launch", kernel, track, begins, ends, &more)
            }
            What::Graph => {
                self.totals.graphs += 1;
                self.wait(track, waits, begins, self.last_copy);
                // Nodes have no events of ours: nobody knows when the copies inside ran.
                let more = r#""note":"copies and kernels inside of a graph are not measured""#;
                self.bar("graph", "graph", track, begins, ends, more)
            }
        }
    }

    /// What a stream waited until `copied`, as a bar. A copy that ended before costs nothing, whatever else the time
    /// between two marks is.
    fn wait(&mut self, track: usize, waits: Option<f64>, begins: f64, copied: f64) -> f64 {
        let Some(waits) = waits else { return 0.0 };
        let until = copied.min(begins);
        if until <= waits {
            return 0.0;
        }
        self.totals.waited += until - waits;
        self.bar("wait", "waits for a copy", track, waits, until, "");
        until - waits
    }

    fn bar(&self, category: &str, name: &str, track: usize, begins: f64, ends: f64, more: &str) -> bool {
        let (process, name, length) = (self.process(), quoted(name), ends - begins);
        sink::add(&format!(
            r#"{{"name":{name},"cat":"{category}","ph":"X","pid":{process},"tid":{track},"ts":{begins:.3},"dur":{length:.3},"args":{{{more}}}}}"#
        ))
    }

    fn instant(&self, track: usize, at: f64, read: &Read, waited: f64) {
        let category = match read.found {
            Found::There => return,
            Found::Late => "late",
            Found::Missing => "miss",
        };
        let (process, name) = (self.process(), quoted(&format!("{category}: {}", read.name)));
        sink::add(&format!(
            r#"{{"name":{name},"cat":"{category}","ph":"i","s":"t","pid":{process},"tid":{track},"ts":{at:.3},"args":{{"waited_us":{waited:.3}}}}}"#
        ));
    }

    /// The last object: the counters of the status record, and what was measured.
    pub fn end(&self, record: &DeviceRecord, lost: u64) -> String {
        let totals = &self.totals;
        let counters = [
            ("streamed_bytes", &record.streamed),
            ("slot_hits", &record.slot_hits),
            ("slot_late", &record.slot_late),
            ("slot_misses", &record.slot_misses),
            ("in_place", &record.in_place),
            ("captured_bytes", &record.captured),
        ];
        let mut args = String::new();
        for (name, counter) in counters {
            let _ = write!(args, r#""{name}":{},"#, counter.load(Relaxed));
        }
        let counts = [("copies", totals.copies), ("launches", totals.launches), ("graph_launches", totals.graphs)];
        for (name, count) in counts.into_iter().chain([("not_measured", lost)]) {
            let _ = write!(args, r#""{name}":{count},"#);
        }
        let _ = write!(
            args,
            r#""copying_us":{:.3},"waited_us":{:.3},"wall_us":{:.3},"link_utilisation":{:.4}"#,
            totals.busy,
            totals.waited,
            totals.wall(),
            totals.utilisation()
        );
        format!(
            r#"{{"name":"streaming ends","cat":"end","ph":"i","s":"p","pid":{},"tid":1,"ts":{:.3},"args":{{{args}}}}}"#,
            self.process(),
            totals.last
        )
    }

    /// What was measured, for the log; `None` when there was no copy.
    pub fn summary(&self, lost: u64) -> Option<String> {
        let totals = &self.totals;
        if totals.copies == 0 {
            return None;
        }
        let mut text = format!(
            "copies outside of graphs kept the link busy for {:.1}% of {:.3} s, at {:.1} GB/s; streams waited {:.3} s for \
             copies",
            100.0 * totals.utilisation(),
            totals.wall() / 1e6,
            speed(totals.copied, totals.busy),
            totals.waited / 1e6,
        );
        if lost > 0 {
            let _ = write!(text, "; {lost} copies and launches were not measured");
        }
        Some(text)
    }
}

impl Totals {
    fn wall(&self) -> f64 {
        self.first.map_or(0.0, |first| self.last - first)
    }

    fn utilisation(&self) -> f64 {
        if self.wall() > 0.0 { self.busy / self.wall() } else { 0.0 }
    }
}

/// In GB/s, which is bytes a nanosecond; events tell half microseconds at best.
fn speed(bytes: u64, microseconds: f64) -> f64 {
    bytes as f64 / microseconds.max(0.5) / 1e3
}
