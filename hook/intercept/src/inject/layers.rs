//! Which layers are on, and what they keep track of.

use super::still::Changes;
use std::cell::UnsafeCell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// A call came through a patched body of the loader.
pub const CODE: u32 = 1;
/// A call came through a patched GOT entry.
pub const GOT: u32 = 2;
/// A call came to our export.
pub const EXPORT: u32 = 4;
/// All bodies are to be patched.
pub const BODIES: u32 = 8;

/// The state of the layers. Atomics are each right by themselves, and read in every call of the loader; the rest says what
/// protects it.
#[derive(Debug)]
pub struct State {
    /// The layers whose calls are ours to answer, a bit each. Written by `install`.
    pub(super) on: AtomicU32,
    /// Ways by which the self-test's question arrived.
    pub(super) probed: AtomicU32,
    /// The loader's counters at the last complete look, as one word.
    pub(super) seen: AtomicU64,
    /// A `dlopen` was let through whose end is not seen.
    pub(super) later: AtomicBool,
    /// Calls of the loader that are under way: their constructors may ask while we have not looked yet.
    pub(super) under_way: AtomicUsize,
    /// The sections of `called` functions that the GOT layer looks for, a bit each. What is set stays.
    pub(super) wanted: AtomicU32,
    /// GOT entries replaced.
    pub(super) patched: AtomicUsize,
    /// GOT entries that could not be written.
    pub(super) refused: AtomicUsize,
    /// What the GOT layer is done with.
    pub(super) done: WhileStill<Done>,
    /// What each function began with that the engine has replaced, also in libraries that are gone. Locked by the engine.
    #[cfg(feature = "frida")]
    pub(super) replaced: Mutex<Vec<(usize, [u8; 16])>>,
    /// It was said that a library of the driver stays as it is.
    pub(super) told: AtomicBool,
    /// Addresses of the functions patched in each library of the driver as it is loaded now. Locked while the loader stands
    /// still, and nowhere else.
    pub(super) bodies: [Mutex<Vec<usize>>; 2],
}

/// The state.
pub(super) static LAYERS: State = State {
    on: AtomicU32::new(0),
    probed: AtomicU32::new(0),
    seen: AtomicU64::new(u64::MAX),
    later: AtomicBool::new(false),
    under_way: AtomicUsize::new(0),
    wanted: AtomicU32::new(0),
    patched: AtomicUsize::new(0),
    refused: AtomicUsize::new(0),
    done: WhileStill(UnsafeCell::new(Done { at: Changes { added: 0, removed: 0 }, wanted: 0 })),
    #[cfg(feature = "frida")]
    replaced: Mutex::new(Vec::new()),
    told: AtomicBool::new(false),
    bodies: [const { Mutex::new(Vec::new()) }; 2],
};

/// The objects that the GOT layer is done with: all that were there at a time.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// The loader's counters at that time.
    pub at: Changes,
    /// The sections that were looked for.
    pub wanted: u32,
}

/// What is touched only while the loader stands still, which admits one at a time.
#[derive(Debug)]
pub struct WhileStill<T>(UnsafeCell<T>);

// SAFETY: `get` asks for the proof that nobody else is there.
unsafe impl<T: Send> Sync for WhileStill<T> {}

impl<T: Copy> WhileStill<T> {
    /// The value.
    pub fn get(&self, _world: &super::still::Still) -> T {
        // SAFETY: the loader stands still for one thread at a time, and no reference is ever handed out.
        unsafe { *self.0.get() }
    }

    /// Replaces it.
    pub fn set(&self, _world: &super::still::Still, value: T) {
        // SAFETY: as above.
        unsafe { *self.0.get() = value }
    }
}

/// Whether calls that come this way are ours to answer.
#[inline]
pub fn is_on(via: u32) -> bool {
    LAYERS.on.load(Ordering::Acquire) & via != 0
}

/// The layers that were installed and passed their test.
pub fn standing() -> greenboost_contract::Layers {
    greenboost_contract::Layers { inline: is_on(CODE), got: is_on(GOT), preload: is_on(EXPORT), bodies: is_on(BODIES) }
}
