//! Launches: the parameters are copied at the call, the kernel runs in stream order.

use crate::arguments::In;
use crate::errors::{Error, Result};
use crate::gpu::{Gpu, Turn};
use crate::module::Function;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Grid or block.
pub type Dimensions = [u32; 3];

/// A kernel with everything it needs.
pub struct Launch {
    /// What runs.
    pub function: Arc<Function>,
    /// Blocks.
    pub grid: Dimensions,
    /// Threads.
    pub block: Dimensions,
    /// Dynamic shared memory.
    pub shared: u32,
    /// Whether it may begin before the kernel in front of it in its stream has ended.
    pub programmatic: bool,
    arguments: Box<[u8]>,
    /// Where each argument is inside `arguments`, as `cuGraphKernelNodeGetParams` shows it.
    pointers: Box<[usize]>,
}

/// How the program hands over arguments.
#[derive(Clone, Copy)]
pub struct Arguments {
    /// One pointer per parameter.
    pub pointers: In<*const c_void>,
    /// Or a packed buffer, described by a list.
    pub extra: In<usize>,
}

const EXTRA_END: usize = 0;
const EXTRA_BUFFER: usize = 1;
const EXTRA_SIZE: usize = 2;

fn packed(extra: In<usize>) -> Result<(usize, usize)> {
    let (mut buffer, mut size) = (0, 0);
    for index in (0..).step_by(2) {
        // SAFETY: the list goes on until its end mark.
        let at = |index| In::from(unsafe { extra.raw().add(index) }).get();
        match at(index)? {
            EXTRA_END => break,
            EXTRA_BUFFER => buffer = at(index + 1)?,
            EXTRA_SIZE => size = In::from(at(index + 1)? as *const usize).get()?,
            _ => return Err(Error::INVALID_VALUE),
        }
    }
    if buffer == 0 { Err(Error::INVALID_VALUE) } else { Ok((buffer, size)) }
}

impl Launch {
    /// Checks a launch and copies its arguments.
    pub fn new(
        function: Arc<Function>,
        grid: Dimensions,
        block: Dimensions,
        shared: u32,
        given: Arguments,
    ) -> Result<Launch> {
        let threads: u64 = block.iter().map(|side| u64::from(*side)).product();
        let blocks_fit = grid[0] <= i32::MAX as u32 && grid[1] <= 65535 && grid[2] <= 65535;
        let limit = function.shared_limit.load(Ordering::Relaxed) as u32;
        if grid.contains(&0) || !blocks_fit || threads == 0 || threads > 1024 || shared > limit {
            return Err(Error::INVALID_VALUE);
        }
        let parameters = &function.parameters;
        let size = parameters.last().map_or(0, |(offset, size)| offset + size);
        let mut arguments = vec![0u8; size].into_boxed_slice();
        match (given.pointers.is_null(), given.extra.is_null()) {
            (false, false) => return Err(Error::INVALID_VALUE),
            (true, true) if size > 0 => return Err(Error::INVALID_VALUE),
            (true, true) => {}
            (false, true) => {
                let pointers = given.pointers.list(parameters.len())?;
                for (&(offset, size), pointer) in parameters.iter().zip(pointers) {
                    if pointer.is_null() {
                        return Err(Error::INVALID_VALUE);
                    }
                    // SAFETY: the program points at an argument of this size.
                    unsafe {
                        std::ptr::copy_nonoverlapping(pointer.cast(), arguments[offset..].as_mut_ptr(), size);
                    }
                }
            }
            (true, false) => {
                let (buffer, len) = packed(given.extra)?;
                if len < size {
                    return Err(Error::INVALID_VALUE);
                }
                // SAFETY: the program's buffer has `len` bytes.
                unsafe { std::ptr::copy_nonoverlapping(buffer as *const u8, arguments.as_mut_ptr(), size) };
            }
        }
        let base = arguments.as_ptr() as usize;
        let pointers = parameters.iter().map(|(offset, _)| base + offset).collect();
        Ok(Launch { function, grid, block, shared, programmatic: false, arguments, pointers })
    }

    /// The pointer list a query of a node shows.
    pub fn pointers(&self) -> *const usize {
        self.pointers.as_ptr()
    }

    /// Runs the kernel.
    pub fn run(&self, turn: &Turn) -> Result {
        let offsets = self.function.parameters.iter().map(|(offset, _)| *offset).collect();
        let name = self.function.name.to_str().unwrap_or_default();
        let arguments =
            crate::kernel::Arguments { name, grid: self.grid, block: self.block, bytes: &self.arguments, offsets };
        let gpu = Gpu::kernel(turn, self.function.kernel.shares);
        let done = (self.function.kernel.run)(&gpu, &arguments);
        gpu.end();
        done
    }
}
