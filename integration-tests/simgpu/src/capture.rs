//! Stream capture: recording a stream's operations as a graph, and the rules about what else may happen meanwhile.

use crate::context::Context;
use crate::edge::{Out, driver};
use crate::errors::{Error, Result};
use crate::graph::{GRAPHS, Graph};
use crate::stream::{Kind, Stream};
use crate::work::Work;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

const GLOBAL: u32 = 0;
const RELAXED: u32 = 2;

/// A capture in progress.
pub struct Capture {
    /// Its sequence number.
    pub id: u64,
    mode: u32,
    thread: i32,
    origin: u64,
    graph: Arc<Graph>,
    /// Whether the graph existed before (`cuStreamBeginCaptureToGraph`).
    into_existing: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    invalid: bool,
    ended: bool,
    /// By stream: the nodes its next operation depends on.
    leaves: HashMap<u64, Vec<usize>>,
    streams: Vec<Arc<Stream>>,
    /// Node handles and edge data handed out by `cuStreamGetCaptureInfo`, kept alive as long as the capture.
    shown: Vec<Box<[usize]>>,
}

static ACTIVE: Mutex<Vec<Arc<Capture>>> = Mutex::new(Vec::new());
static ACTIVE_COUNT: AtomicUsize = AtomicUsize::new(0);
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static MODE: Cell<u32> = const { Cell::new(GLOBAL) };
}

fn active() -> MutexGuard<'static, Vec<Arc<Capture>>> {
    ACTIVE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn thread() -> i32 {
    // SAFETY: gettid has no preconditions.
    unsafe { libc::gettid() }
}

/// Changes the calling thread's interaction mode and returns the one it had.
pub fn exchange_mode(wanted: u32) -> Result<u32> {
    if wanted > RELAXED {
        return Err(Error::INVALID_VALUE);
    }
    Ok(MODE.with(|mode| mode.replace(wanted)))
}

/// Refuses a call with effects outside a capture, as the thread's mode and the captures in progress demand.
/// The attempt spoils the captures it would have disturbed.
pub fn forbid_unsafe() -> Result {
    if ACTIVE_COUNT.load(Ordering::Acquire) == 0 {
        return Ok(());
    }
    let mode = MODE.try_with(Cell::get).unwrap_or(GLOBAL);
    if mode == RELAXED {
        return Ok(());
    }
    let me = thread();
    let disturbed = |capture: &&Arc<Capture>| {
        capture.thread == me && capture.mode != RELAXED || mode == GLOBAL && capture.mode == GLOBAL
    };
    let disturbed: Vec<_> = active().iter().filter(disturbed).cloned().collect();
    for capture in &disturbed {
        capture.invalidate();
    }
    if disturbed.is_empty() { Ok(()) } else { Err(Error::STREAM_CAPTURE_UNSUPPORTED) }
}

/// Refuses the use of a context's legacy stream while a blocking stream of it is capturing.
pub fn forbid_legacy(context: &Context) -> Result {
    if ACTIVE_COUNT.load(Ordering::Acquire) == 0 {
        return Ok(());
    }
    let mut implied = false;
    for stream in context.streams().iter().filter(|stream| stream.blocking()) {
        if let Some(capture) = stream.capture() {
            capture.invalidate();
            implied = true;
        }
    }
    if implied { Err(Error::STREAM_CAPTURE_IMPLICIT) } else { Ok(()) }
}

impl Capture {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Spoils the capture.
    pub fn invalidate(&self) {
        self.state().invalid = true;
    }

    /// Whether nothing spoiled it.
    pub fn valid(&self) -> Result {
        if self.state().invalid { Err(Error::STREAM_CAPTURE_INVALIDATED) } else { Ok(()) }
    }

    /// Whether it is over: an event of it then means nothing any more.
    pub fn ended(&self) -> bool {
        self.state().ended
    }

    /// The graph being recorded.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// What a stream's next operation depends on.
    pub fn leaves(&self, stream: &Stream) -> Result<Vec<usize>> {
        let state = self.state();
        if state.invalid {
            return Err(Error::STREAM_CAPTURE_INVALIDATED);
        }
        Ok(state.leaves.get(&stream.id).cloned().unwrap_or_default())
    }

    /// Records an operation of a stream.
    pub fn record(&self, stream: &Stream, work: Work) -> Result {
        let mut state = self.state();
        if state.invalid {
            return Err(Error::STREAM_CAPTURE_INVALIDATED);
        }
        let after = state.leaves.get(&stream.id).cloned().unwrap_or_default();
        let node = self.graph.add(work, after);
        state.leaves.insert(stream.id, vec![node]);
        Ok(())
    }

