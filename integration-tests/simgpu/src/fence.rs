//! Points in streams, to wait for.

use std::sync::Arc;
use std::time::Instant;

/// What runs operations in the order of their tickets.
pub trait Timeline: Send + Sync {
    /// Whether everything up to a ticket is done.
    fn has_reached(&self, ticket: u64) -> bool;

    /// Waits for everything up to a ticket; says when that was in modelled time, unless it is long ago.
    fn wait_for(&self, ticket: u64) -> Option<Instant>;
}

/// A point in a stream.
#[derive(Clone)]
pub struct Fence {
    timeline: Arc<dyn Timeline>,
    ticket: u64,
}

impl Fence {
    /// The point after an operation.
    pub fn new(timeline: Arc<dyn Timeline>, ticket: u64) -> Fence {
        Fence { timeline, ticket }
    }

    /// The point after several others, in as many streams.
    pub fn after_all(points: Vec<Fence>) -> Fence {
        Fence { timeline: Arc::new(All(points)), ticket: 0 }
    }

    /// Whether everything before the point is done.
    pub fn done(&self) -> bool {
        self.timeline.has_reached(self.ticket)
    }

    /// Waits for the point; says when that was in modelled time, unless it is long ago.
    pub fn wait(&self) -> Option<Instant> {
        self.timeline.wait_for(self.ticket)
    }
}

/// Several points: reached once all of them are.
struct All(Vec<Fence>);

impl Timeline for All {
    fn has_reached(&self, _ticket: u64) -> bool {
        self.0.iter().all(Fence::done)
    }

    fn wait_for(&self, _ticket: u64) -> Option<Instant> {
        self.0.iter().filter_map(Fence::wait).max()
    }
}
