//! Events: points in streams, and the joints of a capture.

use crate::capture::Capture;
use crate::context::Context;
use crate::edge::{Call, Out, driver};
use crate::errors::{Error, Result};
use crate::handles::Handles;
use crate::stream::{Fence, Stream};
use crate::work::Work;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Instant;

const DISABLE_TIMING: u32 = 2;
/// The wait (or record) becomes a node of the graph instead of an edge.
const EXTERNAL: u32 = 1;

/// When a recorded point was reached.
#[derive(Default)]
pub struct Stamp(pub OnceLock<Instant>);

#[derive(Default)]
enum Recorded {
    #[default]
    Never,
    At(Fence, Arc<Stamp>),
    Captured(Arc<Capture>, Vec<usize>),
}

/// An event.
pub struct Event {
    /// Its `CUevent`.
    pub handle: usize,
    flags: u32,
    context: Weak<Context>,
    recorded: Mutex<Recorded>,
}

/// The live events.
pub static EVENTS: Handles<Event> = Handles::new(3, Error::INVALID_HANDLE);

impl Event {
    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn healthy(&self) -> Result {
        self.context.upgrade().map_or(Ok(()), |context| context.healthy())
    }

    /// Points the event behind a graph launch that contains it as a record node.
    pub fn launched(&self, fence: Fence) {
        let stamp = Arc::new(Stamp::default());
        *self.recorded() = Recorded::At(fence, stamp);
    }

    /// Notes the time when a record node runs.
    pub fn stamp(&self, at: Instant) {
        if let Recorded::At(_, stamp) = &*self.recorded() {
            let _ = stamp.0.set(at);
        }
    }

    /// What a wait node waits for.
    pub fn fence(&self) -> Option<Fence> {
        match &*self.recorded() {
            Recorded::At(fence, _) => Some(fence.clone()),
            _ => None,
        }
    }

    fn record(self: &Arc<Event>, stream: &Arc<Stream>, flags: u32) -> Result {
        if flags & !EXTERNAL != 0 {
            return Err(Error::INVALID_VALUE);
        }
        if let Some(capture) = stream.capture() {
            if flags & EXTERNAL != 0 {
                return capture.record(stream, Work::RecordNode(self.clone()));
            }
            let leaves = capture.leaves(stream)?;
            *self.recorded() = Recorded::Captured(capture, leaves);
            return Ok(());
        }
        let stamp = Arc::new(Stamp::default());
        if let Some(fence) = stream.enqueue(Work::Stamp(stamp.clone()))? {
            *self.recorded() = Recorded::At(fence, stamp);
        }
        Ok(())
    }

    /// Makes a stream wait for the event.
    pub fn make_wait(self: &Arc<Event>, stream: &Arc<Stream>, flags: u32) -> Result {
        if flags & !EXTERNAL != 0 {
            return Err(Error::INVALID_VALUE);
        }
        let capturing = stream.capture();
        if let (Some(capture), true) = (&capturing, flags & EXTERNAL != 0) {
            return capture.record(stream, Work::WaitNode(self.clone()));
        }
        let recorded = self.recorded();
        match (&*recorded, capturing) {
            // So says a driver of version 580.
            (Recorded::Captured(capture, _), own) if capture.ended() => {
                own.inspect(|own| own.invalidate());
                Err(Error::INVALID_VALUE)
            }
            (Recorded::Captured(capture, leaves), None) => capture.join(stream, leaves),
            (Recorded::Captured(capture, leaves), Some(own)) => {
                if Arc::ptr_eq(capture, &own) {
                    own.join(stream, leaves)
                } else {
                    own.invalidate();
                    capture.invalidate();
                    Err(Error::STREAM_CAPTURE_MERGE)
                }
            }
            (Recorded::Never, _) => Ok(()),
            (Recorded::At(..), Some(own)) => {
                own.invalidate();
                Err(Error::STREAM_CAPTURE_ISOLATION)
            }
            (Recorded::At(fence, _), None) => {
                let fence = fence.clone();
                drop(recorded);
                if stream.kind == crate::stream::Kind::Legacy {
                    crate::capture::forbid_legacy(&*stream.context()?)?;
                }
                stream.submit(Work::Nothing, vec![fence]).map(drop)
            }
        }
    }

    fn state(&self) -> Result<Option<(Fence, Arc<Stamp>)>> {
        match &*self.recorded() {
            Recorded::Never => Ok(None),
            Recorded::At(fence, stamp) => Ok(Some((fence.clone(), stamp.clone()))),
            Recorded::Captured(capture, _) if capture.ended() => Err(Error::INVALID_VALUE),
            Recorded::Captured(capture, _) => {
                capture.invalidate();
                Err(Error::CAPTURED_EVENT)
            }
        }
    }
}

fn create(call: &Call, out: Out<usize>, flags: u32) -> Result {
    if out.is_null() || flags & !7 != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let context = Arc::downgrade(&call.context()?);
    let event = EVENTS.insert(|handle| Event { handle, flags, context, recorded: Mutex::default() });
    out.put(event.handle)
}

fn elapsed(out: Out<f32>, start: usize, end: usize) -> Result {
    let (start, end) = (EVENTS.get(start)?, EVENTS.get(end)?);
    if (start.flags | end.flags) & DISABLE_TIMING != 0 {
        return Err(Error::INVALID_HANDLE);
    }
    let (Some((_, start)), Some((_, end))) = (start.state()?, end.state()?) else {
        return Err(Error::INVALID_HANDLE);
    };
    match (start.0.get(), end.0.get()) {
        (Some(start), Some(end)) => out.put(end.saturating_duration_since(*start).as_secs_f32() * 1e3),
        _ => Err(Error::NOT_READY),
    }
}

driver! {
    [ctx] "cuEventCreate" 2000 cuEventCreate(call, out: Out<usize>, flags: u32) {
        create(call, out, flags)
    }

    [ctx] "cuEventRecord" 2000 cuEventRecord | 7000 cuEventRecord_ptsz(call, event: usize, stream: usize) {
        EVENTS.get(event)?.record(&call.stream(stream)?, 0)
    }

    [ctx] "cuEventRecordWithFlags" 11010 cuEventRecordWithFlags | 11010 cuEventRecordWithFlags_ptsz(
        call, event: usize, stream: usize, flags: u32,
    ) {
        EVENTS.get(event)?.record(&call.stream(stream)?, flags)
    }

    [quiet] "cuEventQuery" 2000 cuEventQuery(_call, event: usize) {
        let event = EVENTS.get(event)?;
        let Some((fence, _)) = event.state()? else { return Ok(()) };
        if fence.done() { event.healthy() } else { Err(Error::NOT_READY) }
    }

    [quiet] "cuEventSynchronize" 2000 cuEventSynchronize(_call, event: usize) {
        let event = EVENTS.get(event)?;
        if let Some((fence, _)) = event.state()? {
            fence.wait();
        }
        event.healthy()
    }

    [ctx] "cuEventElapsedTime" 2000 cuEventElapsedTime(_call, out: Out<f32>, start: usize, end: usize) {
        elapsed(out, start, end)
    }

    [ctx] "cuEventElapsedTime" 12080 cuEventElapsedTime_v2(_call, out: Out<f32>, start: usize, end: usize) {
        elapsed(out, start, end)
    }

    [init] "cuEventDestroy" 4000 cuEventDestroy_v2(_call, event: usize) {
        EVENTS.remove(event).map(drop)
    }
}
