//! The program builds and inspects graphs itself.

use crate::edge::{In, Out, driver};
use crate::errors::{Error, Result};
use crate::event::EVENTS;
use crate::graph::{GRAPHS, Graph, Node, node};
use crate::graph_nodes::{HostParameters, KernelParameters, KernelParametersV1, copy_work, fill_work};
use crate::memcpy_shaped::Copy3d;
use crate::memset::Fill;
use crate::work::{HostCall, Work};
use std::sync::Arc;

fn add(out: Out<usize>, graph: usize, after: In<usize>, count: usize, work: Work) -> Result {
    if out.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let graph = GRAPHS.get(graph)?;
    let after = after.list(count)?.iter().map(|before| graph.index_of(*before)).collect::<Result<_>>()?;
    let index = graph.add(work, after);
    out.put(graph.node_handle(index))
}

fn connect(graph: usize, from: In<usize>, to: In<usize>, count: usize, on: bool) -> Result {
    let graph = GRAPHS.get(graph)?;
    for (from, to) in from.list(count)?.into_iter().zip(to.list(count)?) {
        let (from, to) = (graph.index_of(from)?, graph.index_of(to)?);
        let mut nodes = graph.nodes();
        let after = &mut nodes[to].after;
        match (on, after.contains(&from)) {
            (true, false) => after.push(from),
            (false, true) => {
                after.retain(|before| *before != from);
                nodes[to].early.retain(|before| *before != from);
            }
            _ => return Err(Error::INVALID_VALUE),
        }
    }
    Ok(())
}

/// Answers "how many, and which": `out` may be null, then only the number is wanted.
fn list(out: Out<usize>, count: Out<usize>, handles: Vec<usize>) -> Result {
    if out.is_null() {
        return count.put(handles.len());
    }
    let room = count.get()?;
    out.fill(handles.iter().copied().chain(std::iter::repeat(0)).take(room.max(handles.len())), room);
    count.put(handles.len().min(room))
}

fn living(graph: &Graph, wanted: impl Fn(usize) -> bool) -> Vec<usize> {
    let nodes = graph.nodes();
    let chosen = nodes.iter().enumerate().filter(|(index, node)| node.alive && wanted(*index));
    chosen.map(|(_, node)| node.handle).collect()
}

/// `CUgraphEdgeData` of an edge over which a kernel lets the next one begin early: from the programmatic port, of the
/// programmatic type. All zeroes is an ordinary edge.
const PROGRAMMATIC_EDGE: u64 = 0x01_0001;

struct Edge {
    from: usize,
    to: usize,
    data: u64,
}

fn edges_of(graph: &Graph) -> Vec<Edge> {
    let nodes = graph.nodes();
    let edges_to = |node: &Node| -> Vec<Edge> {
        let data = |before: &usize| if node.early.contains(before) { PROGRAMMATIC_EDGE } else { 0 };
        let edge = |before: &usize| Edge { from: nodes[*before].handle, to: node.handle, data: data(before) };
        node.after.iter().map(edge).collect()
    };
    nodes.iter().filter(|node| node.alive).flat_map(edges_to).collect()
}

/// Answers a question about edges; who does not ask for their data is told only of ordinary ones.
fn show_edges(
    edges: &[Edge],
    from: Option<Out<usize>>,
    to: Option<Out<usize>>,
    data: Option<Out<u64>>,
    count: Out<usize>,
) -> Result {
    let data = data.filter(|data| !data.is_null());
    if data.is_none() && edges.iter().any(|edge| edge.data != 0) {
        return Err(Error::LOSSY_QUERY);
    }
    if from.into_iter().chain(to).any(Out::is_null) {
        return count.put(edges.len());
    }
    let room = count.get()?;
    // Places behind the last edge are filled too, as the driver does.
    fn place<T: Default>(out: Option<Out<T>>, values: impl Iterator<Item = T>, room: usize) {
        if let Some(out) = out {
            out.fill(values.chain(std::iter::repeat_with(T::default)), room);
        }
    }
    place(from, edges.iter().map(|edge| edge.from), room);
    place(to, edges.iter().map(|edge| edge.to), room);
    place(data, edges.iter().map(|edge| edge.data), room);
    count.put(edges.len().min(room))
}

