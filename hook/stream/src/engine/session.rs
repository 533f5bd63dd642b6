//! An engine in use by one launch.

use super::{Engine, capture_of};
use crate::Streaming;
use crate::copies::Means;
use crate::copy_queue::CopyQueue;
use crate::index::{Index, Weight};
use crate::ring::Key;
use crate::trace::Trace;
use greenboost_contract::record::DeviceRecord;
use greenboost_cuda::abi::{CUcontext, CUdevice, CUdeviceptr, CUstream, Status, has_name};
use greenboost_cuda::event as events;
use greenboost_intercept::failpoint::{self, Fault};
use greenboost_intercept::guard as border;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard};

/// An engine in use by one launch: the lock is held from the look-up until after the launch, because between the two
/// another thread could give the staging slot away, and its event would be recorded before our kernel.
pub struct Session<'a> {
    guard: MutexGuard<'a, Option<Engine>>,
    streaming: &'a Streaming,
    record: &'a DeviceRecord,
    device: CUdevice,
    stream: CUstream,
    capture: Option<u64>,
    keys: Vec<Key>,
    /// Those of the keys that say nothing of what comes next: a launch that reads in place found them in the ring.
    found: Vec<Key>,
    at_once: bool,
    /// Whether the stream is of another context, which only graphs are launched on.
    is_elsewhere: bool,
}

impl<'a> Session<'a> {
    /// Begins with the engine of `device`, if a launch on `stream` can use it.
    pub fn begin(streaming: &'a Streaming, device: CUdevice, stream: CUstream, may_capture: bool) -> Option<Self> {
        let mut guard = streaming.engines.lock(device)?;
        let engine = guard.as_mut()?;
        if !engine.own_streams.contains(&stream) {
            if streaming.memory.context_of(stream).ok()? != engine.context {
                return None;
            }
            if has_name(stream) {
                engine.own_streams.push(stream);
            }
        }
        Self::with(streaming, guard, device, stream, may_capture, false)
    }

    /// Begins with the engine of `device`, if a graph that is launched on `stream` of a context may use it: whatever device
    /// the stream is of, since nobody says of which the graph is.
    pub fn begin_graph(
        streaming: &'a Streaming,
        device: CUdevice,
        stream: CUstream,
        of: CUcontext,
        may_capture: bool,
    ) -> Option<Self> {
        let guard = streaming.engines.lock(device)?;
        let is_elsewhere = guard.as_ref()?.context != of;
        Self::with(streaming, guard, device, stream, may_capture, is_elsewhere).filter(Self::may_be_in_graph)
    }

    fn with(
        streaming: &'a Streaming,
        mut guard: MutexGuard<'a, Option<Engine>>,
        device: CUdevice,
        stream: CUstream,
        may_capture: bool,
        is_elsewhere: bool,
    ) -> Option<Self> {
        let memory = streaming.memory;
        let engine = guard.as_mut()?;
        engine.doubt_copies(memory, device);
        if engine.has_failed {
            return None;
        }
        let capture = if may_capture {
            match capture_of(memory.driver, stream) {
                None => None,
                Some(id) => {
                    let is_ours = |id: &u64| engine.captures.get(id).is_some_and(|capturing| !capturing.has_failed);
                    Some(id.filter(is_ours)?)
                }
            }
        } else {
            None
        };
        let record = memory.device(device).ok()?.record;
        // A stream may join a capture without our seeing it, and then nothing can be recorded on it for the others.
        let at_once = may_capture && capture.is_none() || !has_name(stream);
        engine.trace.iter_mut().for_each(Trace::forget_draft);
        let (keys, found) = (Vec::new(), Vec::new());
        Some(Self { guard, streaming, record, device, stream, capture, keys, found, at_once, is_elsewhere })
    }

