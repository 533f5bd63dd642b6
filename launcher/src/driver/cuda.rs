//! The few driver calls that the probe makes, found at run time: nothing here links CUDA.

use libloading::{Library, Symbol};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// The driver's library.
pub const FILE: &str = "libcuda.so.1";

/// Highest clock of the multiprocessors, in kHz.
pub const CLOCK: c_int = 13;
/// Multiprocessors.
pub const MULTIPROCESSORS: c_int = 16;
/// Compute capability, major.
pub const COMPUTE_MAJOR: c_int = 75;
/// Compute capability, minor.
pub const COMPUTE_MINOR: c_int = 76;
/// Virtual memory management.
pub const VMM: c_int = 102;
/// The NUMA node nearest to the device.
pub const HOST_NUMA_ID: c_int = 134;
/// Virtual memory management for memory on a NUMA node of the host.
pub const HOST_NUMA_VMM: c_int = 141;

/// `CU_MEM_LOCATION_TYPE_DEVICE`.
pub const AT_DEVICE: c_int = 1;
/// `CU_MEM_LOCATION_TYPE_HOST_NUMA`.
pub const AT_HOST_NUMA: c_int = 3;
/// `CU_MEM_ALLOCATION_TYPE_PINNED`.
const PINNED: c_int = 1;
/// `CU_MEM_ACCESS_FLAGS_PROT_READWRITE`.
const READ_WRITE: c_int = 3;
/// `CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP`.
pub const REGISTER_PORTABLE_MAPPED: c_uint = 3;
/// The same, and `CU_MEMHOSTREGISTER_READ_ONLY`.
pub const REGISTER_READ_ONLY: c_uint = REGISTER_PORTABLE_MAPPED | 8;

/// `CUmemLocation`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Location {
    kind: c_int,
    id: c_int,
}

/// `CUmemAllocationProp`.
#[repr(C)]
#[derive(Debug)]
pub struct Properties {
    kind: c_int,
    handle_types: c_int,
    location: Location,
    win32: *mut c_void,
    flags: [u8; 8],
}

impl Properties {
    /// Pinned memory at a place.
    pub fn new(kind: c_int, id: c_int) -> Self {
        Self {
            kind: PINNED,
            handle_types: 0,
            location: Location { kind, id },
            win32: std::ptr::null_mut(),
            flags: [0; 8],
        }
    }
}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Debug)]
pub struct Access {
    location: Location,
    flags: c_int,
}

impl Access {
    /// A device may read and write.
    pub fn device(device: c_int) -> Self {
        Self { location: Location { kind: AT_DEVICE, id: device }, flags: READ_WRITE }
    }
}

const _: () = assert!(size_of::<Properties>() == 32 && size_of::<Access>() == 12);

/// A call that failed, by name, with the driver's word for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call} returned {code}")]
pub struct CudaError {
    call: &'static str,
    code: String,
}

impl CudaError {
    /// Whether it only says that work is still going on.
    pub fn is_not_ready(&self) -> bool {
        self.code == "CUDA_ERROR_NOT_READY"
    }
}

/// Declares a table of functions that are looked up together, with a method for each that checks its result.
macro_rules! functions {
    ($(#[$doc:meta])* $table:ident { $($method:ident = $symbol:literal ($($arg:ident: $type:ty),*);)+ }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $table {
            $($method: unsafe extern "C" fn($($type),*) -> c_int,)+
            name: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int,
        }

        impl $table {
            /// Looks all functions up. `library` must stay loaded while the table is used.
            ///
            /// # Errors
            /// The name of the first that is missing.
            pub fn find(library: &Library) -> Result<Self, &'static str> {
                Ok(Self {
                    // SAFETY: the names and signatures are those of cuda.h; the caller keeps the library.
                    $($method: unsafe { *symbol(library, $symbol)? },)+
                    // SAFETY: as above.
                    name: unsafe { *symbol(library, "cuGetErrorName")? },
                })
            }

            $(
                #[doc = concat!("`", $symbol, "`.")]
                ///
                /// # Safety
                /// As the driver's documentation says; pointers must be valid for what it writes or reads.
                #[allow(clippy::too_many_arguments, reason = "the driver's signature")]
                pub unsafe fn $method(&self, $($arg: $type),*) -> Result<(), CudaError> {
                    // SAFETY: handed on to the caller.
                    match unsafe { (self.$method)($($arg),*) } {
                        0 => Ok(()),
                        code => Err(CudaError { call: $symbol, code: self.word(code) }),
                    }
                }
            )+

            fn word(&self, code: c_int) -> String {
                let mut text = std::ptr::null();
                // SAFETY: the driver writes a pointer to a string that lives as long as it is loaded.
                if unsafe { (self.name)(code, &mut text) } != 0 || text.is_null() {
                    return format!("error {code}");
                }
                // SAFETY: as above; not null.
                unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
            }
        }
    };
}

