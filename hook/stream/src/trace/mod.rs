//! The trace: what streaming does, in the GPU's own time, for Chrome's and Perfetto's viewers.
//!
//! A trace belongs to an engine and is used under its lock. Around each copy and each launch that reads a staging slot
//! it has events recorded that keep the time; at later launches it looks which have been reached, and writes a bar for each.
//! Nothing is ever waited for, and nothing is recorded or looked at in a capture: a graph's launch is one bar.
//!
//! Whatever goes wrong here ends the trace and nothing else.
//!
//! * [`clock`] makes marks and reads them; [`bars`] makes objects of them and adds them up; [`sink`] is the file.

mod bars;
mod clock;
mod item;
mod sink;

use super::index::Weight;
use super::ring::Key;
use bars::Bars;
use clock::Clock;
use greenboost_contract::record::DeviceRecord;
use greenboost_cuda::Driver;
use greenboost_cuda::abi::{CUdevice, CUevent, CUstream, Status};
use greenboost_memory::Memory;
use greenboost_memory::captures::Captures;
use greenboost_weights::registry::Registry;
pub use item::Found;
use item::{Item, Read, What};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

/// The most that may wait to be looked at; what comes then is lost, and said to be.
const MOST_PENDING: usize = 8192;
/// The most that is looked at in one launch.
const MOST_AT_ONCE: usize = 64;

/// The launch that is being made.
#[derive(Debug, Default)]
struct Draft {
    waits: Option<CUevent>,
    begins: Option<CUevent>,
    reads: Vec<Read>,
}

/// See the module.
#[derive(Debug)]
pub struct Trace {
    captures: &'static Captures,
    tensors: &'static Registry,
    clock: Clock,
    bars: Bars,
    copy_stream: CUstream,
    copy_begins: Option<CUevent>,
    draft: Draft,
    pending: VecDeque<Item>,
    lost: u64,
    is_open: bool,
}

impl Trace {
    /// Begins a trace of a device, in the current context, which `copy_stream` is of. `None` when there is none to be.
    pub fn start(
        memory: &'static Memory,
        tensors: &'static Registry,
        device: CUdevice,
        copy_stream: CUstream,
        path: Option<&Path>,
    ) -> Option<Self> {
        let at = sink::open(path?)?;
        let clock = Clock::start(memory.driver, copy_stream, at)
            .inspect_err(|status| log::warn!("no trace: the driver refused with {status}"))
            .ok()?;
        Some(Self {
            captures: memory.captures,
            tensors,
            clock,
            bars: Bars::new(device, copy_stream),
            copy_stream,
            copy_begins: None,
            draft: Draft::default(),
            pending: VecDeque::new(),
            lost: 0,
            is_open: true,
        })
    }

