//! Executable graphs: a snapshot of a graph, run as one operation of a stream.

use crate::capture::Member;
use crate::edge::{Out, driver};
use crate::errors::{Error, Result};
use crate::fence::Fence;
use crate::graph::{GRAPHS, Graph};
use crate::handles::Handles;
use crate::stream::{Kind, Stream, forbid_legacy};
use crate::work::{ExecNode, Work};
use std::sync::{Arc, Mutex, MutexGuard};

/// An executable graph.
pub struct GraphExec {
    /// Its `CUgraphExec`.
    pub handle: usize,
    flags: u64,
    nodes: Mutex<Arc<Vec<ExecNode>>>,
    last: Mutex<Option<Fence>>,
    /// Keeps the addresses of memory nodes reserved.
    _graph_nodes: Vec<Work>,
}

/// The live executable graphs.
pub static EXECS: Handles<GraphExec> = Handles::new(11, Error::INVALID_VALUE);

/// The living nodes of a graph, renumbered.
pub fn snapshot(graph: &Graph) -> Vec<ExecNode> {
    let nodes = graph.nodes();
    let mut position = vec![0; nodes.len()];
    let living = nodes.iter().enumerate().filter(|(_, node)| node.alive);
    for (new, (old, _)) in living.clone().enumerate() {
        position[old] = new;
    }
    living
        .map(|(_, node)| ExecNode {
            source: node.handle,
            work: node.work.clone(),
            after: node.after.iter().map(|before| position[*before]).collect(),
            early: node.early.iter().map(|before| position[*before]).collect(),
            enabled: true,
        })
        .collect()
}

impl GraphExec {
    /// The nodes, to run or to change.
    pub fn nodes(&self) -> MutexGuard<'_, Arc<Vec<ExecNode>>> {
        self.nodes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Changes the node made from a graph's node. Launches in flight keep what they have.
    pub fn change(&self, source: usize, change: impl FnOnce(&mut ExecNode) -> Result) -> Result {
        let mut nodes = self.nodes();
        let node = Arc::make_mut(&mut nodes).iter_mut().find(|node| node.source == source);
        change(node.ok_or(Error::INVALID_VALUE)?)
    }
}

fn instantiate(graph: usize, flags: u64) -> Result<Arc<GraphExec>> {
    if flags & !0xf != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let graph = GRAPHS.get(graph)?;
    let nodes = snapshot(&graph);
    let kept = nodes.iter().filter(|node| matches!(node.work, Work::GraphAlloc(_)));
    let kept = kept.map(|node| node.work.clone()).collect();
    Ok(EXECS.insert(|handle| GraphExec {
        handle,
        flags,
        nodes: Mutex::new(Arc::new(nodes)),
        last: Mutex::default(),
        _graph_nodes: kept,
    }))
}

/// `CUgraphExecUpdateResultInfo`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UpdateResult {
    result: u32,
    node: usize,
    from_node: usize,
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct InstantiateParameters {
    flags: u64,
    upload_stream: usize,
    error_node: usize,
    result: u32,
}

const _: () = assert!(size_of::<UpdateResult>() == size_of::<cudarc::driver::sys::CUgraphExecUpdateResultInfo>());
const _: () =
    assert!(size_of::<InstantiateParameters>() == size_of::<cudarc::driver::sys::CUDA_GRAPH_INSTANTIATE_PARAMS>());

const TOPOLOGY_CHANGED: u32 = 2;
const TYPE_CHANGED: u32 = 3;
const PARAMETERS_CHANGED: u32 = 5;

/// Takes over the parameters of a graph of the same shape; the verdict is `CUgraphExecUpdateResult` and the node.
fn update(exec: &GraphExec, graph: &Graph) -> (u32, usize) {
    let new = snapshot(graph);
    let mut nodes = exec.nodes();
    if new.len() != nodes.len() {
        return (TOPOLOGY_CHANGED, 0);
    }
    for (old, new) in nodes.iter().zip(&new) {
        if old.work.node_type() != new.work.node_type() {
            return (TYPE_CHANGED, new.source);
        }
        if old.after != new.after || old.early != new.early {
            return (TOPOLOGY_CHANGED, new.source);
        }
        match (&old.work, &new.work) {
            // Memory nodes fix addresses at instantiation.
            (Work::GraphAlloc(old), Work::GraphAlloc(new_memory)) if old.address != new_memory.address => {
                return (PARAMETERS_CHANGED, new.source);
            }
            (Work::Copy(old), Work::Copy(copy)) if !copy.may_replace(old) => {
                return (PARAMETERS_CHANGED, new.source);
            }
            (Work::GraphFree(old), Work::GraphFree(new_address)) if old != new_address => {
                return (PARAMETERS_CHANGED, new.source);
            }
            _ => {}
        }
    }
    let updated = nodes.iter().zip(new).map(|(old, new)| ExecNode { source: old.source, ..new });
    let updated = Arc::new(updated.collect());
    *nodes = updated;
    (0, 0)
}