/// # Safety
/// `T` must be the type of the symbol.
unsafe fn symbol<'a, T>(library: &'a Library, name: &'static str) -> Result<Symbol<'a, T>, &'static str> {
    // SAFETY: handed on to the caller.
    unsafe { library.get(name) }.map_err(|_| name)
}

functions! {
    /// What every driver has, also one that is too old for everything else.
    Basics {
        init = "cuInit" (flags: c_uint);
        driver_version = "cuDriverGetVersion" (version: *mut c_int);
        device_count = "cuDeviceGetCount" (count: *mut c_int);
    }
}

functions! {
    /// What the probe needs beyond [`Basics`].
    Calls {
        device = "cuDeviceGet" (device: *mut c_int, index: c_int);
        device_name = "cuDeviceGetName" (name: *mut c_char, length: c_int, device: c_int);
        device_uuid = "cuDeviceGetUuid_v2" (uuid: *mut [u8; 16], device: c_int);
        attribute = "cuDeviceGetAttribute" (value: *mut c_int, attribute: c_int, device: c_int);
        retain = "cuDevicePrimaryCtxRetain" (context: *mut *mut c_void, device: c_int);
        release = "cuDevicePrimaryCtxRelease_v2" (device: c_int);
        set_current = "cuCtxSetCurrent" (context: *mut c_void);
        synchronize = "cuCtxSynchronize" ();
        memory_info = "cuMemGetInfo_v2" (free: *mut usize, total: *mut usize);
        alloc = "cuMemAlloc_v2" (address: *mut u64, bytes: usize);
        free = "cuMemFree_v2" (address: u64);
        to_device = "cuMemcpyHtoD_v2" (to: u64, from: *const c_void, bytes: usize);
        to_host = "cuMemcpyDtoH_v2" (to: *mut c_void, from: u64, bytes: usize);
        granularity = "cuMemGetAllocationGranularity" (bytes: *mut usize, properties: *const Properties, option: c_int);
        create = "cuMemCreate" (handle: *mut u64, bytes: usize, properties: *const Properties, flags: u64);
        release_handle = "cuMemRelease" (handle: u64);
        reserve = "cuMemAddressReserve" (address: *mut u64, bytes: usize, alignment: usize, at: u64, flags: u64);
        free_address = "cuMemAddressFree" (address: u64, bytes: usize);
        map = "cuMemMap" (address: u64, bytes: usize, offset: usize, handle: u64, flags: u64);
        unmap = "cuMemUnmap" (address: u64, bytes: usize);
        set_access = "cuMemSetAccess" (address: u64, bytes: usize, access: *const Access, count: usize);
        register = "cuMemHostRegister_v2" (address: *mut c_void, bytes: usize, flags: c_uint);
        unregister = "cuMemHostUnregister" (address: *mut c_void);
        load_module = "cuModuleLoadData" (module: *mut *mut c_void, image: *const c_void);
        unload_module = "cuModuleUnload" (module: *mut c_void);
        function = "cuModuleGetFunction" (function: *mut *mut c_void, module: *mut c_void, name: *const c_char);
        launch = "cuLaunchKernel" (
            function: *mut c_void, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint,
            block_x: c_uint, block_y: c_uint, block_z: c_uint, shared: c_uint,
            stream: *mut c_void, parameters: *mut *mut c_void, extra: *mut *mut c_void
        );
    }
}

functions! {
    /// What measuring needs beyond [`Calls`].
    Transfers {
        host_alloc = "cuMemHostAlloc" (address: *mut *mut c_void, bytes: usize, flags: c_uint);
        set_words = "cuMemsetD32_v2" (to: u64, word: c_uint, words: usize);
        to_device_async = "cuMemcpyHtoDAsync_v2" (to: u64, from: *const c_void, bytes: usize, stream: *mut c_void);
        query = "cuStreamQuery" (stream: *mut c_void);
    }
}
