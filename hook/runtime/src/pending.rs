//! Frees that are ordered by a stream: the memory goes when the stream has come that far, or is the stream's next allocation's
//! before that.

use greenboost_cuda::abi::{CUcontext, CUdevice, CUstream};
use greenboost_memory::allocation::{Allocation, Chunk};
use greenboost_memory::streams::StreamOrder;
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A free that waits.
pub struct Pending {
    /// What is freed.
    pub allocation: Allocation,
    /// After the last use; none when that could not be recorded, and the whole device must be waited for.
    pub event: Option<usize>,
    /// What uses the memory next in this order comes after the last use.
    pub order: Option<StreamOrder>,
}

/// All of them.
#[derive(Default)]
pub struct PendingFrees {
    frees: Mutex<Vec<Pending>>,
    /// Threads that have taken some out and are waiting for them.
    pub waiting: AtomicUsize,
}

/// What is released of the frees that are pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Those that nothing has to be waited for.
    Now,
    /// Those, and the first of a device: it is waited for so long.
    Of(CUdevice, Duration),
    /// Those, and all of a context that is about to end.
    In(CUcontext),
}

impl Due {
    /// Whether one is waited for.
    pub fn waits_for(self, allocation: &Allocation) -> bool {
        match self {
            Self::Now => false,
            Self::Of(only, _) => only == allocation.device,
            Self::In(context) => context == allocation.context,
        }
    }
}

impl PendingFrees {
    /// Those that nobody has taken out.
    pub fn lock(&self) -> MutexGuard<'_, Vec<Pending>> {
        self.frees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out one that was freed in an order, for whoever comes next in it.
    pub fn take(&self, order: StreamOrder, fits: impl Fn(&Allocation) -> bool) -> Option<Pending> {
        let mut frees = self.lock();
        let at = frees.iter().position(|free| free.order == Some(order) && fits(&free.allocation))?;
        Some(frees.swap_remove(at))
    }

    /// A chunk of at most `bytes` in VRAM of a device that was freed in an order, for whoever comes next in it.
    pub fn reuse(&self, device: CUdevice, order: StreamOrder, bytes: u64) -> Option<Chunk> {
        let mut frees = self.lock();
        let fits = |free: &&mut Pending| free.allocation.device == device && free.order == Some(order);
        frees.iter_mut().filter(fits).find_map(|free| free.allocation.give_away(bytes))
    }

    /// A stream is about to be destroyed: the next of its name has another order.
    pub fn stream_gone(&self, stream: CUstream) {
        for free in self.lock().iter_mut().filter(|free| free.order.is_some_and(|order| order.is_of(stream))) {
            free.order = None;
        }
    }
}
