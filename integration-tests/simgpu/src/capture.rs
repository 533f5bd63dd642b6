//! Stream capture: recording a stream's operations as a graph, and the rules about what else may happen meanwhile.

use crate::errors::{Error, Result};
use crate::graph::{GRAPHS, Graph};
use crate::work::Work;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

const GLOBAL: u32 = 0;
const RELAXED: u32 = 2;

/// A stream as a capture sees it.
pub trait Member: Send + Sync {
    /// Its number.
    fn id(&self) -> u64;

    /// Whether it is a legacy default stream, which cannot be captured.
    fn is_legacy(&self) -> bool;

    /// The capture it takes part in.
    fn capture(&self) -> Option<Arc<Capture>>;

    /// Enters or leaves a capture.
    fn set_capture(&self, capture: Option<Arc<Capture>>);
}

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
    /// By stream: the nodes its next operation depends on.
    leaves: HashMap<u64, Vec<usize>>,
    streams: Vec<Arc<dyn Member>>,
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

/// Whether any stream is capturing.
pub fn any() -> bool {
    ACTIVE_COUNT.load(Ordering::Acquire) != 0
}

/// A capture that has not ended.
pub fn find(id: u64) -> Option<Arc<Capture>> {
    active().iter().find(|capture| capture.id == id).cloned()
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

    /// The graph being recorded.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// What a stream's next operation depends on.
    pub fn leaves(&self, stream: u64) -> Result<Vec<usize>> {
        let state = self.state();
        if state.invalid {
            return Err(Error::STREAM_CAPTURE_INVALIDATED);
        }
        Ok(state.leaves.get(&stream).cloned().unwrap_or_default())
    }

    /// Records an operation of a stream.
    pub fn record(&self, stream: u64, work: Work) -> Result {
        let mut state = self.state();
        if state.invalid {
            return Err(Error::STREAM_CAPTURE_INVALIDATED);
        }
        let after = state.leaves.get(&stream).cloned().unwrap_or_default();
        let node = self.graph.add(work, after);
        state.leaves.insert(stream, vec![node]);
        Ok(())
    }

    /// Makes a stream's next operation depend on more nodes; a stream from outside joins the capture by that.
    pub fn join(self: &Arc<Capture>, stream: Arc<dyn Member>, nodes: &[usize]) -> Result {
        let mut state = self.state();
        if state.invalid {
            return Err(Error::STREAM_CAPTURE_INVALIDATED);
        }
        if stream.is_legacy() {
            state.invalid = true;
            return Err(Error::STREAM_CAPTURE_IMPLICIT);
        }
        if !state.streams.iter().any(|member| member.id() == stream.id()) {
            state.streams.push(stream.clone());
            stream.set_capture(Some(self.clone()));
        }
        let leaves = state.leaves.entry(stream.id()).or_default();
        leaves.extend(nodes.iter().filter(|node| !leaves.contains(node)).copied().collect::<Vec<_>>());
        Ok(())
    }

    /// What it is like for a stream.
    pub fn info(&self, stream: u64) -> Info {
        let mut state = self.state();
        if state.invalid {
            return Info::of(2, self.id);
        }
        let leaves = state.leaves.get(&stream).cloned().unwrap_or_default();
        let handles: Box<[usize]> = leaves.iter().map(|node| self.graph.node_handle(*node)).collect();
        // The edge of a programmatic launch is known when it is launched; until then every edge is an ordinary one.
        let plain_edges = vec![0usize; handles.len()].into_boxed_slice();
        let (nodes, edges, count) = (handles.as_ptr(), plain_edges.as_ptr().cast(), handles.len());
        state.shown.extend([handles, plain_edges]);
        Info { graph: self.graph.handle, nodes, edges, count, ..Info::of(1, self.id) }
    }

    /// Changes what a stream's next operation depends on, as `CUstreamUpdateCaptureDependencies_flags` say.
    pub fn update_dependencies(&self, stream: u64, nodes: &[usize], flags: u32) -> Result {
        self.valid()?;
        let nodes: Vec<usize> = nodes.iter().map(|node| self.graph.index_of(*node)).collect::<Result<_>>()?;
        let mut state = self.state();
        let leaves = state.leaves.entry(stream).or_default();
        match flags {
            0 => leaves.extend(nodes),
            1 => *leaves = nodes,
            _ => return Err(Error::INVALID_VALUE),
        }
        Ok(())
    }

    /// Begins the capture of a stream, into a new graph or after nodes of one.
    pub fn begin(stream: Arc<dyn Member>, mode: u32, graph: Option<(Arc<Graph>, Vec<usize>)>) -> Result {
        if mode > RELAXED {
            return Err(Error::INVALID_VALUE);
        }
        if stream.is_legacy() {
            return Err(Error::STREAM_CAPTURE_UNSUPPORTED);
        }
        if stream.capture().is_some() {
            return Err(Error::ILLEGAL_STATE);
        }
        let into_existing = graph.is_some();
        let (graph, leaves) = graph.unwrap_or_else(|| (Graph::create(), Vec::new()));
        let state =
            State { leaves: HashMap::from([(stream.id(), leaves)]), streams: vec![stream.clone()], ..State::default() };
        let capture = Arc::new(Capture {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            mode,
            thread: thread(),
            origin: stream.id(),
            graph,
            into_existing,
            state: Mutex::new(state),
        });
        stream.set_capture(Some(capture.clone()));
        active().push(capture);
        ACTIVE_COUNT.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Ends the capture, which only the stream that it began in can.
    pub fn end(self: &Arc<Capture>, stream: u64) -> Result<Arc<Graph>> {
        if self.origin != stream {
            self.invalidate();
            return Err(Error::STREAM_CAPTURE_UNMATCHED);
        }
        if self.mode != RELAXED && self.thread != thread() {
            return Err(Error::STREAM_CAPTURE_WRONG_THREAD);
        }
        active().retain(|other| !Arc::ptr_eq(other, self));
        ACTIVE_COUNT.fetch_sub(1, Ordering::AcqRel);
        let mut state = self.state();
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

/// What `cuStreamGetCaptureInfo` says.
pub struct Info {
    /// `CUstreamCaptureStatus`
    pub status: u32,
    /// The capture's sequence number.
    pub id: u64,
    /// Its graph.
    pub graph: usize,
    /// The nodes that the next operation depends on.
    pub nodes: *const usize,
    /// The data of the edges to them.
    pub edges: *const u8,
    /// How many there are.
    pub count: usize,
}

impl Info {
    /// Without a graph.
    pub fn of(status: u32, id: u64) -> Info {
        Info { status, id, graph: 0, nodes: std::ptr::null(), edges: std::ptr::null(), count: 0 }
    }
}
