//! Events: points in streams, and the joints of a capture. What records them and waits for them is `event_calls`.

use crate::context::Context;
use crate::errors::{Error, Result};
use crate::fence::Fence;
use crate::handles::Handles;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Instant;

/// When a recorded point was reached.
#[derive(Default)]
pub struct Stamp(pub OnceLock<Instant>);

/// Where an event was recorded.
#[derive(Default)]
pub enum Recorded {
    /// Nowhere yet.
    #[default]
    Never,
    /// In a stream.
    At(Fence, Arc<Stamp>),
    /// In a capture, by its number, after these nodes.
    Captured(u64, Vec<usize>),
}

/// An event.
pub struct Event {
    /// Its `CUevent`.
    pub handle: usize,
    /// `CUevent_flags`
    pub flags: u32,
    context: Weak<Context>,
    recorded: Mutex<Recorded>,
}

/// The live events.
pub static EVENTS: Handles<Event> = Handles::new(3, Error::INVALID_HANDLE);

impl Event {
    /// Makes an event.
    pub fn create(context: &Arc<Context>, flags: u32) -> Arc<Event> {
        let context = Arc::downgrade(context);
        EVENTS.insert(|handle| Event { handle, flags, context, recorded: Mutex::default() })
    }

    /// Whether it was made in a context.
    pub fn is_of(&self, context: &Arc<Context>) -> bool {
        self.context.ptr_eq(&Arc::downgrade(context))
    }

    /// Where it was recorded last.
    pub fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// As its context, as long as that is there.
    pub fn healthy(&self) -> Result {
        self.context.upgrade().map_or(Ok(()), |context| context.healthy())
    }

    /// Points the event at the end of a graph launch that contains it as a record node.
    pub fn launched(&self, fence: Fence) {
        let stamp = Arc::new(Stamp::default());
        *self.recorded() = Recorded::At(fence, stamp);
    }

    /// Notes the time when a record node runs.
    pub fn stamp(&self, at: Instant) {
        if let Recorded::At(_, stamp) = &*self.recorded() {
            let _ = stamp.0.set(at);
        }
    }

    /// What a wait node waits for.
    pub fn fence(&self) -> Option<Fence> {
        match &*self.recorded() {
            Recorded::At(fence, _) => Some(fence.clone()),
            _ => None,
        }
    }
}