    fn work<T>(
        &mut self,
        work: impl FnOnce(&mut CopyQueue, &mut Means<'_>, CUstream, &[Key]) -> Result<T, Status>,
    ) -> Option<T> {
        let engine = self.guard.as_mut()?;
        let queue = match self.capture {
            None => &mut engine.direct,
            Some(id) => {
                let capturing = engine.captures.get_mut(&id)?;
                &mut capturing.queue
            }
        };
        let mut means = Means {
            memory: self.streaming.memory,
            driver: self.streaming.memory.driver,
            record: self.record,
            base: engine.slots.base(),
            events: &mut engine.events,
            experts: Some(&self.streaming.experts).filter(|_| self.capture.is_none() && !self.is_elsewhere),
            // What is recorded in a capture has no time, and times of two contexts have nothing to do with each other.
            trace: engine.trace.as_mut().filter(|_| self.capture.is_none() && !self.is_elsewhere),
        };
        let done = work(queue, &mut means, self.stream, &self.keys);
        done.inspect_err(|status| match self.capture.and_then(|id| engine.captures.get_mut(&id)) {
            // It is invalid, most likely, and makes no graph; what was captured in it is the program's.
            Some(capturing) => capturing.has_failed = true,
            None => {
                log::error!("streaming ends: the driver refused with {status}; weights are read in place");
                engine.has_failed = true;
            }
        })
        .ok()
    }

    /// The copy stream of a capture becomes part of it with the first copy.
    fn join_capture(&mut self) -> Option<()> {
        let Some(id) = self.capture else { return Some(()) };
        let engine = self.guard.as_mut()?;
        let capturing = engine.captures.get_mut(&id)?;
        engine.is_in_graphs = true;
        if !capturing.has_joined {
            events::wait(self.streaming.memory.driver, capturing.queue.copy_stream(), capturing.root).ok()?;
            capturing.has_joined = true;
        }
        Some(())
    }

    /// The address of a weight's copy for this launch; `None`: it is read in place, as is a weight of another device than
    /// the first one's, whose writes this engine does not hear of.
    pub fn slot(&mut self, weight: &Weight) -> Option<CUdeviceptr> {
        if weight.device != self.device {
            return None;
        }
        self.join_capture()?;
        let slot = self.work(|queue, means, stream, busy| queue.slot(means, weight, stream, busy))??;
        if !self.keys.contains(&weight.at) {
            self.keys.push(weight.at);
        }
        Some(slot)
    }

    /// The address of a copy that is there already, for a launch that would have none made. So the ring's VRAM serves
    /// weights while nothing is streamed: experts, in a long answer.
    pub fn slot_left(&mut self, weight: &Weight) -> Option<CUdeviceptr> {
        if weight.device != self.device || self.capture.is_some() {
            return None;
        }
        let slot = self.work(|queue, means, stream, _| queue.slot_left(means, weight.at, stream))??;
        if !self.keys.contains(&weight.at) {
            self.keys.push(weight.at);
            self.found.push(weight.at);
        }
        Some(slot)
    }

    /// The launch is about to be issued. False when its parameters must be the program's own.
    pub fn before_launch(&mut self) -> bool {
        let moved_on = self.work(|queue, means, stream, keys| {
            queue.move_on(means, stream, keys)?;
            means.trace(|trace, driver| trace.begins(driver, stream));
            Ok(())
        });
        moved_on.is_some()
    }

    /// The launch of `kernel` has been issued.
    pub fn after_launch(&mut self, index: &Index, kernel: &Arc<str>) {
        let (at_once, in_capture) = (self.at_once, self.capture.is_some());
        let found = std::mem::take(&mut self.found);
        self.work(|queue, means, stream, keys| {
            means.trace(|trace, driver| trace.launched(driver, stream, kernel));
            let is_new = queue.launched(means, stream, keys, &found, at_once)?;
            // In a graph nothing needs to be guessed: a copy waits for its slot alone, not for the launch before it.
            if is_new && !in_capture {
                queue.copy_ahead(means, index, stream)?;
            }
            means.trace(Trace::look);
            Ok(())
        });
    }

    /// Whether a graph can use staging slots, or write what copies were made of: only a capture puts either there, and
    /// after a panic of ours nobody knows. Where none can, what was copied ahead for others stays.
    fn may_be_in_graph(&self) -> bool {
        let has_slots = self.guard.as_ref().is_some_and(|engine| engine.is_in_graphs);
        has_slots || self.streaming.graphs_write.load(Relaxed) || border::failures() > 0
    }

    /// A graph is about to be launched on the stream: whatever staging slots it uses are its own.
    pub fn before_graph(&mut self) {
        if self.join_capture().is_some() && !failpoint::is(Fault::NoHandOver) {
            self.work(|queue, means, stream, _| {
                means.trace(|trace, driver| trace.waits(driver, stream));
                queue.hand_over(means, stream)?;
                means.trace(|trace, driver| trace.begins(driver, stream));
                Ok(())
            });
        }
    }

    /// The graph has been launched.
    pub fn after_graph(&mut self) {
        let is_elsewhere = self.is_elsewhere;
        self.work(|queue, means, stream, _| {
            if is_elsewhere {
                return queue.take_back_from_elsewhere(means, stream);
            }
            means.trace(|trace, driver| {
                trace.launched_graph(driver, stream);
                trace.look(driver);
            });
            queue.take_back(means, stream)
        });
    }
}
