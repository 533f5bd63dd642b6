//! The driver as we call it: originals only, never through our own interposed names.
//!
//! Methods carry the driver's own names. They return `Err` with the driver's status, so that `?` ends an
//! operation, and are all unsafe for the one reason that any driver call with a wrong address is.

use crate::abi::*;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

macro_rules! driver {
    ($($name:ident ($($arg:ident: $type:ty),* $(,)?);)+) => {
        /// The driver functions GreenBoost calls itself.
        #[derive(Debug)]
        #[allow(non_snake_case)]
        pub struct Driver {
            $($name: unsafe extern "C" fn($($type),*) -> Status,)+
            device_count: OnceLock<CUdevice>,
            /// `cuCtxRecordEvent`, from CUDA 12.5 on.
            pub(crate) record_context: Option<unsafe extern "C" fn(CUcontext, CUevent) -> Status>,
        }

        #[allow(non_snake_case, clippy::too_many_arguments)]
        impl Driver {
            /// The driver whose functions `original` finds by name; null where there is none.
            ///
            /// # Errors
            /// The function that is missing.
            pub fn load(original: impl Fn(&'static CStr) -> *const c_void) -> Result<Self, &'static str> {
                Ok(Self {
                    $($name: {
                        let symbol = concat!(stringify!($name), "\0");
                        let symbol = CStr::from_bytes_with_nul(symbol.as_bytes()).map_err(|_| stringify!($name))?;
                        let address = Some(original(symbol)).filter(|it| !it.is_null()).ok_or(stringify!($name))?;
                        // SAFETY: the driver exports this symbol with the ABI that cuda.h states.
                        unsafe { std::mem::transmute::<*const c_void, unsafe extern "C" fn($($type),*) -> Status>(address) }
                    },)+
                    device_count: OnceLock::new(),
                    record_context: {
                        let address = original(c"cuCtxRecordEvent");
                        // SAFETY: as above; null is no function.
                        unsafe { std::mem::transmute::<*const c_void, Option<unsafe extern "C" fn(CUcontext, CUevent) -> Status>>(address) }
                    },
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
    cuDeviceGetDefaultMemPool(pool: *mut CUmemoryPool, device: CUdevice);
    cuDeviceGetMemPool(pool: *mut CUmemoryPool, device: CUdevice);
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
    cuMemsetD8Async(dst: CUdeviceptr, value: u8, count: usize, stream: CUstream);
    cuMemsetD16Async(dst: CUdeviceptr, value: u16, count: usize, stream: CUstream);
    cuMemsetD32Async(dst: CUdeviceptr, value: u32, count: usize, stream: CUstream);
    cuStreamCreateWithPriority(stream: *mut CUstream, flags: c_uint, priority: c_int);
    cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int);
    cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint);
    cuStreamGetCaptureInfo_v2(stream: CUstream, state: *mut c_uint, id: *mut u64, graph: *mut CUgraph,
        dependencies: *mut *const c_void, count: *mut usize);
    cuArray3DGetDescriptor_v2(descriptor: *mut ArrayDescriptor, array: *mut c_void);
    cuMemcpy3DAsync_v2(copy: *const Memcpy3D, stream: CUstream);
    cuMemcpyAsync(dst: CUdeviceptr, src: CUdeviceptr, bytes: usize, stream: CUstream);
    cuStreamSynchronize(stream: CUstream);
    cuStreamDestroy_v2(stream: CUstream);
    cuStreamGetCtx(stream: CUstream, context: *mut CUcontext);
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
    /// How many devices the process has; one where the driver does not tell yet.
    pub fn device_count(&self) -> CUdevice {
        if let Some(count) = self.device_count.get() {
            return *count;
        }
        let mut count = 1;
        // SAFETY: writes one integer to a live local.
        if unsafe { self.cuDeviceGetCount(&mut count) }.is_err() {
            return 1;
        }
        *self.device_count.get_or_init(|| count)
    }

    /// The context of a stream. `None` of one without a name, which is of whatever context is current.
    ///
    /// # Errors
    /// The driver's status.
    pub fn context_of(&self, stream: CUstream) -> Result<Option<CUcontext>, Status> {
        if !has_name(stream) {
            return Ok(None);
        }
        let mut context = std::ptr::null_mut();
        // SAFETY: the program's stream or ours; writes one pointer to a live local.
        unsafe { self.cuStreamGetCtx(stream, &mut context) }?;
        Ok(Some(context))
    }

    /// The primary context of a device, if it is active.
    pub fn primary_context(&self, device: CUdevice) -> Option<CUcontext> {
        let (mut flags, mut active, mut context) = (0, 0, std::ptr::null_mut());
        // SAFETY: writes to live locals; what is retained is released at once.
        unsafe {
            self.cuDevicePrimaryCtxGetState(device, &mut flags, &mut active).ok()?;
            if active == 0 {
                return None;
            }
            self.cuDevicePrimaryCtxRetain(&mut context, device).ok()?;
            self.cuDevicePrimaryCtxRelease_v2(device).ok()?;
        }
        Some(context)
    }

    /// What the driver says of an address. `None` of memory that it knows nothing of.
    pub fn pointer_attribute(&self, which: PointerAttribute, at: CUdeviceptr) -> Option<u64> {
        let mut value = 0u64;
        // SAFETY: the largest of these attributes has eight bytes; little-endian makes the smaller ones right.
        unsafe { self.cuPointerGetAttribute((&raw mut value).cast(), which as c_uint, at) }.ok()?;
        Some(value)
    }
}
