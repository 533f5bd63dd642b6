//! What a kernel is to this GPU: a name, parameters, and what it does with them.

use crate::errors::{Error, Result};
use crate::gpu::{Gpu, Shares};

/// A kernel.
pub struct Kernel {
    /// Its name, or what a template's name begins with.
    pub name: &'static str,
    /// The size of each parameter.
    pub parameters: &'static [usize],
    /// The share of the memory's speed it reaches, in VRAM and in place.
    pub shares: Shares,
    /// What it does.
    pub run: fn(&Gpu, &Arguments) -> Result,
}

/// A launch's arguments.
pub struct Arguments<'a> {
    /// The name of the entry: a template's arguments are in it.
    pub name: &'a str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// All of them, packed.
    pub bytes: &'a [u8],
    /// Where each is.
    pub offsets: Vec<usize>,
}

impl Arguments<'_> {
    /// An argument of 8 bytes.
    pub fn u64(&self, index: usize) -> u64 {
        self.member_u64(index, 0)
    }

    /// An argument of 4 bytes.
    pub fn u32(&self, index: usize) -> u32 {
        self.member_u32(index, 0)
    }

    /// A word inside a structure, by its offset there.
    pub fn member_u32(&self, index: usize, member: usize) -> u32 {
        let at = self.offsets[index] + member;
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap_or_default())
    }

    /// A word of 8 bytes inside a structure.
    pub fn member_u64(&self, index: usize, member: usize) -> u64 {
        let at = self.offsets[index] + member;
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap_or_default())
    }

    /// A single-precision argument.
    pub fn f32(&self, index: usize) -> f32 {
        f32::from_bits(self.u32(index))
    }
}

/// Words are read whole, as hardware does: a misaligned address is an error of its own.
pub fn aligned(address: u64, size: u64) -> Result {
    if address.is_multiple_of(size) { Ok(()) } else { Err(Error::MISALIGNED_ADDRESS) }
}
