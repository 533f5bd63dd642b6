//! The attributes of `cuLaunchKernelEx`, of which only programmatic serialisation changes what this GPU does.

use crate::edge::In;
use crate::errors::{Error, Result};

/// `CUlaunchAttribute`
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Attribute {
    id: u32,
    pad: [u8; 4],
    value: [u8; 64],
}

const _: () = assert!(size_of::<Attribute>() == size_of::<cudarc::driver::sys::CUlaunchAttribute>());

/// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`
pub const PROGRAMMATIC: u32 = 6;
const PROGRAMMATIC_EVENT: u32 = 7;
/// The last attribute of CUDA 13.0.
const LAST: u32 = 16;

impl Attribute {
    /// Programmatic serialisation, on or off.
    pub fn programmatic(on: bool) -> Attribute {
        let mut value = [0; 64];
        value[0] = on.into();
        Attribute { id: PROGRAMMATIC, pad: [0; 4], value }
    }

    /// The value's first word: all there is to the attributes this GPU knows.
    fn word(&self) -> u32 {
        u32::from_le_bytes([self.value[0], self.value[1], self.value[2], self.value[3]])
    }
}

/// Whether the attributes of a launch let it begin before the kernel in front of it has ended.
pub fn programmatic(list: In<Attribute>, count: u32) -> Result<bool> {
    let mut early = false;
    for attribute in list.list(count as usize)? {
        match attribute.id {
            PROGRAMMATIC => early = attribute.word() != 0,
            PROGRAMMATIC_EVENT => return Err(Error::NOT_SUPPORTED),
            0..=LAST => {}
            _ => return Err(Error::INVALID_VALUE),
        }
    }
    Ok(early)
}
