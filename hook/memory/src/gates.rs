//! The gates of all devices, and whose work can use whose memory.

use crate::gate::Gate;
use crate::submitted::Waiters;
use greenboost_contract::record::MAX_DEVICES;
use greenboost_cuda::abi::{CUcontext, CUdevice};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The gates of all devices, and who reaches whose memory.
pub struct Gates {
    gates: [Gate; MAX_DEVICES],
    /// Of each device, the others that reach its memory, a bit each: by peer access, or by copies that were seen. None is taken
    /// back.
    reached_by: [AtomicU32; MAX_DEVICES],
    /// Contexts that the program made itself, with their devices; the primary ones can be asked for.
    made: Mutex<Vec<(CUdevice, usize)>>,
    pub(crate) waiters: Waiters,
}

const _: () = assert!(MAX_DEVICES <= 32);

impl Default for Gates {
    fn default() -> Self {
        Self {
            gates: [const { Gate::new() }; MAX_DEVICES],
            reached_by: [const { AtomicU32::new(0) }; MAX_DEVICES],
            made: Mutex::default(),
            waiters: Waiters::default(),
        }
    }
}

/// A device beyond those that are known has no memory of ours, and shares the last one's gate.
fn index(device: CUdevice) -> usize {
    usize::try_from(device).map_or(MAX_DEVICES - 1, |at| at.min(MAX_DEVICES - 1))
}

impl Gates {
    pub(crate) fn gate(&self, device: CUdevice) -> &Gate {
        &self.gates[index(device)]
    }

    /// Devices that reach a device's memory, itself first.
    pub(crate) fn reaching(&self, device: CUdevice) -> impl Iterator<Item = CUdevice> {
        let mask = self.reached_by[index(device)].load(SeqCst);
        let others = (0..MAX_DEVICES as CUdevice).filter(move |other| *other != device && mask & 1 << other != 0);
        std::iter::once(device).chain(others)
    }

    pub(crate) fn made(&self) -> MutexGuard<'_, Vec<(CUdevice, usize)>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on work of a device may use the memory of another.
    pub(crate) fn reaches(&self, device: CUdevice, other: CUdevice) {
        self.reached_by[index(other)].fetch_or(1 << index(device), SeqCst);
    }

    /// The program has made a context.
    pub fn context_made(&self, device: CUdevice, context: CUcontext) {
        self.made().push((device, context as usize));
    }

    /// A context is gone.
    pub fn context_gone(&self, context: CUcontext) {
        self.made().retain(|(_, known)| *known != context as usize);
    }
}
