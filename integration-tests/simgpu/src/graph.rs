//! Graphs: operations with dependencies, as captures and the program's own calls build them.

use crate::errors::{Error, Result};
use crate::handles::Handles;
use crate::work::Work;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// A graph.
pub struct Graph {
    /// Its `CUgraph`.
    pub handle: usize,
    nodes: Mutex<Vec<Node>>,
    /// Work that nodes had before it was replaced: queries handed out pointers into it.
    replaced: Mutex<Vec<Work>>,
}

/// A node.
#[derive(Clone)]
pub struct Node {
    /// Its `CUgraphNode`.
    pub handle: usize,
    /// What it does.
    pub work: Work,
    /// The nodes before it, by index.
    pub after: Vec<usize>,
    /// Those of them it need not wait for before it begins: the edge of a programmatic launch to the kernel in front.
    pub early: Vec<usize>,
    /// Whether it still exists.
    pub alive: bool,
}

/// Where a node handle leads.
pub struct NodeRef {
    handle: usize,
    graph: Weak<Graph>,
    index: usize,
}

/// The live graphs.
pub static GRAPHS: Handles<Graph> = Handles::new(9, Error::INVALID_VALUE);
static NODES: Handles<NodeRef> = Handles::new(10, Error::INVALID_VALUE);

impl Graph {
    /// An empty graph.
    pub fn create() -> Arc<Graph> {
        GRAPHS.insert(|handle| Graph { handle, nodes: Mutex::default(), replaced: Mutex::default() })
    }

    /// The nodes, also those that were destroyed.
    pub fn nodes(&self) -> MutexGuard<'_, Vec<Node>> {
        self.nodes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds a node and returns its index.
    pub fn add(self: &Arc<Graph>, work: Work, after: Vec<usize>) -> usize {
        let mut nodes = self.nodes();
        let index = nodes.len();
        let node = NODES.insert(|handle| NodeRef { handle, graph: Arc::downgrade(self), index });
        let kernel = |before: &usize| matches!(nodes[*before].work, Work::Kernel(_));
        let early = if work.programmatic() { after.iter().copied().filter(kernel).collect() } else { Vec::new() };
        nodes.push(Node { handle: node.handle, work, after, early, alive: true });
        index
    }

    /// The handle of a node.
    pub fn node_handle(&self, index: usize) -> usize {
        self.nodes()[index].handle
    }

    /// The index of a node of this graph.
    pub fn index_of(&self, handle: usize) -> Result<usize> {
        let node = NODES.get(handle)?;
        let ours = node.graph.upgrade().is_some_and(|graph| std::ptr::eq(&*graph, self));
        if ours { Ok(node.index) } else { Err(Error::INVALID_VALUE) }
    }

    /// Whether every one of `nodes` is one of `last` or comes before one of them.
    pub fn all_before(&self, nodes: impl Iterator<Item = usize>, last: &[usize]) -> bool {
        let all = self.nodes();
        let mut before = vec![false; all.len()];
        let mut open = last.to_vec();
        while let Some(index) = open.pop() {
            if !std::mem::replace(&mut before[index], true) {
                open.extend(&all[index].after);
            }
        }
        nodes.into_iter().all(|index| before[index])
    }

    /// Replaces what a node does.
    pub fn set_work(&self, index: usize, work: Work) {
        let old = std::mem::replace(&mut self.nodes()[index].work, work);
        self.replaced.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(old);
    }

    /// Takes a node out of the graph.
    pub fn destroy_node(&self, index: usize) {
        let mut nodes = self.nodes();
        nodes[index].alive = false;
        let _ = NODES.remove(nodes[index].handle);
        for node in nodes.iter_mut() {
            node.after.retain(|before| *before != index);
            node.early.retain(|before| *before != index);
        }
    }

    /// An independent copy.
    pub fn duplicate(&self) -> Arc<Graph> {
        let copy = Graph::create();
        for node in self.nodes().clone() {
            let index = copy.add(node.work, node.after);
            copy.nodes()[index].early = node.early;
            if !node.alive {
                copy.destroy_node(index);
            }
        }
        copy
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        for node in self.nodes().iter() {
            let _ = NODES.remove(node.handle);
        }
    }
}

/// The graph and the index a node handle leads to.
pub fn node(handle: usize) -> Result<(Arc<Graph>, usize)> {
    let node = NODES.get(handle)?;
    Ok((node.graph.upgrade().ok_or(Error::INVALID_VALUE)?, node.index))
}
