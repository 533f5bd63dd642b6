//! Frees that are ordered by a stream: the memory goes when the stream has come that far.

use greenboost_cuda::abi::CUdevice;
use greenboost_memory::allocation::Allocation;
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A free that waits.
pub struct Pending {
    /// What is freed.
    pub allocation: Allocation,
    /// After the last use; none when that could not be recorded, and the whole device must be waited for.
    pub event: Option<usize>,
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
    /// Those, and all of a device: they are waited for.
    Of(CUdevice),
    /// All of them.
    All,
}

impl Due {
    /// Whether those of a device are waited for.
    pub fn waits_for(self, device: CUdevice) -> bool {
        match self {
            Self::Now => false,
            Self::Of(only) => only == device,
            Self::All => true,
        }
    }
}

impl PendingFrees {
    /// Those that nobody has taken out.
    pub fn lock(&self) -> MutexGuard<'_, Vec<Pending>> {
        self.frees.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
