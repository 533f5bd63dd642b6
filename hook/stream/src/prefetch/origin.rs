//! Where a copied weight lies in RAM: in bytes that stay what they are for as long as we know them.
//!
//! | origin | why it stays | how its end is seen |
//! |---|---|---|
//! | a mapped model file | the program cannot write through its mapping | [`greenboost_weights::files`] |
//! | pinned memory | ggml marked it as weights, which are written through ggml alone | `cuMemFreeHost`, `cuMemHostUnregister`, ggml, the context's end |

use greenboost_cuda::Driver;
use greenboost_cuda::PointerAttribute::{DevicePointer, MemoryType, RangeBytes, RangeStart};
use greenboost_cuda::abi::{CUdeviceptr, MEMORY_HOST, NOT_SUPPORTED};
use greenboost_memory::Memory;
use greenboost_memory::backing::file_pages::pin;
use greenboost_weights::files::{Refusal, Source};
use greenboost_weights::registry::Registry;

/// A range of weights in RAM. See the module.
#[derive(Debug, Clone)]
pub enum Origin {
    /// In a file that the program has mapped; read through a mapping of our own.
    File(Source),
    /// In memory that the driver has pinned for the program; read where it is.
    Pinned {
        /// First address.
        at: u64,
        /// Bytes.
        bytes: u64,
    },
}

impl Origin {
    /// What `bytes` at an address of the program are, if they can be read ahead of time.
    pub fn of(memory: &Memory, tensors: &Registry, at: u64, bytes: u64) -> Option<Self> {
        if is_weight(tensors, at, bytes) && is_pinned(memory.driver, at, bytes) {
            return Some(Self::Pinned { at, bytes });
        }
        memory.files.source(at, bytes).map(Self::File)
    }

    /// Where the device reads the bytes, once [`Self::register`] has said yes.
    pub fn address(&self) -> CUdeviceptr {
        match self {
            Self::File(source) => source.address(),
            Self::Pinned { at, .. } => *at,
        }
    }

    /// Bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::File(source) => source.bytes(),
            Self::Pinned { bytes, .. } => *bytes,
        }
    }

    /// Another range of the same memory: it begins this many bytes before this one. `None` where that would be another's.
    pub fn around(&self, tensors: &Registry, before: u64, bytes: u64) -> Option<Self> {
        match self {
            Self::File(source) => source.around(before, bytes).map(Self::File),
            Self::Pinned { at, .. } => {
                let at = at.checked_sub(before)?;
                is_weight(tensors, at, bytes).then_some(Self::Pinned { at, bytes })
            }
        }
    }

    /// Whether the bytes are still what they were.
    pub fn is_unchanged(&self, tensors: &Registry) -> bool {
        match self {
            Self::File(source) => source.is_unchanged(),
            Self::Pinned { at, bytes } => is_weight(tensors, *at, *bytes),
        }
    }

    /// Whether it is pinned memory of the program's.
    pub fn is_pinned(&self) -> bool {
        matches!(self, Self::Pinned { .. })
    }

    /// Sees to it that the device can read the bytes in place. `false`: it cannot, or not now. Needs a current context.
    pub fn register(&self, memory: &Memory) -> bool {
        match self {
            Self::File(source) => register(memory, source),
            Self::Pinned { at, bytes } => is_pinned(memory.driver, *at, *bytes),
        }
    }
}

/// Sees to it that the device can read a file's bytes in place. `false`: it cannot, or not now. Needs a current context.
fn register(memory: &Memory, source: &Source) -> bool {
    let Ok(context) = memory.current_context() else { return false };
    let (file, offset) = source.place();
    !memory.captures.any(memory.driver)
        && file.register(context as usize, offset, source.bytes(), |at, bytes| {
            if !memory.has_room_for_pages(bytes) {
                return Err(Refusal::ForNow);
            }
            // SAFETY: the range is mapped for as long as the process lives.
            unsafe { pin(memory.driver, &memory.files.pinned, at, bytes) }.map_err(|status| {
                Refusal::ForGood(match status {
                    NOT_SUPPORTED => "the device sees it at another address, or cannot".to_owned(),
                    status => format!("the driver refused with {status}"),
                })
            })
        })
}

/// Whether a range lies in one tensor that ggml marked as a weight.
fn is_weight(tensors: &Registry, at: u64, bytes: u64) -> bool {
    let weight = tensors.weight_around(at);
    weight.is_some_and(|(start, all)| at.checked_add(bytes).is_some_and(|end| end <= start + all))
}

/// Whether the device reads a range of the host's memory at the same addresses.
fn is_pinned(driver: &Driver, at: u64, bytes: u64) -> bool {
    let is_here = |at| {
        driver.pointer_attribute(MemoryType, at) == Some(MEMORY_HOST.into())
            && driver.pointer_attribute(DevicePointer, at) == Some(at)
    };
    bytes > 0 && is_here(at) && is_here(at + bytes - 1)
}

/// The memory that the driver gives back together with an address: first address and bytes.
pub fn going_with(driver: &Driver, at: u64) -> Option<(u64, u64)> {
    Some((driver.pointer_attribute(RangeStart, at)?, driver.pointer_attribute(RangeBytes, at)?))
}
