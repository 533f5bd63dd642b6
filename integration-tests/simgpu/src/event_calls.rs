//! The driver's functions on events: recording them, in a stream or a capture, and waiting for them.

use crate::capture::{self, Member};
use crate::context::{CONTEXTS, Context};
use crate::edge::{Call, Out, driver};
use crate::errors::{Error, Result};
use crate::event::{EVENTS, Event, Recorded, Stamp};
use crate::fence::Fence;
use crate::stream::{Kind, Stream, forbid_legacy, of};
use crate::work::Work;
use std::sync::Arc;

const DISABLE_TIMING: u32 = 2;
/// The wait (or record) becomes a node of the graph instead of an edge.
const EXTERNAL: u32 = 1;

fn record(event: &Arc<Event>, stream: &Arc<Stream>, flags: u32) -> Result {
    if flags & !EXTERNAL != 0 {
        return Err(Error::INVALID_VALUE);
    }
    if let Some(capture) = stream.capture() {
        if flags & EXTERNAL != 0 {
            return capture.record(stream.id, Work::RecordNode(event.clone()));
        }
        let leaves = capture.leaves(stream.id)?;
        *event.recorded() = Recorded::Captured(capture.id, leaves);
        return Ok(());
    }
    let stamp = Arc::new(Stamp::default());
    if let Some(fence) = stream.enqueue(Work::Stamp(stamp.clone()))? {
        *event.recorded() = Recorded::At(fence, stamp);
    }
    Ok(())
}

/// Records all that was submitted to a context; what comes later is not held up by it.
fn record_context(context: &Arc<Context>, event: &Arc<Event>) -> Result {
    if !event.is_of(context) {
        return Err(Error::INVALID_HANDLE);
    }
    let streams = of(context);
    for stream in &streams {
        if let Some(capture) = stream.capture() {
            capture.invalidate();
            return Err(Error::STREAM_CAPTURE_UNSUPPORTED);
        }
    }
    let fence = Fence::after_all(streams.iter().map(Stream::last).collect());
    *event.recorded() = Recorded::At(fence, Arc::new(Stamp::default()));
    Ok(())
}

/// Makes a stream wait for the event.
pub fn make_wait(event: &Arc<Event>, stream: &Arc<Stream>, flags: u32) -> Result {
    if flags & !EXTERNAL != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let capturing = stream.capture();
    if let (Some(capture), true) = (&capturing, flags & EXTERNAL != 0) {
        return capture.record(stream.id, Work::WaitNode(event.clone()));
    }
    let recorded = event.recorded();
    match (&*recorded, capturing) {
        (Recorded::Captured(id, leaves), own) => match (capture::find(*id), own) {
            // It has ended. So says a driver of version 580.
            (None, own) => {
                own.inspect(|own| own.invalidate());
                Err(Error::INVALID_VALUE)
            }
            (Some(capture), None) => capture.join(stream.clone(), leaves),
            (Some(_), Some(own)) if own.id == *id => own.join(stream.clone(), leaves),
            (Some(capture), Some(own)) => {
                own.invalidate();
                capture.invalidate();
                Err(Error::STREAM_CAPTURE_MERGE)
            }
        },
        (Recorded::Never, _) => Ok(()),
        (Recorded::At(..), Some(own)) => {
            own.invalidate();
            Err(Error::STREAM_CAPTURE_ISOLATION)
        }
        (Recorded::At(fence, _), None) => {
            let fence = fence.clone();
            drop(recorded);
            if stream.kind == Kind::Legacy {
                forbid_legacy(&*stream.context()?)?;
            }
            stream.submit(Work::Nothing, vec![fence]).map(drop)
        }
    }
}

fn state(event: &Event) -> Result<Option<(Fence, Arc<Stamp>)>> {
    match &*event.recorded() {
        Recorded::Never => Ok(None),
        Recorded::At(fence, stamp) => Ok(Some((fence.clone(), stamp.clone()))),
        // Once its capture has ended, it means nothing any more.
        Recorded::Captured(id, _) => {
            capture::find(*id).ok_or(Error::INVALID_VALUE)?.invalidate();
            Err(Error::CAPTURED_EVENT)
        }
    }
}

fn create(call: &Call, out: Out<usize>, flags: u32) -> Result {
    if out.is_null() || flags & !7 != 0 {
        return Err(Error::INVALID_VALUE);
    }
    out.put(Event::create(&call.context()?, flags).handle)
}

fn elapsed(out: Out<f32>, start: usize, end: usize) -> Result {
    let (start, end) = (EVENTS.get(start)?, EVENTS.get(end)?);
    if (start.flags | end.flags) & DISABLE_TIMING != 0 {
        return Err(Error::INVALID_HANDLE);
    }
    let (Some((_, start)), Some((_, end))) = (state(&start)?, state(&end)?) else {
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
        record(&EVENTS.get(event)?, &call.stream(stream)?, 0)
    }

    [init] "cuCtxRecordEvent" 12050 cuCtxRecordEvent(_call, context: usize, event: usize) {
        record_context(&CONTEXTS.get(context)?, &EVENTS.get(event)?)
    }

    [ctx] "cuEventRecordWithFlags" 11010 cuEventRecordWithFlags | 11010 cuEventRecordWithFlags_ptsz(
        call, event: usize, stream: usize, flags: u32,
    ) {
        record(&EVENTS.get(event)?, &call.stream(stream)?, flags)
    }

    [quiet] "cuEventQuery" 2000 cuEventQuery(_call, event: usize) {
        let event = EVENTS.get(event)?;
        let Some((fence, _)) = state(&event)? else { return Ok(()) };
        if fence.done() { event.healthy() } else { Err(Error::NOT_READY) }
    }

    [quiet] "cuEventSynchronize" 2000 cuEventSynchronize(_call, event: usize) {
        let event = EVENTS.get(event)?;
        if let Some((fence, _)) = state(&event)? {
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
