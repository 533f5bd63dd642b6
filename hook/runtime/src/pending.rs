//! Frees that are ordered by a stream: the memory goes when the stream has come that far, or is the stream's next allocation's
//! before that.

use greenboost_contract::record::MAX_DEVICES;
use greenboost_cuda::abi::{CUcontext, CUdevice, CUdeviceptr, CUstream};
use greenboost_memory::allocation::{Allocation, Chunk};
use greenboost_memory::streams::StreamOrder;
use greenboost_memory::submitted::Submitted;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A free that waits.
pub struct Pending {
    /// What is freed.
    pub allocation: Allocation,
    /// After the last use; none when that could not be recorded, and the whole device must be waited for.
    pub event: Option<usize>,
    /// What is waited for of the whole device, once it was marked.
    pub marks: Option<Submitted>,
    /// What uses the memory next in this order comes after the last use.
    pub order: Option<StreamOrder>,
}

/// All of them.
#[derive(Default)]
pub struct PendingFrees {
    frees: Mutex<Vec<Pending>>,
    /// By device, threads that have taken some out, and look at them or release them. What is made of registered memory waits
    /// for its device there.
    releasing: [AtomicUsize; MAX_DEVICES],
}

/// What is released of the frees that are pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Those of a device that nothing has to be waited for.
    Now(CUdevice),
    /// Those, and the first of a device: it is waited for so long.
    Of(CUdevice, Duration),
    /// Those, and all of a context that is about to end.
    In(CUcontext),
}

impl Due {
    /// Whether one is waited for.
    pub fn waits_for(self, allocation: &Allocation) -> bool {
        match self {
            Self::Now(_) => false,
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

    /// Takes out those of a device, to look at them, and to say so with [`PendingFrees::are_released`]. `None`: there are none.
    pub fn take_of(&self, device: CUdevice) -> Option<Vec<Pending>> {
        let mut frees = self.lock();
        let taken: Vec<_> = frees.extract_if(.., |free| free.allocation.device == device).collect();
        if taken.is_empty() {
            return None;
        }
        self.releasing(device).fetch_add(1, SeqCst);
        Some(taken)
    }

    /// What was taken out is released, or here again.
    pub fn are_released(&self, device: CUdevice) {
        self.releasing(device).fetch_sub(1, SeqCst);
    }

    /// Whether a thread has taken some of a device out.
    pub fn is_being_released(&self, device: CUdevice) -> bool {
        self.releasing(device).load(SeqCst) > 0
    }

    fn releasing(&self, device: CUdevice) -> &AtomicUsize {
        &self.releasing[usize::try_from(device).map_or(0, |device| device.min(MAX_DEVICES - 1))]
    }

    /// Whether a free may still be to come: it is here, or with a thread that looks at it right now.
    pub fn may_have(&self, device: CUdevice, base: CUdeviceptr) -> bool {
        let frees = self.lock();
        self.is_being_released(device) || frees.iter().any(|free| free.allocation.base == base)
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
