//! Where stream captures begin and end.

use crate::runtime::{RUNTIME, core};
use greenboost_cuda::abi::*;
use greenboost_intercept::guard::Handled;
use greenboost_memory::captures::is_capturing;
use std::ffi::{c_uint, c_void};

type Begin = unsafe extern "C" fn(CUstream, c_uint) -> Status;
type BeginToGraph = unsafe extern "C" fn(CUstream, CUgraph, *const c_void, *const c_void, usize, c_uint) -> Status;
type End = unsafe extern "C" fn(CUstream, *mut CUgraph) -> Status;
type Destroy = unsafe extern "C" fn(CUstream) -> Status;

/// Begins inside the gate: a mover that has closed it may be waiting for the device. Weights are streamed in it only if it
/// makes a graph that `is_its_own`.
fn begin_with(stream: CUstream, is_its_own: bool, issue: impl Fn() -> Status) -> Handled {
    let core = core()?;
    let memory = core.memory;
    let _inside = memory.enter(Some(stream));
    let beginning = core.streaming.capture_begins();
    let status = issue();
    if status == SUCCESS {
        memory.captures.begun(stream);
        if is_its_own {
            beginning.begun(stream);
        }
    }
    Ok(status)
}

/// `cuStreamBeginCapture`.
pub unsafe fn begin(original: Begin, stream: CUstream, mode: c_uint) -> Handled {
    // SAFETY: the program's own call.
    begin_with(stream, true, || unsafe { original(stream, mode) })
}

/// `cuStreamBeginCaptureToGraph`. What is in the graph already, or comes into it by another capture, may use staging slots
/// at the same time.
pub unsafe fn begin_to_graph(
    original: BeginToGraph,
    stream: CUstream,
    graph: CUgraph,
    dependencies: *const c_void,
    edges: *const c_void,
    count: usize,
    mode: c_uint,
) -> Handled {
    // SAFETY: the program's own call.
    begin_with(stream, false, || unsafe { original(stream, graph, dependencies, edges, count, mode) })
}

/// `cuStreamEndCapture`. A refusal can mean anything: that an invalid capture is over all the same, that a capture goes
/// on because this is the wrong thread for its end, that the stream had none.
pub unsafe fn end(original: End, stream: CUstream, graph: *mut CUgraph) -> Handled {
    let core = core()?;
    let memory = core.memory;
    let before = is_capturing(memory.driver, stream);
    let ending = core.streaming.capture_ends(stream);
    // SAFETY: the program's own call.
    let status = unsafe { original(stream, graph) };
    let goes_on = || is_capturing(memory.driver, stream) == Some(true);
    if status == SUCCESS || before != Some(false) && !goes_on() {
        RUNTIME.captures.ended(stream);
        if let Some(id) = ending {
            core.streaming.capture_over(id, status == SUCCESS);
        }
    }
    Ok(status)
}

/// `cuStreamDestroy`. Forgotten first: another thread may be given the same handle right after.
pub unsafe fn destroy(original: Destroy, stream: CUstream) -> Handled {
    let Ok(core) = core() else {
        RUNTIME.captures.ended(stream);
        // SAFETY: the program's own call.
        return Ok(unsafe { original(stream) });
    };
    let (captures, driver) = (core.memory.captures, core.memory.driver);
    // A capture that it began has no end any more.
    let unended = core.streaming.begun_on(stream);
    captures.ended(stream);
    core.pending.stream_gone(stream);
    core.streaming.stream_gone(stream);
    // SAFETY: the program's own call.
    let status = unsafe { original(stream) };
    if status == SUCCESS {
        unended.into_iter().for_each(|id| core.streaming.capture_over(id, false));
    } else if is_capturing(driver, stream) == Some(true) {
        // It is refused while it captures, and there still.
        captures.begun(stream);
    }
    Ok(status)
}
