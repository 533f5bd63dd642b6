//! Does the driver import a DMA-BUF as external memory? Asked once in a process, with the first buffer of the pool.
//!
//! NVIDIA documents it for its integrated boards only (from Thor on), so the driver is expected to refuse. Nothing
//! depends on it: imported memory gets an address of the driver's choice (`cuExternalMemoryGetMappedBuffer`), while a
//! chunk must be at its place in the reservation, so the pool's memory is mapped and registered either way. The answer
//! is published with the choice of the backing, because a driver that says yes would make another way possible.

use greenboost_cuda::abi::*;
use greenboost_intercept::real;
use greenboost_intercept::slot::Library;
use std::ffi::{c_int, c_void};
use std::mem::transmute;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::ptr::null_mut;

type Import = unsafe extern "C" fn(*mut *mut c_void, *const ExternalMemory) -> Status;
type Destroy = unsafe extern "C" fn(*mut c_void) -> Status;

/// What the driver says of a DMA-BUF of this many bytes, in words. A context of ours is current: an error that sticks
/// to the context must not stick to the program's.
pub fn answer(buffer: &OwnedFd, bytes: u64) -> String {
    let import = real::symbol(Library::Cuda, c"cuImportExternalMemory");
    let destroy = real::symbol(Library::Cuda, c"cuDestroyExternalMemory");
    if import.is_null() {
        return "the driver knows no external memory".to_owned();
    }
    // Of a file descriptor that is imported the driver may take possession: it gets one of its own.
    let Ok(own) = buffer.as_fd().try_clone_to_owned() else { return "whether DMA-BUFs import is unknown".to_owned() };
    let description = ExternalMemory::dma_buf(own.as_raw_fd() as c_int, bytes);
    let mut memory = null_mut();
    // SAFETY: the driver's function, with the description that its header states, alive during the call.
    let status = unsafe { transmute::<*const c_void, Import>(import)(&mut memory, &description) };
    if status != SUCCESS {
        return format!("the driver does not import DMA-BUFs ({status})");
    }
    // It is the driver's now. Should it not be, one descriptor of 2 MiB stays open; closing another's would be worse.
    let _ = own.into_raw_fd();
    if !destroy.is_null() {
        // SAFETY: made just now, and mapped nowhere.
        unsafe { transmute::<*const c_void, Destroy>(destroy)(memory) };
    }
    "the driver imports DMA-BUFs, at addresses of its own".to_owned()
}
