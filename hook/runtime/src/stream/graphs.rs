//! How much a graph copies into slots at each of its launches: the capture that made it says so, and instantiating and
//! updating pass it on. For the figures alone: nothing that has to be right depends on it.

use greenboost_cuda::abi::{CUgraph, CUgraphExec};
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// Bytes by handle; of graphs that copy nothing, none.
#[derive(Debug, Default)]
struct Known {
    graphs: HashMap<usize, u64>,
    execs: HashMap<usize, u64>,
}

static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

fn known() -> MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Known {
    fn instantiated(&mut self, exec: usize, graph: usize) {
        note(&mut self.execs, exec, self.graphs.get(&graph).copied().unwrap_or(0));
    }
}

/// Notes a figure for a handle, which may have been another's before.
fn note(figures: &mut HashMap<usize, u64>, handle: usize, bytes: u64) {
    if bytes > 0 {
        figures.insert(handle, bytes);
    } else {
        figures.remove(&handle);
    }
}

/// A capture has made a graph that copies so much.
pub fn captured(graph: CUgraph, bytes: u64) {
    note(&mut known().graphs, graph as usize, bytes);
}

/// An executable graph is as a graph is now: made from it, or updated.
pub fn instantiated(exec: CUgraphExec, graph: CUgraph) {
    if super::is_on() {
        known().instantiated(exec as usize, graph as usize);
    }
}

/// A graph is no more.
pub fn graph_gone(graph: CUgraph) {
    if super::is_on() {
        known().graphs.remove(&(graph as usize));
    }
}

/// An executable graph is no more.
pub fn exec_gone(exec: CUgraphExec) {
    if super::is_on() {
        known().execs.remove(&(exec as usize));
    }
}

/// Bytes that a launch of an executable graph copies.
pub fn copied_by(exec: CUgraphExec) -> u64 {
    known().execs.get(&(exec as usize)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executable_graph_copies_what_its_graph_did_when_it_was_made_or_updated() {
        let mut known = Known::default();
        note(&mut known.graphs, 1, 100);
        known.instantiated(7, 1);
        note(&mut known.graphs, 1, 0);
        assert_eq!(known.execs.get(&7), Some(&100), "the graph has gone, and its handle is another's");
        note(&mut known.graphs, 2, 40);
        known.instantiated(7, 2);
        assert_eq!(known.execs.get(&7), Some(&40));
        known.instantiated(7, 3);
        assert!(known.execs.is_empty(), "one that copies nothing took its place");
    }
}
