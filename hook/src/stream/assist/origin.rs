//! Where a copied weight lies in RAM: in bytes that stay what they are for as long as we know them.
//!
//! | origin | why it stays | how its end is seen |
//! |---|---|---|
//! | a mapped model file | the program cannot write through its mapping | [`crate::files`] |
//! | pinned memory | ggml marked it as weights, which are written through ggml alone | `cuMemFreeHost`, `cuMemHostUnregister`, ggml, the context's end |

use crate::abi::{CUdeviceptr, MEMORY_HOST};
use crate::driver::Driver;
use crate::files;
use crate::ggml::registry;
use crate::memory::Memory;

/// `CU_POINTER_ATTRIBUTE_MEMORY_TYPE`.
const TYPE: u32 = 2;
/// `CU_POINTER_ATTRIBUTE_DEVICE_POINTER`.
const DEVICE_POINTER: u32 = 3;
/// `CU_POINTER_ATTRIBUTE_RANGE_START_ADDR`.
const RANGE_START: u32 = 11;
/// `CU_POINTER_ATTRIBUTE_RANGE_SIZE`.
const RANGE_BYTES: u32 = 12;

/// A range of weights in RAM. See the module.
#[derive(Debug, Clone)]
pub enum Origin {
    /// In a file that the program has mapped; read through a mapping of our own.
    File(files::Source),
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
    pub fn of(memory: &Memory, at: u64, bytes: u64) -> Option<Self> {
        if is_weight(at, bytes) && is_pinned(memory.driver, at, bytes) {
            return Some(Self::Pinned { at, bytes });
        }
        files::source(at, bytes).map(Self::File)
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

    /// Another range of the same memory: it begins so many bytes before this one. `None` where that would be another's.
    pub fn around(&self, before: u64, bytes: u64) -> Option<Self> {
        match self {
            Self::File(source) => source.around(before, bytes).map(Self::File),
            Self::Pinned { at, .. } => {
                let at = at.checked_sub(before)?;
                is_weight(at, bytes).then_some(Self::Pinned { at, bytes })
            }
        }
    }

    /// Whether the bytes are still what they were.
    pub fn is_unchanged(&self) -> bool {
        match self {
            Self::File(source) => source.is_unchanged(),
            Self::Pinned { at, bytes } => is_weight(*at, *bytes),
        }
    }

    /// Whether it is pinned memory of the program's.
    pub fn is_pinned(&self) -> bool {
        matches!(self, Self::Pinned { .. })
    }

    /// Sees to it that the device can read the bytes in place. `false`: it cannot, or not now. Needs a current context.
    pub fn register(&self, memory: &Memory) -> bool {
        match self {
            Self::File(source) => source.register(memory),
            Self::Pinned { at, bytes } => is_pinned(memory.driver, *at, *bytes),
        }
    }
}

/// Whether a range lies in one tensor that ggml marked as a weight.
fn is_weight(at: u64, bytes: u64) -> bool {
    let weight = registry::weight_around(at);
    weight.is_some_and(|(start, all)| at.checked_add(bytes).is_some_and(|end| end <= start + all))
}

/// Whether the device reads a range of the host's memory at the same addresses.
fn is_pinned(driver: &Driver, at: u64, bytes: u64) -> bool {
    let is_here = |at| {
        attribute(driver, TYPE, at) == Some(MEMORY_HOST.into()) && attribute(driver, DEVICE_POINTER, at) == Some(at)
    };
    bytes > 0 && is_here(at) && is_here(at + bytes - 1)
}

/// The memory that the driver gives back together with an address: first address and bytes.
pub fn going_with(driver: &Driver, at: u64) -> Option<(u64, u64)> {
    Some((attribute(driver, RANGE_START, at)?, attribute(driver, RANGE_BYTES, at)?))
}

fn attribute(driver: &Driver, which: u32, at: u64) -> Option<u64> {
    let mut value = 0u64;
    // SAFETY: the largest of these attributes has eight bytes; little-endian makes the smaller ones right.
    unsafe { driver.cuPointerGetAttribute((&raw mut value).cast(), which, at) }.ok()?;
    Some(value)
}
