//! What a stream does: every operation as data, so that it can run now, later, or many times as a node of a graph.

use crate::clock::modelled;
use crate::copy::Plan;
use crate::errors::Result;
use crate::event::{Event, Stamp};
use crate::gpu::{Gpu, Turn, ValueWait};
use crate::launch::Launch;
use crate::memset::Fill;
use crate::pool::{self, GraphMemory};
use crate::random::Random;
use crate::replay::{self, Step};
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

/// `CUhostFn`
pub type HostFunction = Option<unsafe extern "C" fn(*mut c_void)>;

/// A host function with its argument.
#[derive(Clone, Copy)]
pub struct HostCall {
    /// The program's function.
    pub function: unsafe extern "C" fn(*mut c_void),
    /// Its argument.
    pub data: usize,
}

/// One operation.
#[derive(Clone)]
pub enum Work {
    /// An empty node, or a pure wait.
    Nothing,
    /// A kernel.
    Kernel(Arc<Launch>),
    /// A copy.
    Copy(Arc<Plan>),
    /// A memset.
    Fill(Fill),
    /// `cuLaunchHostFunc`
    Host(HostCall),
    /// `cuStreamAddCallback`
    Callback {
        /// The program's function.
        callback: unsafe extern "C" fn(usize, u32, *mut c_void),
        /// The handle it is told.
        stream: usize,
        /// Its argument.
        data: usize,
    },
    /// An event was recorded here.
    Stamp(Arc<Stamp>),
    /// An event record node of a graph.
    RecordNode(Arc<Event>),
    /// An event wait node of a graph.
    WaitNode(Arc<Event>),
    /// Frees memory in stream order.
    Free(u64),
    /// A memory node of a graph.
    GraphAlloc(Arc<GraphMemory>),
    /// Its counterpart.
    GraphFree(u64),
    /// `cuStreamWriteValue`
    WriteValue {
        /// Where.
        address: u64,
        /// What.
        value: u64,
        /// 8 bytes instead of 4.
        wide: bool,
    },
    /// `cuStreamWaitValue`
    WaitValue {
        /// Where.
        address: u64,
        /// Compared with what.
        value: u64,
        /// And how.
        wait: ValueWait,
        /// 8 bytes instead of 4.
        wide: bool,
    },
    /// A whole graph.
    Graph(Arc<Vec<ExecNode>>),
}

/// A node of an executable graph.
#[derive(Clone)]
pub struct ExecNode {
    /// The `CUgraphNode` it was made from.
    pub source: usize,
    /// What it does.
    pub work: Work,
    /// The nodes before it, by index into the snapshot.
    pub after: Vec<usize>,
    /// Those of them that need only have begun.
    pub early: Vec<usize>,
    /// A disabled node keeps its place and does nothing.
    pub enabled: bool,
}

impl Step for ExecNode {
    fn after(&self) -> &[usize] {
        &self.after
    }

    fn early(&self) -> &[usize] {
        &self.early
    }

    fn run(&self, turn: &Turn, random: &mut Random) -> Result {
        if self.enabled { self.work.run(turn, random) } else { Ok(()) }
    }
}

thread_local! {
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread runs a host function of a stream: those must not call the driver.
pub fn in_callback() -> bool {
    IN_CALLBACK.try_with(Cell::get).unwrap_or(false)
}

fn calling_back(call: impl FnOnce()) {
    IN_CALLBACK.with(|flag| flag.set(true));
    call();
    IN_CALLBACK.with(|flag| flag.set(false));
}

impl Work {
    /// Whether it is a kernel that may begin before the kernel in front of it has ended.
    pub fn programmatic(&self) -> bool {
        matches!(self, Work::Kernel(launch) if launch.programmatic)
    }

    /// Does it. An error poisons the context. A kernel that began early waits for the `dependencies` where its code
    /// says so.
    pub fn run(&self, turn: &Turn, random: &mut Random) -> Result {
        let Turn { context, clock, .. } = *turn;
        let done = match self {
            Work::Nothing => Ok(()),
            Work::Kernel(launch) => launch.run(turn),
            Work::Copy(plan) => plan.run(context, clock),
            Work::Fill(fill) => fill.run(context, clock),
            Work::Host(host) => {
                // SAFETY: the program handed over this function and this argument for exactly this call.
                calling_back(|| unsafe { (host.function)(host.data as *mut c_void) });
                Ok(())
            }
            Work::Callback { callback, stream, data } => {
                // SAFETY: as above.
                calling_back(|| unsafe { callback(*stream, 0, *data as *mut c_void) });
                Ok(())
            }
            Work::Stamp(stamp) => {
                let _ = stamp.0.set(clock.now());
                Ok(())
            }
            Work::RecordNode(event) => {
                event.stamp(clock.now());
                Ok(())
            }
            Work::WaitNode(event) => {
                if let Some(ended) = event.fence().and_then(|fence| fence.wait()) {
                    clock.not_before(ended);
                }
                Ok(())
            }
            Work::Free(address) => pool::free_now(*address),
            Work::GraphAlloc(memory) => {
                memory.appear();
                Ok(())
            }
            Work::GraphFree(address) => pool::disappear(*address),
            Work::WriteValue { address, value, wide } => {
                Gpu::copies(context, clock).write_value(*address, *value, *wide)
            }
            Work::WaitValue { address, value, wait, wide } => {
                let gpu = Gpu::copies(context, clock);
                while context.healthy().is_ok() && !gpu.value_holds(*address, *value, *wait, *wide)? {
                    std::thread::sleep(Duration::from_micros(20));
                }
                Ok(())
            }
            Work::Graph(nodes) => replay::run(nodes, turn, random),
        };
        // The time of the program's own functions, and of memory others write, is the world's.
        let real = matches!(self, Work::Host(_) | Work::Callback { .. } | Work::WaitValue { .. });
        if real || !modelled() && !matches!(self, Work::Stamp(_)) {
            clock.catch_up();
        }
        done
    }

    /// The `CUgraphNodeType` it is as a node.
    pub fn node_type(&self) -> u32 {
        match self {
            Work::Kernel(_) => 0,
            Work::Copy(_) => 1,
            Work::Fill(_) => 2,
            Work::Host(_) | Work::Callback { .. } => 3,
            Work::Graph(_) => 4,
            Work::Nothing | Work::Stamp(_) => 5,
            Work::WaitNode(_) => 6,
            Work::RecordNode(_) => 7,
            Work::GraphAlloc(_) => 10,
            Work::GraphFree(_) | Work::Free(_) => 11,
            Work::WriteValue { .. } | Work::WaitValue { .. } => 12,
        }
    }
}
