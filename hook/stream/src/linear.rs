//! Copies of weights on streams of ours, in pieces where the driver refuses to cross a boundary.

use greenboost_cuda::abi::{CUdeviceptr, CUstream, SUCCESS, Status};
use greenboost_memory::{Memory, split};

/// Copies bytes of a weight, or of an expert, to VRAM of ours that nobody reads before the copy has been waited for.
///
/// # Errors
/// The driver's status; pieces may have been copied.
pub fn copy(memory: &Memory, stream: CUstream, from: CUdeviceptr, to: CUdeviceptr, bytes: u64) -> Result<(), Status> {
    let run = |at, bytes| memory.run(at, bytes).min(memory.files.run(at, bytes));
    let status = split::linear(&run, [from], bytes as usize, |at, bytes| {
        let at = at as u64;
        // SAFETY: bytes of a weight, and as many of ours, as the caller says.
        unsafe { memory.driver.cuMemcpyAsync(to + at, from + at, bytes, stream) }.err().unwrap_or(SUCCESS)
    });
    if status == SUCCESS { Ok(()) } else { Err(status) }
}