    /// Makes a stream's next operation depend on more nodes; a stream from outside joins the capture by that.
    pub fn join(self: &Arc<Capture>, stream: &Arc<Stream>, nodes: &[usize]) -> Result {
        let mut state = self.state();
        if state.invalid {
            return Err(Error::STREAM_CAPTURE_INVALIDATED);
        }
        if stream.kind == Kind::Legacy {
            state.invalid = true;
            return Err(Error::STREAM_CAPTURE_IMPLICIT);
        }
        if !state.streams.iter().any(|member| member.id == stream.id) {
            state.streams.push(stream.clone());
            stream.set_capture(Some(self.clone()));
        }
        let leaves = state.leaves.entry(stream.id).or_default();
        leaves.extend(nodes.iter().filter(|node| !leaves.contains(node)).copied().collect::<Vec<_>>());
        Ok(())
    }

    fn begin(stream: &Arc<Stream>, mode: u32, graph: Option<(Arc<Graph>, Vec<usize>)>) -> Result {
        if mode > RELAXED {
            return Err(Error::INVALID_VALUE);
        }
        if stream.kind == Kind::Legacy {
            return Err(Error::STREAM_CAPTURE_UNSUPPORTED);
        }
        if stream.capture().is_some() {
            return Err(Error::ILLEGAL_STATE);
        }
        let into_existing = graph.is_some();
        let (graph, leaves) = graph.unwrap_or_else(|| (Graph::create(), Vec::new()));
        let state =
            State { leaves: HashMap::from([(stream.id, leaves)]), streams: vec![stream.clone()], ..State::default() };
        let capture = Arc::new(Capture {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            mode,
            thread: thread(),
            origin: stream.id,
            graph,
            into_existing,
            state: Mutex::new(state),
        });
        stream.set_capture(Some(capture.clone()));
        active().push(capture);
        ACTIVE_COUNT.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn end(self: &Arc<Capture>, stream: &Stream) -> Result<Arc<Graph>> {
        if self.origin != stream.id {
            self.invalidate();
            return Err(Error::STREAM_CAPTURE_UNMATCHED);
        }
        if self.mode != RELAXED && self.thread != thread() {
            return Err(Error::STREAM_CAPTURE_WRONG_THREAD);
        }
        active().retain(|other| !Arc::ptr_eq(other, self));
        ACTIVE_COUNT.fetch_sub(1, Ordering::AcqRel);
        let mut state = self.state();
        state.ended = true;
        for member in state.streams.drain(..) {
            member.set_capture(None);
        }
        let joined = state.leaves.get(&self.origin).cloned().unwrap_or_default();
        let forked = state.leaves.values().flatten().copied();
        let verdict = if state.invalid {
            Err(Error::STREAM_CAPTURE_INVALIDATED)
        } else if !self.graph.all_before(forked, &joined) {
            Err(Error::STREAM_CAPTURE_UNJOINED)
        } else {
            Ok(self.graph.clone())
        };
        if verdict.is_err() && !self.into_existing {
            let _ = GRAPHS.remove(self.graph.handle);
        }
        verdict
    }
}

struct Info {
    status: u32,
    id: u64,
    graph: usize,
    nodes: *const usize,
    edges: *const u8,
    count: usize,
}

impl Info {
    fn of(status: u32, id: u64) -> Info {
        Info { status, id, graph: 0, nodes: std::ptr::null(), edges: std::ptr::null(), count: 0 }
    }
}

fn info(stream: &Arc<Stream>) -> Result<Info> {
    if stream.kind == Kind::Legacy {
        // Asking about the legacy stream is itself a use of it.
        forbid_legacy(&*stream.context()?)?;
    }
    let Some(capture) = stream.capture() else {
        return Ok(Info::of(0, 0));
    };
    let mut state = capture.state();
    if state.invalid {
        return Ok(Info::of(2, capture.id));
    }
    let leaves = state.leaves.get(&stream.id).cloned().unwrap_or_default();
    let handles: Box<[usize]> = leaves.iter().map(|node| capture.graph.node_handle(*node)).collect();
    // The edge of a programmatic launch is known when it is launched; until then every edge is an ordinary one.
    let plain_edges = vec![0usize; handles.len()].into_boxed_slice();
    let (nodes, edges, count) = (handles.as_ptr(), plain_edges.as_ptr().cast(), handles.len());
    state.shown.extend([handles, plain_edges]);
    Ok(Info { graph: capture.graph.handle, nodes, edges, count, ..Info::of(1, capture.id) })
}

fn update_dependencies(stream: &Arc<Stream>, nodes: Vec<usize>, flags: u32) -> Result {
    let capture = stream.capture().ok_or(Error::ILLEGAL_STATE)?;
    capture.valid()?;
    let nodes: Vec<usize> = nodes.iter().map(|node| capture.graph.index_of(*node)).collect::<Result<_>>()?;
    let mut state = capture.state();
    let leaves = state.leaves.entry(stream.id).or_default();
    match flags {
        0 => leaves.extend(nodes),
        1 => *leaves = nodes,
        _ => return Err(Error::INVALID_VALUE),
    }
    Ok(())
}

driver! {
    [ctx] "cuStreamBeginCapture" 10010 cuStreamBeginCapture_v2 | 10010 cuStreamBeginCapture_v2_ptsz(
        call, stream: usize, mode: u32,
    ) {
        Capture::begin(&call.stream(stream)?, mode, None)
    }

    [ctx] "cuStreamBeginCaptureToGraph" 12030 cuStreamBeginCaptureToGraph
        | 12030 cuStreamBeginCaptureToGraph_ptsz(
        call, stream: usize, graph: usize, after: crate::edge::In<usize>, _edges: crate::edge::In<u8>,
        count: usize, mode: u32,
    ) {
        let graph = GRAPHS.get(graph)?;
        let after = after.list(count)?.iter().map(|node| graph.index_of(*node)).collect::<Result<_>>()?;
        Capture::begin(&call.stream(stream)?, mode, Some((graph, after)))
    }

    [ctx] "cuStreamEndCapture" 10000 cuStreamEndCapture | 10000 cuStreamEndCapture_ptsz(
        call, stream: usize, graph: Out<usize>,
    ) {
        let stream = call.stream(stream)?;
        graph.opt(0);
        let capture = stream.capture().ok_or(Error::ILLEGAL_STATE)?;
        let ended = capture.end(&stream)?;
        graph.opt(ended.handle);
        Ok(())
    }

    [init] "cuStreamIsCapturing" 10000 cuStreamIsCapturing | 10000 cuStreamIsCapturing_ptsz(
        call, stream: usize, status: Out<u32>,
    ) {
        status.put(info(&call.stream(stream)?)?.status)
    }

    [init] "cuStreamGetCaptureInfo" 10010 cuStreamGetCaptureInfo | 10010 cuStreamGetCaptureInfo_ptsz(
        call, stream: usize, status: Out<u32>, id: Out<u64>,
    ) {
        let info = info(&call.stream(stream)?)?;
        id.opt(info.id);
        status.put(info.status)
    }

    [init] "cuStreamGetCaptureInfo" 11030 cuStreamGetCaptureInfo_v2 | 11030 cuStreamGetCaptureInfo_v2_ptsz(
        call, stream: usize, status: Out<u32>, id: Out<u64>, graph: Out<usize>, nodes: Out<*const usize>,
        count: Out<usize>,
    ) {
        let info = info(&call.stream(stream)?)?;
        id.opt(info.id);
        graph.opt(info.graph);
        nodes.opt(info.nodes);
        count.opt(info.count);
        status.put(info.status)
    }

    [init] "cuStreamGetCaptureInfo" 12030 cuStreamGetCaptureInfo_v3 | 12030 cuStreamGetCaptureInfo_v3_ptsz(
        call, stream: usize, status: Out<u32>, id: Out<u64>, graph: Out<usize>, nodes: Out<*const usize>,
        edges: Out<*const u8>, count: Out<usize>,
    ) {
        let info = info(&call.stream(stream)?)?;
        id.opt(info.id);
        graph.opt(info.graph);
        nodes.opt(info.nodes);
        edges.opt(info.edges);
        count.opt(info.count);
        status.put(info.status)
    }

    [ctx] "cuStreamUpdateCaptureDependencies" 11030 cuStreamUpdateCaptureDependencies
        | 11030 cuStreamUpdateCaptureDependencies_ptsz(
        call, stream: usize, nodes: crate::edge::In<usize>, count: usize, flags: u32,
    ) {
        update_dependencies(&call.stream(stream)?, nodes.list(count)?, flags)
    }

    [ctx] "cuStreamUpdateCaptureDependencies" 12030 cuStreamUpdateCaptureDependencies_v2
        | 12030 cuStreamUpdateCaptureDependencies_v2_ptsz(
        call, stream: usize, nodes: crate::edge::In<usize>, _edges: crate::edge::In<u8>, count: usize, flags: u32,
    ) {
        update_dependencies(&call.stream(stream)?, nodes.list(count)?, flags)
    }
}
