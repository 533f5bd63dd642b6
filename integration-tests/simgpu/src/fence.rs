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

    /// Whether everything before the point is done.
    pub fn done(&self) -> bool {
        self.timeline.has_reached(self.ticket)
    }

    /// Waits for the point; says when that was in modelled time, unless it is long ago.
    pub fn wait(&self) -> Option<Instant> {
        self.timeline.wait_for(self.ticket)
    }
}
