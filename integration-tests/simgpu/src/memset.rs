//! Fills.

use crate::clock::Clock;
use crate::context::Context;
use crate::copy::{Declared, Kind, classify};
use crate::errors::{Error, Result};
use crate::gpu::Gpu;

/// A fill; also the layout of `CUDA_MEMSET_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    /// First byte.
    pub address: u64,
    /// Bytes from row to row.
    pub pitch: usize,
    /// The element.
    pub value: u32,
    /// Its size: 1, 2 or 4.
    pub element: u32,
    /// Elements in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

const _: () = assert!(size_of::<Fill>() == size_of::<cudarc::driver::sys::CUDA_MEMSET_NODE_PARAMS>());

impl Fill {
    fn row_bytes(&self) -> u64 {
        self.width as u64 * u64::from(self.element)
    }

    /// Checks the fill as the driver does at the call.
    pub fn check(&self) -> Result<Kind> {
        let element = u64::from(self.element);
        let aligned = matches!(element, 1 | 2 | 4) && self.address.is_multiple_of(element);
        let pitched =
            self.height <= 1 || self.pitch as u64 >= self.row_bytes() && (self.pitch as u64).is_multiple_of(element);
        if !aligned || !pitched {
            return Err(Error::INVALID_VALUE);
        }
        let rows = (self.height.max(1) as u64 - 1).checked_mul(self.pitch as u64);
        let extent = rows.and_then(|rows| rows.checked_add(self.row_bytes())).ok_or(Error::INVALID_VALUE)?;
        classify(self.address, extent, Declared::Device)
    }

    /// Does it.
    pub fn run(&self, context: &Context, clock: &Clock) -> Result {
        let gpu = Gpu::copies(context, clock);
        let row = self.row_bytes();
        if self.height == 1 || self.pitch as u64 == row {
            return self.run_row(&gpu, self.address, row * self.height as u64);
        }
        (0..self.height as u64).try_for_each(|index| self.run_row(&gpu, self.address + index * self.pitch as u64, row))
    }

    fn run_row(&self, gpu: &Gpu, address: u64, len: u64) -> Result {
        let size = self.element as usize;
        let pattern = self.value.to_le_bytes();
        gpu.each(address, len, true, |offset, to, here| {
            // SAFETY: a writable window of `here` bytes.
            let target = unsafe { std::slice::from_raw_parts_mut(to, here) };
            if size == 1 {
                target.fill(pattern[0]);
            } else {
                // Windows end on page borders, so every piece starts with a whole element.
                debug_assert!(offset.is_multiple_of(size as u64));
                for element in target.chunks_mut(size) {
                    let len = element.len();
                    element.copy_from_slice(&pattern[..len]);
                }
            }
        })
    }
}
