//! The driver as we call it: originals only, never through our own interposed names.
//!
//! Methods carry the driver's own names. They return `Err` with the driver's status, so that `?` ends an
//! operation, and are all unsafe for the one reason that any driver call with a wrong address is.

use crate::abi::*;
use crate::real;
use crate::slot::{self, Library};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

macro_rules! driver {
    ($($name:ident ($($arg:ident: $type:ty),* $(,)?);)+) => {
        /// The driver functions GreenBoost calls itself.
        #[derive(Debug)]
        #[allow(non_snake_case)]
        pub struct Driver { $($name: unsafe extern "C" fn($($type),*) -> Status),+ }

        #[allow(non_snake_case, clippy::too_many_arguments)]
        impl Driver {
            fn load() -> Result<Self, &'static str> {
                Ok(Self {
                    $($name: {
                        let symbol = concat!(stringify!($name), "\0");
                        let address = original(symbol).ok_or(stringify!($name))?;
                        // SAFETY: the driver exports this symbol with the ABI that cuda.h states.
                        unsafe { std::mem::transmute::<*const c_void, unsafe extern "C" fn($($type),*) -> Status>(address) }
                    }),+
                })
            }

            $(
                #[doc = concat!("`", stringify!($name), "`.")]
                ///
                /// # Safety
                /// As the driver's function.
                ///
                /// # Errors
                /// The driver's status.
                #[inline]
                pub unsafe fn $name(&self, $($arg: $type),*) -> Result<(), Status> {
                    // SAFETY: the caller's promise.
                    match unsafe { (self.$name)($($arg),*) } { SUCCESS => Ok(()), status => Err(status) }
                }
            )+
        }
    };
}

driver! {
    cuDriverGetVersion(version: *mut c_int);
    cuCtxGetCurrent(context: *mut CUcontext);
    cuCtxGetDevice(device: *mut CUdevice);
    cuCtxPushCurrent_v2(context: CUcontext);
    cuCtxPopCurrent_v2(context: *mut CUcontext);
    cuCtxSynchronize();
    cuCtxCreate_v2(context: *mut CUcontext, flags: c_uint, device: CUdevice);
    cuCtxDestroy_v2(context: CUcontext);
    cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
    cuDevicePrimaryCtxRelease_v2(device: CUdevice);
    cuDevicePrimaryCtxGetState(device: CUdevice, flags: *mut c_uint, active: *mut c_int);
    cuDeviceGetCount(count: *mut c_int);
    cuDeviceCanAccessPeer(can: *mut c_int, device: CUdevice, peer: CUdevice);
    cuDeviceGetUuid(uuid: *mut [u8; 16], device: CUdevice);
    cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, device: CUdevice);
    cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice);
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    cuMemAddressReserve(at: *mut CUdeviceptr, bytes: usize, alignment: usize, hint: CUdeviceptr, flags: u64);
    cuMemAddressFree(at: CUdeviceptr, bytes: usize);
    cuMemCreate(handle: *mut CUmemGenericAllocationHandle, bytes: usize, prop: *const AllocationProp, flags: u64);
    cuMemRelease(handle: CUmemGenericAllocationHandle);
    cuMemMap(at: CUdeviceptr, bytes: usize, offset: usize, handle: CUmemGenericAllocationHandle, flags: u64);
    cuMemUnmap(at: CUdeviceptr, bytes: usize);
    cuMemSetAccess(at: CUdeviceptr, bytes: usize, descs: *const AccessDesc, count: usize);
    cuMemHostAlloc(at: *mut *mut c_void, bytes: usize, flags: c_uint);
    cuMemFreeHost(at: *mut c_void);
    cuMemHostRegister_v2(at: *mut c_void, bytes: usize, flags: c_uint);
    cuMemHostUnregister(at: *mut c_void);
    cuMemHostGetDevicePointer_v2(device: *mut CUdeviceptr, host: *mut c_void, flags: c_uint);
    cuPointerGetAttribute(value: *mut c_void, attribute: c_uint, at: CUdeviceptr);
    cuMemcpyHtoD_v2(dst: CUdeviceptr, src: *const c_void, bytes: usize);
    cuMemcpyDtoH_v2(dst: *mut c_void, src: CUdeviceptr, bytes: usize);
    cuMemcpyDtoD_v2(dst: CUdeviceptr, src: CUdeviceptr, bytes: usize);
    cuMemsetD8_v2(dst: CUdeviceptr, value: u8, count: usize);
    cuMemsetD16_v2(dst: CUdeviceptr, value: u16, count: usize);
    cuMemsetD32_v2(dst: CUdeviceptr, value: u32, count: usize);
    cuStreamCreateWithPriority(stream: *mut CUstream, flags: c_uint, priority: c_int);
    cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int);
    cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint);
    cuStreamGetCaptureInfo_v2(stream: CUstream, state: *mut c_uint, id: *mut u64, graph: *mut CUgraph,
        dependencies: *mut *const c_void, count: *mut usize);
    cuMemcpyAsync(dst: CUdeviceptr, src: CUdeviceptr, bytes: usize, stream: CUstream);
    cuStreamSynchronize(stream: CUstream);
    cuStreamIsCapturing(stream: CUstream, state: *mut c_uint);
    cuEventCreate(event: *mut CUevent, flags: c_uint);
    cuEventRecord(event: CUevent, stream: CUstream);
    cuEventQuery(event: CUevent);
    cuEventElapsedTime(milliseconds: *mut f32, start: CUevent, end: CUevent);
    cuEventSynchronize(event: CUevent);
    cuEventDestroy_v2(event: CUevent);
    cuModuleLoadData(module: *mut CUmodule, image: *const c_void);
    cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    cuLaunchKernel(function: CUfunction, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint,
        shared: c_uint, stream: CUstream, params: *mut *mut c_void, extra: *mut *mut c_void);
    cuThreadExchangeStreamCaptureMode(mode: *mut c_uint);
}

