//! Where stream captures begin and end.

use crate::memory::gate::GATE;
use crate::memory::{self, captures};
use crate::stream as streaming;
use greenboost_cuda::abi::*;
use greenboost_intercept::guard::Handled;
use std::ffi::{c_uint, c_void};

type Begin = unsafe extern "C" fn(CUstream, c_uint) -> Status;
type BeginToGraph = unsafe extern "C" fn(CUstream, CUgraph, *const c_void, *const c_void, usize, c_uint) -> Status;
type End = unsafe extern "C" fn(CUstream, *mut CUgraph) -> Status;
type Destroy = unsafe extern "C" fn(CUstream) -> Status;

/// Begins inside the gate: a mover that has closed it may be waiting for the device. Weights are streamed in it only if it
/// makes a graph that `is_its_own`.
fn begin_with(stream: CUstream, is_its_own: bool, issue: impl Fn() -> Status) -> Handled {
    let memory = memory::get()?;
    let _inside = GATE.enter();
    let beginning = streaming::capture_begins(memory);
    let status = issue();
    if status == SUCCESS {
        captures::begun(stream);
        if is_its_own {
            beginning.begun(memory, stream);
        }
    }
    Ok(status)
}

/// `cuStreamBeginCapture`.
pub unsafe fn begin(original: Begin, stream: CUstream, mode: c_uint) -> Handled {
    // SAFETY: the program's own call.
    begin_with(stream, true, || unsafe { original(stream, mode) })
}

/// `cuStreamBeginCaptureToGraph`. What is in the graph already, or comes into it by another capture, may use slots at the
/// same time.
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
    let memory = memory::get()?;
    let before = captures::is_capturing(memory.driver, stream);
    let ending = streaming::capture_ends(memory, stream);
    // SAFETY: the program's own call.
    let status = unsafe { original(stream, graph) };
    let goes_on = || captures::is_capturing(memory.driver, stream) == Some(true);
    if status == SUCCESS || before != Some(false) && !goes_on() {
        captures::ended(stream);
        if let Some(id) = ending {
            streaming::capture_over(memory, id, status == SUCCESS);
        }
    }
    Ok(status)
}

/// `cuStreamDestroy`. Forgotten first: another thread may be given the same handle right after.
pub unsafe fn destroy(original: Destroy, stream: CUstream) -> Handled {
    captures::ended(stream);
    if let Ok(memory) = memory::get() {
        streaming::stream_gone(memory, stream);
    }
    // SAFETY: the program's own call.
    Ok(unsafe { original(stream) })
}
