//! The driver's functions as data: where they are found and what their parameters are.

use anyhow::{Result, bail};
use std::ffi::{CString, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::fmt;
use std::ptr::null_mut;

/// An address in device memory.
pub type DevicePtr = u64;
/// A context, stream, event, module, function or graph of the driver.
pub type Handle = *mut c_void;

/// `cuGetProcAddress_v2`.
pub type GetProcAddress = unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, u64, *mut c_int) -> c_int;

/// The version a runtime of this age would ask for.
const VERSION: c_int = 12_020;
const OUT_OF_MEMORY: c_int = 2;
const NO_DEVICE: c_int = 100;

/// A call that the driver refused.
#[derive(Debug)]
pub struct CudaError {
    pub(super) call: &'static str,
    pub(super) code: c_int,
}

impl CudaError {
    /// Whether this is CUDA_ERROR_OUT_OF_MEMORY.
    pub fn is_out_of_memory(&self) -> bool {
        self.code == OUT_OF_MEMORY
    }

    /// Whether this is CUDA_ERROR_NO_DEVICE.
    pub fn is_no_device(&self) -> bool {
        self.code == NO_DEVICE
    }
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            OUT_OF_MEMORY => write!(f, "{}: out of memory", self.call),
            code => write!(f, "{}: error {code}", self.call),
        }
    }
}

impl std::error::Error for CudaError {}

/// `CUmemAllocationProp`.
#[repr(C)]
pub struct AllocationProp {
    kind: c_int,
    handle_types: c_int,
    location: [c_int; 2],
    win32: *mut c_void,
    flags: [u8; 8],
}

/// `CUmemAccessDesc`.
#[repr(C)]
pub struct AccessDesc {
    location: [c_int; 2],
    flags: c_int,
}

const _: () = assert!(size_of::<AllocationProp>() == 32 && size_of::<AccessDesc>() == 12);

/// Pinned VRAM of the first device.
pub const VRAM: AllocationProp =
    AllocationProp { kind: 1, handle_types: 0, location: [1, 0], win32: null_mut(), flags: [0; 8] };
/// Reading and writing by the first device.
pub const READ_WRITE: AccessDesc = AccessDesc { location: [1, 0], flags: 3 };

/// One line per function: field, base name, minimum version, parameters.
macro_rules! functions {
    ($($field:ident = $name:literal $version:literal ($($arg:ty),*);)+) => {
        /// Every function of the table, resolved.
        pub struct Functions { $(pub(super) $field: unsafe extern "C" fn($($arg),*) -> c_int,)+ }

        impl Functions {
            /// Asks for all of them.
            pub fn resolve(get: GetProcAddress) -> Result<Self> {
                Ok(Self { $($field: {
                    let _: () = assert!($version <= VERSION);
                    let found = ask(get, $name)?;
                    // SAFETY: the driver returned this address for the name and version whose documented
                    // prototype stands in the table.
                    unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($arg),*) -> c_int>(found) }
                },)+ })
            }
        }
    };
}

functions! {
    init = "cuInit" 2000 (c_uint);
    device_count = "cuDeviceGetCount" 2000 (*mut c_int);
    device_get = "cuDeviceGet" 2000 (*mut c_int, c_int);
    device_name = "cuDeviceGetName" 2000 (*mut c_char, c_int, c_int);
    ctx_retain = "cuDevicePrimaryCtxRetain" 7000 (*mut Handle, c_int);
    ctx_release = "cuDevicePrimaryCtxRelease" 11000 (c_int);
    ctx_set = "cuCtxSetCurrent" 4000 (Handle);
    ctx_sync = "cuCtxSynchronize" 2000 ();
    mem_info = "cuMemGetInfo" 3020 (*mut usize, *mut usize);
    mem_alloc = "cuMemAlloc" 3020 (*mut DevicePtr, usize);
    mem_free = "cuMemFree" 3020 (DevicePtr);
    htod = "cuMemcpyHtoD" 3020 (DevicePtr, *const c_void, usize);
    htod_async = "cuMemcpyHtoDAsync" 3020 (DevicePtr, *const c_void, usize, Handle);
    dtoh_async = "cuMemcpyDtoHAsync" 3020 (*mut c_void, DevicePtr, usize, Handle);
    memset = "cuMemsetD8" 3020 (DevicePtr, u8, usize);
    module_load = "cuModuleLoadData" 2000 (*mut Handle, *const c_void);
    module_unload = "cuModuleUnload" 2000 (Handle);
    module_function = "cuModuleGetFunction" 2000 (*mut Handle, Handle, *const c_char);
    launch = "cuLaunchKernel" 4000
        (Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void);
    stream_create = "cuStreamCreate" 2000 (*mut Handle, c_uint);
    stream_destroy = "cuStreamDestroy" 4000 (Handle);
    stream_sync = "cuStreamSynchronize" 2000 (Handle);
    stream_wait = "cuStreamWaitEvent" 3020 (Handle, Handle, c_uint);
    event_create = "cuEventCreate" 2000 (*mut Handle, c_uint);
    event_record = "cuEventRecord" 2000 (Handle, Handle);
    event_destroy = "cuEventDestroy" 4000 (Handle);
    capture_begin = "cuStreamBeginCapture" 10010 (Handle, c_uint);
    capture_end = "cuStreamEndCapture" 10000 (Handle, *mut Handle);
    graph_instantiate = "cuGraphInstantiateWithFlags" 11040 (*mut Handle, Handle, c_ulonglong);
    graph_launch = "cuGraphLaunch" 10000 (Handle, Handle);
    graph_exec_destroy = "cuGraphExecDestroy" 10000 (Handle);
    graph_destroy = "cuGraphDestroy" 10000 (Handle);
    granularity = "cuMemGetAllocationGranularity" 10020 (*mut usize, *const AllocationProp, c_int);
    reserve = "cuMemAddressReserve" 10020 (*mut DevicePtr, usize, usize, DevicePtr, c_ulonglong);
    address_free = "cuMemAddressFree" 10020 (DevicePtr, usize);
    create = "cuMemCreate" 10020 (*mut u64, usize, *const AllocationProp, c_ulonglong);
    release = "cuMemRelease" 10020 (u64);
    map = "cuMemMap" 10020 (DevicePtr, usize, usize, u64, c_ulonglong);
    unmap = "cuMemUnmap" 10020 (DevicePtr, usize);
    set_access = "cuMemSetAccess" 10020 (DevicePtr, usize, *const AccessDesc, usize);
}

/// What cuGetProcAddress returns for a name.
pub fn ask(get: GetProcAddress, name: &str) -> Result<*mut c_void> {
    let symbol = CString::new(name)?;
    let (mut found, mut status) = (null_mut(), 0);
    // SAFETY: `get` is cuGetProcAddress_v2, and every pointer is valid for the call.
    let code = unsafe { get(symbol.as_ptr(), &raw mut found, VERSION, 0, &raw mut status) };
    if code != 0 || found.is_null() {
        bail!("the driver has no {name} (error {code}, status {status})");
    }
    Ok(found)
}