/// The original of a symbol: the table's slot where it has one (its body may be patched), else the library's.
fn original(symbol_with_nul: &'static str) -> Option<*const c_void> {
    let symbol = CStr::from_bytes_with_nul(symbol_with_nul.as_bytes()).ok()?;
    let address = match slot::find(symbol.to_bytes()) {
        Some(slot) => slot.original(),
        None => real::symbol(Library::Cuda, symbol),
    };
    (!address.is_null()).then_some(address)
}

/// The driver, or `None` when it is not loaded or too old to have a function we need.
pub fn get() -> Option<&'static Driver> {
    static DRIVER: OnceLock<Option<Driver>> = OnceLock::new();
    DRIVER
        .get_or_init(|| {
            Driver::load()
                .inspect_err(|symbol| log::error!("the driver has no {symbol}: memory stays as the driver gives it"))
                .ok()
        })
        .as_ref()
}

/// What the driver can be asked of an address: `CU_POINTER_ATTRIBUTE_...`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointerAttribute {
    /// `MEMORY_TYPE`: [`crate::abi::MEMORY_HOST`] and others.
    MemoryType = 2,
    /// `DEVICE_POINTER`: where the device has it.
    DevicePointer = 3,
    /// `RANGE_START_ADDR`: of the allocation it is in.
    RangeStart = 11,
    /// `RANGE_SIZE`.
    RangeBytes = 12,
}

impl Driver {
    /// What the driver says of an address. `None` of memory that it knows nothing of.
    pub fn pointer_attribute(&self, which: PointerAttribute, at: CUdeviceptr) -> Option<u64> {
        let mut value = 0u64;
        // SAFETY: the largest of these attributes has eight bytes; little-endian makes the smaller ones right.
        unsafe { self.cuPointerGetAttribute((&raw mut value).cast(), which as c_uint, at) }.ok()?;
        Some(value)
    }
}

/// Keeps the driver where it is. A plugin that needs it may be closed and opened again (ggml does), and the driver
/// would come back elsewhere while our addresses, and our memory, are of the old one.
pub fn pin() {
    if !real::dl::keep(Library::Cuda.soname()) {
        log::warn!("the driver could not be pinned: a program that unloads it would take our addresses with it");
    }
}

/// While it lives, calls of this thread do not disturb a stream capture going on elsewhere in the process.
pub struct RelaxedCapture<'a> {
    driver: &'a Driver,
    before: c_uint,
}

impl<'a> RelaxedCapture<'a> {
    /// Switches this thread to `CU_STREAM_CAPTURE_MODE_RELAXED`.
    pub fn enter(driver: &'a Driver) -> Self {
        let mut mode = 2;
        // SAFETY: exchanges a thread-local mode; the pointer is to a live local.
        let _ = unsafe { driver.cuThreadExchangeStreamCaptureMode(&mut mode) };
        Self { driver, before: mode }
    }
}

impl Drop for RelaxedCapture<'_> {
    fn drop(&mut self) {
        // SAFETY: as in `enter`.
        let _ = unsafe { self.driver.cuThreadExchangeStreamCaptureMode(&mut self.before) };
    }
}

/// Makes a context current for a while.
pub struct Current<'a>(&'a Driver);

impl<'a> Current<'a> {
    /// Pushes `context`.
    ///
    /// # Errors
    /// The driver's status when the context is not usable any more.
    #[allow(clippy::not_unsafe_ptr_arg_deref)] // a context handle is a name; nothing here follows it
    pub fn push(driver: &'a Driver, context: CUcontext) -> Result<Self, Status> {
        // SAFETY: an unusable context is answered with an error.
        unsafe { driver.cuCtxPushCurrent_v2(context) }.map(|()| Self(driver))
    }
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        let mut popped = std::ptr::null_mut();
        // SAFETY: pops what `push` pushed.
        let _ = unsafe { self.0.cuCtxPopCurrent_v2(&mut popped) };
    }
}