fn launch(exec: &GraphExec, stream: &Arc<Stream>) -> Result {
    let nodes = exec.nodes().clone();
    for node in nodes.iter() {
        if let Work::GraphAlloc(memory) = &node.work {
            memory.back()?;
        }
    }
    let work = Work::Graph(nodes.clone());
    if stream.capture().is_some() {
        return stream.enqueue(work).map(drop);
    }
    if stream.kind == Kind::Legacy {
        forbid_legacy(&*stream.context()?)?;
    }
    // Launches of one executable graph never overlap.
    let mut last = exec.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let fence = stream.submit(work, last.take().into_iter().collect())?;
    for node in nodes.iter() {
        if let Work::RecordNode(event) = &node.work {
            event.launched(fence.clone());
        }
    }
    *last = Some(fence);
    Ok(())
}

driver! {
    [ctx] "cuGraphInstantiate" 10000 cuGraphInstantiate(
        _call, out: Out<usize>, graph: usize, _node: Out<usize>, _log: Out<u8>, _room: usize,
    ) {
        out.put(instantiate(graph, 0)?.handle)
    }

    [ctx] "cuGraphInstantiate" 11000 cuGraphInstantiate_v2(
        _call, out: Out<usize>, graph: usize, _node: Out<usize>, _log: Out<u8>, _room: usize,
    ) {
        out.put(instantiate(graph, 0)?.handle)
    }

    [ctx] "cuGraphInstantiateWithFlags" 11040 cuGraphInstantiateWithFlags(
        _call, out: Out<usize>, graph: usize, flags: u64,
    ) {
        out.put(instantiate(graph, flags)?.handle)
    }

    [ctx] "cuGraphInstantiateWithParams" 12000 cuGraphInstantiateWithParams
        | 12000 cuGraphInstantiateWithParams_ptsz(
        _call, out: Out<usize>, graph: usize, parameters: Out<InstantiateParameters>,
    ) {
        let wanted = parameters.get()?;
        let exec = instantiate(graph, wanted.flags)?;
        parameters.put(InstantiateParameters { error_node: 0, result: 0, ..wanted })?;
        out.put(exec.handle)
    }

    [ctx] "cuGraphLaunch" 10000 cuGraphLaunch | 10000 cuGraphLaunch_ptsz(call, exec: usize, stream: usize) {
        launch(&*EXECS.get(exec)?, &call.stream(stream)?)
    }

    [ctx] "cuGraphUpload" 11010 cuGraphUpload | 11010 cuGraphUpload_ptsz(call, exec: usize, stream: usize) {
        EXECS.get(exec)?;
        call.stream(stream).map(drop)
    }

    [init] "cuGraphExecDestroy" 10000 cuGraphExecDestroy(_call, exec: usize) {
        EXECS.remove(exec).map(drop)
    }

    [init] "cuGraphExecGetFlags" 12000 cuGraphExecGetFlags(_call, exec: usize, flags: Out<u64>) {
        flags.put(EXECS.get(exec)?.flags)
    }

    [ctx] "cuGraphExecUpdate" 10020 cuGraphExecUpdate(
        _call, exec: usize, graph: usize, node: Out<usize>, result: Out<u32>,
    ) {
        let (verdict, at) = update(&*EXECS.get(exec)?, &*GRAPHS.get(graph)?);
        node.opt(at);
        result.opt(verdict);
        if verdict == 0 { Ok(()) } else { Err(Error::GRAPH_EXEC_UPDATE_FAILURE) }
    }

    [ctx] "cuGraphExecUpdate" 12000 cuGraphExecUpdate_v2(
        _call, exec: usize, graph: usize, info: Out<UpdateResult>,
    ) {
        let (result, node) = update(&*EXECS.get(exec)?, &*GRAPHS.get(graph)?);
        info.opt(UpdateResult { result, node, from_node: 0 });
        if result == 0 { Ok(()) } else { Err(Error::GRAPH_EXEC_UPDATE_FAILURE) }
    }
}
