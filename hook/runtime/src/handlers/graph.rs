//! Graphs that change and end: what they copy into slots is no figure of theirs any more.

use crate::stream::graphs;
use greenboost_cuda::abi::*;
use greenboost_intercept::guard::Handled;
use std::ffi::c_void;

type Update = unsafe extern "C" fn(CUgraphExec, CUgraph, *mut c_void) -> Status;
type UpdateV1 = unsafe extern "C" fn(CUgraphExec, CUgraph, *mut c_void, *mut c_void) -> Status;

/// `cuGraphExecUpdate_v2`.
pub unsafe fn update(original: Update, exec: CUgraphExec, graph: CUgraph, result: *mut c_void) -> Handled {
    // SAFETY: the program's own call.
    Ok(updated(exec, graph, unsafe { original(exec, graph, result) }))
}

/// `cuGraphExecUpdate` of CUDA 11.
pub unsafe fn update_v1(
    original: UpdateV1,
    exec: CUgraphExec,
    graph: CUgraph,
    node: *mut c_void,
    result: *mut c_void,
) -> Handled {
    // SAFETY: the program's own call.
    Ok(updated(exec, graph, unsafe { original(exec, graph, node, result) }))
}

/// A graph that could not be updated is as it was.
fn updated(exec: CUgraphExec, graph: CUgraph, status: Status) -> Status {
    if status == SUCCESS {
        graphs::instantiated(exec, graph);
    }
    status
}

/// `cuGraphDestroy`. Forgotten first: another thread may be given the same handle right after.
pub unsafe fn destroy(original: unsafe extern "C" fn(CUgraph) -> Status, graph: CUgraph) -> Handled {
    graphs::graph_gone(graph);
    // SAFETY: the program's own call.
    Ok(unsafe { original(graph) })
}

/// `cuGraphExecDestroy`.
pub unsafe fn destroy_exec(original: unsafe extern "C" fn(CUgraphExec) -> Status, exec: CUgraphExec) -> Handled {
    graphs::exec_gone(exec);
    // SAFETY: the program's own call.
    Ok(unsafe { original(exec) })
}