    fn attempt<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Status>) -> Option<T> {
        if !self.is_open {
            return None;
        }
        let done = work(self);
        done.inspect_err(|status| {
            log::warn!("the trace ends: the driver refused with {status}");
            self.is_open = false;
        })
        .ok()
    }

    /// A copy is about to be submitted.
    pub fn copy_begins(&mut self, driver: &Driver) {
        self.copy_begins = self.attempt(|trace| trace.clock.mark(driver, trace.copy_stream));
    }

    /// It has been submitted.
    pub fn copied(&mut self, driver: &Driver, weight: &Weight, offset: u64) {
        let Some(begins) = self.copy_begins.take() else { return };
        let (key, bytes, stream) = (weight.at, weight.copied, self.copy_stream);
        let what = What::Copy { key, name: name_of(self.tensors, key), offset, bytes };
        self.push(driver, stream, None, begins, what);
    }

    /// `stream` is about to be made to wait for copies, for the launch that is being made.
    pub fn waits(&mut self, driver: &Driver, stream: CUstream) {
        if self.draft.waits.is_none() {
            self.draft.waits = self.attempt(|trace| trace.clock.mark(driver, stream));
        }
    }

    /// The launch that is being made reads a copy.
    pub fn reads(&mut self, key: Key, offset: u64, found: Found) {
        if self.is_open {
            self.draft.reads.push(Read { key, name: name_of(self.tensors, key), offset, found });
        }
    }

    /// The launch is about to be submitted.
    pub fn begins(&mut self, driver: &Driver, stream: CUstream) {
        self.draft.begins = self.attempt(|trace| trace.clock.mark(driver, stream));
    }

    /// It has been submitted.
    pub fn launched(&mut self, driver: &Driver, stream: CUstream, kernel: &Arc<str>) {
        let reads = std::mem::take(&mut self.draft.reads);
        self.finish_draft(driver, stream, What::Launch { kernel: kernel.clone(), reads });
    }

    /// A graph's launch has been submitted.
    pub fn launched_graph(&mut self, driver: &Driver, stream: CUstream) {
        self.finish_draft(driver, stream, What::Graph);
    }

    fn finish_draft(&mut self, driver: &Driver, stream: CUstream, what: What) {
        let draft = std::mem::take(&mut self.draft);
        match draft.begins {
            Some(begins) => self.push(driver, stream, draft.waits, begins, what),
            None => draft.waits.into_iter().for_each(|mark| self.clock.give(mark)),
        }
    }

    /// Drops what is known of a launch that is not made, or is another one's.
    pub fn forget_draft(&mut self) {
        let draft = std::mem::take(&mut self.draft);
        draft.waits.into_iter().chain(draft.begins).for_each(|mark| self.clock.give(mark));
    }

    fn push(&mut self, driver: &Driver, stream: CUstream, waits: Option<CUevent>, begins: CUevent, what: What) {
        let item = self.attempt(|trace| {
            let ends = trace.clock.mark(driver, stream)?;
            Ok(Item { base: trace.clock.base(), stream, waits, begins, ends, what })
        });
        match item {
            Some(item) if self.pending.len() < MOST_PENDING => self.pending.push_back(item),
            Some(item) => {
                self.lost += 1;
                self.give_marks(&item);
            }
            None => {}
        }
    }

    fn give_marks(&mut self, item: &Item) {
        item.waits.into_iter().chain([item.begins, item.ends]).for_each(|mark| self.clock.give(mark));
    }

    /// Looks at what has been reached, and writes it.
    pub fn look(&mut self, driver: &Driver) {
        self.look_at(driver, MOST_AT_ONCE);
        sink::write_what_is_due();
    }

    /// The same, with all that has been reached, however long it takes.
    pub fn look_at_all(&mut self, driver: &Driver) {
        self.look_at(driver, usize::MAX);
    }

    /// Not in a capture: other threads' are kept from beginning by the engine's lock.
    fn look_at(&mut self, driver: &Driver, most: usize) {
        if self.captures.may_be_any_soon() {
            return;
        }
        self.attempt(|trace| trace.clock.advance(driver));
        for _ in 0..most {
            let Some(item) = self.pending.pop_front() else { return };
            let times = self.attempt(|_| times(driver, &item));
            match times {
                Some(Some((waits, begins, ends))) => {
                    self.is_open = self.bars.add(&item, waits, begins, ends);
                    self.give_marks(&item);
                }
                Some(None) => {
                    self.pending.push_front(item);
                    return;
                }
                None => return,
            }
        }
    }

    /// The end. With a driver, the context is alive and current, and what has been reached is looked at once more. What
    /// was measured, in words.
    pub fn finish(mut self, driver: Option<&Driver>, record: &DeviceRecord) -> Option<String> {
        if let Some(driver) = driver {
            self.look_at_all(driver);
        }
        let lost = self.lost + self.pending.len() as u64;
        sink::add_last(&self.bars.end(record, lost));
        self.bars.summary(lost)
    }
}

/// When an item's wait began, if it has one, and when it began and ended; `None` when that has not been reached.
fn times(driver: &Driver, item: &Item) -> Result<Option<(Option<f64>, f64, f64)>, Status> {
    let time = |mark| clock::time(driver, &item.base, mark);
    // What is in front of it in its stream has been reached with it.
    let Some(ends) = time(item.ends)? else { return Ok(None) };
    let Some(begins) = time(item.begins)? else { return Ok(None) };
    let waits = item.waits.map(time).transpose()?.flatten();
    Ok(Some((waits, begins, ends)))
}

fn name_of(tensors: &Registry, key: Key) -> String {
    tensors.within(key, 1).pop().map_or_else(|| format!("{key:#x}"), |(_, tensor)| tensor.name)
}