fn edges(graph: usize, from: Out<usize>, to: Out<usize>, data: Option<Out<u64>>, count: Out<usize>) -> Result {
    show_edges(&edges_of(&*GRAPHS.get(graph)?), Some(from), Some(to), data, count)
}

fn dependencies(handle: usize, out: Out<usize>, data: Option<Out<u64>>, count: Out<usize>) -> Result {
    let mut edges = edges_of(&node(handle)?.0);
    edges.retain(|edge| edge.to == handle);
    show_edges(&edges, Some(out), None, data, count)
}

fn dependents(handle: usize, out: Out<usize>, data: Option<Out<u64>>, count: Out<usize>) -> Result {
    let mut edges = edges_of(&node(handle)?.0);
    edges.retain(|edge| edge.from == handle);
    show_edges(&edges, None, Some(out), data, count)
}

driver! {
    [init] "cuGraphCreate" 10000 cuGraphCreate(_call, out: Out<usize>, flags: u32) {
        if out.is_null() || flags != 0 { return Err(Error::INVALID_VALUE) }
        out.put(Graph::create().handle)
    }

    [init] "cuGraphDestroy" 10000 cuGraphDestroy(_call, graph: usize) {
        GRAPHS.remove(graph).map(drop)
    }

    [init] "cuGraphClone" 10000 cuGraphClone(_call, out: Out<usize>, graph: usize) {
        out.put(GRAPHS.get(graph)?.duplicate().handle)
    }

    [init] "cuGraphDebugDotPrint" 11030 cuGraphDebugDotPrint(_call, graph: usize, _path: In<u8>, _flags: u32) {
        GRAPHS.get(graph).map(drop)
    }

    [ctx] "cuGraphAddKernelNode" 10000 cuGraphAddKernelNode(
        _call, out: Out<usize>, graph: usize, after: In<usize>, count: usize, kernel: In<KernelParametersV1>,
    ) {
        add(out, graph, after, count, kernel.get()?.work()?)
    }

    [ctx] "cuGraphAddKernelNode" 12000 cuGraphAddKernelNode_v2(
        _call, out: Out<usize>, graph: usize, after: In<usize>, count: usize, kernel: In<KernelParameters>,
    ) {
        add(out, graph, after, count, kernel.get()?.work()?)
    }

    [ctx] "cuGraphAddMemcpyNode" 10000 cuGraphAddMemcpyNode(
        _call, out: Out<usize>, graph: usize, after: In<usize>, count: usize, copy: In<Copy3d>, _context: usize,
    ) {
        add(out, graph, after, count, copy_work(copy)?)
    }

    [ctx] "cuGraphAddMemsetNode" 10000 cuGraphAddMemsetNode(
        _call, out: Out<usize>, graph: usize, after: In<usize>, count: usize, fill: In<Fill>, _context: usize,
    ) {
        add(out, graph, after, count, fill_work(fill)?)
    }

    [ctx] "cuGraphAddHostNode" 10000 cuGraphAddHostNode(
        _call, out: Out<usize>, graph: usize, after: In<usize>, count: usize, host: In<HostParameters>,
    ) {
        let host = host.get()?;
        let function = host.function.ok_or(Error::INVALID_VALUE)?;
        add(out, graph, after, count, Work::Host(HostCall { function, data: host.data }))
    }

    [ctx] "cuGraphAddEmptyNode" 10000 cuGraphAddEmptyNode(
        _call, out: Out<usize>, graph: usize, after: In<usize>, count: usize,
    ) {
        add(out, graph, after, count, Work::Nothing)
    }

    [ctx] "cuGraphAddEventRecordNode" 11010 cuGraphAddEventRecordNode(
        _call, out: Out<usize>, graph: usize, after: In<usize>, count: usize, event: usize,
    ) {
        add(out, graph, after, count, Work::RecordNode(EVENTS.get(event)?))
    }

    [ctx] "cuGraphAddEventWaitNode" 11010 cuGraphAddEventWaitNode(
        _call, out: Out<usize>, graph: usize, after: In<usize>, count: usize, event: usize,
    ) {
        add(out, graph, after, count, Work::WaitNode(EVENTS.get(event)?))
    }

    [ctx] "cuGraphAddChildGraphNode" 10000 cuGraphAddChildGraphNode(
        _call, out: Out<usize>, graph: usize, after: In<usize>, count: usize, child: usize,
    ) {
        let child = crate::graph_exec::snapshot(&*GRAPHS.get(child)?);
        add(out, graph, after, count, Work::Graph(Arc::new(child)))
    }

    [init] "cuGraphAddDependencies" 10000 cuGraphAddDependencies(
        _call, graph: usize, from: In<usize>, to: In<usize>, count: usize,
    ) {
        connect(graph, from, to, count, true)
    }

    [init] "cuGraphAddDependencies" 12030 cuGraphAddDependencies_v2(
        _call, graph: usize, from: In<usize>, to: In<usize>, _edges: In<u8>, count: usize,
    ) {
        connect(graph, from, to, count, true)
    }

    [init] "cuGraphRemoveDependencies" 10000 cuGraphRemoveDependencies(
        _call, graph: usize, from: In<usize>, to: In<usize>, count: usize,
    ) {
        connect(graph, from, to, count, false)
    }

    [init] "cuGraphRemoveDependencies" 12030 cuGraphRemoveDependencies_v2(
        _call, graph: usize, from: In<usize>, to: In<usize>, _edges: In<u8>, count: usize,
    ) {
        connect(graph, from, to, count, false)
    }

    [init] "cuGraphGetNodes" 10000 cuGraphGetNodes(_call, graph: usize, out: Out<usize>, count: Out<usize>) {
        list(out, count, living(&*GRAPHS.get(graph)?, |_| true))
    }

    [init] "cuGraphGetRootNodes" 10000 cuGraphGetRootNodes(
        _call, graph: usize, out: Out<usize>, count: Out<usize>,
    ) {
        let graph = GRAPHS.get(graph)?;
        let roots: Vec<bool> = graph.nodes().iter().map(|node| node.after.is_empty()).collect();
        list(out, count, living(&graph, |index| roots[index]))
    }

    [init] "cuGraphGetEdges" 10000 cuGraphGetEdges(
        _call, graph: usize, from: Out<usize>, to: Out<usize>, count: Out<usize>,
    ) {
        edges(graph, from, to, None, count)
    }

    [init] "cuGraphGetEdges" 12030 cuGraphGetEdges_v2(
        _call, graph: usize, from: Out<usize>, to: Out<usize>, data: Out<u64>, count: Out<usize>,
    ) {
        edges(graph, from, to, Some(data), count)
    }

    [init] "cuGraphNodeGetDependencies" 10000 cuGraphNodeGetDependencies(
        _call, node: usize, out: Out<usize>, count: Out<usize>,
    ) {
        dependencies(node, out, None, count)
    }

    [init] "cuGraphNodeGetDependencies" 12030 cuGraphNodeGetDependencies_v2(
        _call, node: usize, out: Out<usize>, data: Out<u64>, count: Out<usize>,
    ) {
        dependencies(node, out, Some(data), count)
    }

    [init] "cuGraphNodeGetDependentNodes" 10000 cuGraphNodeGetDependentNodes(
        _call, node: usize, out: Out<usize>, count: Out<usize>,
    ) {
        dependents(node, out, None, count)
    }

    [init] "cuGraphNodeGetDependentNodes" 12030 cuGraphNodeGetDependentNodes_v2(
        _call, node: usize, out: Out<usize>, data: Out<u64>, count: Out<usize>,
    ) {
        dependents(node, out, Some(data), count)
    }

    [init] "cuGraphDestroyNode" 10000 cuGraphDestroyNode(_call, handle: usize) {
        let (graph, index) = node(handle)?;
        graph.destroy_node(index);
        Ok(())
    }

    [init] "cuGraphNodeGetType" 10000 cuGraphNodeGetType(_call, handle: usize, kind: Out<u32>) {
        let (graph, index) = node(handle)?;
        let node_type = graph.nodes()[index].work.node_type();
        kind.put(node_type)
    }
}
