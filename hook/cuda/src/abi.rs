//! The driver's binary interface as the hook sees it.
//!
//! Types come from `cudarc::driver::sys`; nothing of that crate is ever called. Two differences are deliberate:
//!
//! * results and enumerations that cross the border are plain integers, because a newer driver may use values
//!   that a Rust enum does not have;
//! * structures with such members have twins here, checked against cudarc's at compile time.

pub use crate::status::*;
use cudarc::driver::sys;
pub use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUgraph, CUgraphExec, CUlaunchAttribute, CUlaunchConfig,
    CUmemGenericAllocationHandle, CUmemoryPool, CUmodule, CUstream,
};
use std::ffi::{c_int, c_uint, c_void};
use std::mem::{offset_of, size_of};

/// `CUmemLocation`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// One of the `LOCATION_` values.
    pub kind: c_uint,
    /// Device ordinal or NUMA node.
    pub id: c_int,
}

/// `CU_MEM_LOCATION_TYPE_DEVICE`.
pub const LOCATION_DEVICE: c_uint = 1;
/// `CU_MEM_LOCATION_TYPE_HOST_NUMA`.
pub const LOCATION_HOST_NUMA: c_uint = 3;

/// `CUmemAllocationProp`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct AllocationProp {
    /// [`ALLOCATION_PINNED`], or another kind of memory.
    pub kind: c_uint,
    /// Handle types to export; 0 for none.
    pub handle_types: c_uint,
    /// Where the memory is.
    pub location: Location,
    /// Unused outside Windows.
    pub win32: *mut c_void,
    /// Compression, RDMA, usage; zero.
    pub flags: [u8; 8],
}

impl AllocationProp {
    /// Pinned memory at a location, not exportable.
    pub fn pinned(kind: c_uint, id: c_int) -> Self {
        let (location, win32) = (Location { kind, id }, std::ptr::null_mut());
        Self { kind: ALLOCATION_PINNED, handle_types: 0, location, win32, flags: [0; 8] }
    }
}

/// `CUmemPoolProps`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct PoolProp {
    /// [`ALLOCATION_PINNED`], or another kind of memory.
    pub kind: c_uint,
    /// Handle types to export; 0 for none.
    pub handle_types: c_uint,
    /// Where the memory is.
    pub location: Location,
    /// Unused outside Windows.
    pub win32: *mut c_void,
    /// The most it ever has; 0 for no limit.
    pub most_bytes: usize,
    /// Usage, and bytes for later.
    pub flags: [u8; 56],
}

/// `CU_MEM_ALLOCATION_TYPE_PINNED`.
pub const ALLOCATION_PINNED: c_uint = 1;

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct AccessDesc {
    /// Who may access.
    pub location: Location,
    /// `CU_MEM_ACCESS_FLAGS_PROT_READWRITE` is 3.
    pub flags: c_uint,
}

impl AccessDesc {
    /// Reading and writing by one device.
    pub fn read_write(device: CUdevice) -> Self {
        Self { location: Location { kind: LOCATION_DEVICE, id: device }, flags: 3 }
    }
}

/// `CU_EXTERNAL_MEMORY_HANDLE_TYPE_DMABUF_FD`.
const HANDLE_DMABUF_FD: c_uint = 9;

/// `CUDA_EXTERNAL_MEMORY_HANDLE_DESC` for a file descriptor.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ExternalMemory {
    kind: c_uint,
    /// The first member of a union of two pointers.
    fd: Padded,
    bytes: u64,
    flags: c_uint,
    reserved: [c_uint; 16],
}

#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
struct Padded {
    fd: c_int,
    rest: [c_int; 3],
}

impl ExternalMemory {
    /// A DMA-BUF of `bytes` bytes.
    pub fn dma_buf(fd: c_int, bytes: u64) -> Self {
        Self { kind: HANDLE_DMABUF_FD, fd: Padded { fd, rest: [0; 3] }, bytes, flags: 0, reserved: [0; 16] }
    }
}

/// One side of `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Side2D {
    /// Bytes.
    pub x: usize,
    /// Rows.
    pub y: usize,
    /// One of the `MEMORY_` values.
    pub kind: c_uint,
    /// For [`MEMORY_HOST`].
    pub host: *mut c_void,
    /// For [`MEMORY_DEVICE`] and [`MEMORY_UNIFIED`].
    pub device: CUdeviceptr,
    /// For [`MEMORY_ARRAY`].
    pub array: *mut c_void,
    /// Bytes from row to row.
    pub pitch: usize,
}

/// `CU_STREAM_LEGACY`: what the null stream means, but in the per-thread forms of functions. It cannot capture.
pub const STREAM_LEGACY: CUstream = 1 as CUstream;
/// `CU_STREAM_PER_THREAD`: what the null stream means in those forms. The name of another stream on every thread.
pub const STREAM_PER_THREAD: CUstream = 2 as CUstream;
/// Streams without a name of their own: what they stand for depends on the function and thread that say it.
pub fn has_name(stream: CUstream) -> bool {
    stream as usize > STREAM_PER_THREAD as usize
}

/// `CU_MEMORYTYPE_HOST`.
pub const MEMORY_HOST: c_uint = 1;
/// `CU_MEMORYTYPE_DEVICE`.
pub const MEMORY_DEVICE: c_uint = 2;
/// `CU_MEMORYTYPE_ARRAY`.
pub const MEMORY_ARRAY: c_uint = 3;
/// `CU_MEMORYTYPE_UNIFIED`: the address alone says where it is.
pub const MEMORY_UNIFIED: c_uint = 4;

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Memcpy2D {
    /// Where bytes come from.
    pub src: Side2D,
    /// Where they go.
    pub dst: Side2D,
    /// Bytes of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// One side of `CUDA_MEMCPY3D` and `CUDA_MEMCPY3D_PEER`, which differ in the meaning of `context` alone.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Side3D {
    /// Bytes.
    pub x: usize,
    /// Rows.
    pub y: usize,
    /// Slices.
    pub z: usize,
    /// Level of detail.
    pub lod: usize,
    /// One of the `MEMORY_` values.
    pub kind: c_uint,
    /// For [`MEMORY_HOST`].
    pub host: *mut c_void,
    /// For [`MEMORY_DEVICE`] and [`MEMORY_UNIFIED`].
    pub device: CUdeviceptr,
    /// For [`MEMORY_ARRAY`].
    pub array: *mut c_void,
    /// Reserved, or the context of a peer copy.
    pub context: *mut c_void,
    /// Bytes from row to row.
    pub pitch: usize,
    /// Rows from slice to slice.
    pub height: usize,
}

/// `CUDA_MEMCPY3D` and `CUDA_MEMCPY3D_PEER`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Memcpy3D {
    /// Where bytes come from.
    pub src: Side3D,
    /// Where they go.
    pub dst: Side3D,
    /// Bytes of a row.
    pub width: usize,
    /// Rows of a slice.
    pub height: usize,
    /// Slices.
    pub depth: usize,
}

/// One side of a [`BoxCopy`]: `CUmemcpy3DOperand`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Operand3D {
    /// [`OPERAND_POINTER`] or [`OPERAND_ARRAY`].
    pub kind: c_uint,
    /// The address, or the array.
    pub what: u64,
    /// Of an address: elements from row to row and rows from slice to slice, 0 where they follow each other without a gap; and
    /// a hint. Of an array: elements, rows and slices from its corner.
    pub numbers: [usize; 3],
}

/// `CU_MEMCPY_OPERAND_TYPE_POINTER`.
pub const OPERAND_POINTER: c_uint = 1;
/// `CU_MEMCPY_OPERAND_TYPE_ARRAY`.
pub const OPERAND_ARRAY: c_uint = 2;

/// `CUDA_MEMCPY3D_BATCH_OP`. Elements are bytes where no side is an array.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct BoxCopy {
    /// Where elements come from.
    pub src: Operand3D,
    /// Where they go.
    pub dst: Operand3D,
    /// Elements of a row, rows, slices.
    pub size: [usize; 3],
    /// When the source is read: `CUmemcpySrcAccessOrder`.
    pub source_order: c_uint,
    /// Flags.
    pub flags: c_uint,
}

/// `CUDA_ARRAY3D_DESCRIPTOR`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct ArrayDescriptor {
    /// Elements of a row, rows, slices.
    pub size: [usize; 3],
    /// `CUarray_format`.
    pub format: c_uint,
    /// Channels of an element.
    pub channels: c_uint,
    /// Flags.
    pub flags: c_uint,
}

impl ArrayDescriptor {
    /// Bytes of an element; `None` of formats that have no such thing, or a newer driver's.
    pub fn element_bytes(&self) -> Option<usize> {
        let channel = match self.format {
            1 | 8 => 1,
            2 | 9 | 0x10 => 2,
            3 | 0xa | 0x20 => 4,
            _ => return None,
        };
        Some(channel * self.channels as usize)
    }
}

/// `nvmlMemory_t`. Bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct NvmlMemory {
    /// Installed.
    pub total: u64,
    /// Unallocated.
    pub free: u64,
    /// Allocated.
    pub used: u64,
}

/// `nvmlMemory_v2_t`. Bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct NvmlMemoryV2 {
    /// Structure version, set by the caller.
    pub version: c_uint,
    /// Installed.
    pub total: u64,
    /// Kept by the driver.
    pub reserved: u64,
    /// Unallocated.
    pub free: u64,
    /// Allocated.
    pub used: u64,
}

const _: () = {
    assert!(size_of::<Location>() == size_of::<sys::CUmemLocation>());
    assert!(size_of::<AllocationProp>() == size_of::<sys::CUmemAllocationProp>());
    assert!(offset_of!(AllocationProp, location) == offset_of!(sys::CUmemAllocationProp, location));
    assert!(offset_of!(AllocationProp, flags) == offset_of!(sys::CUmemAllocationProp, allocFlags));
    assert!(size_of::<PoolProp>() == size_of::<sys::CUmemPoolProps>());
    assert!(offset_of!(PoolProp, location) == offset_of!(sys::CUmemPoolProps, location));
    assert!(offset_of!(PoolProp, most_bytes) == offset_of!(sys::CUmemPoolProps, maxSize));
    assert!(size_of::<AccessDesc>() == size_of::<sys::CUmemAccessDesc>());
    assert!(size_of::<ExternalMemory>() == size_of::<sys::CUDA_EXTERNAL_MEMORY_HANDLE_DESC>());
    assert!(offset_of!(ExternalMemory, fd) == offset_of!(sys::CUDA_EXTERNAL_MEMORY_HANDLE_DESC, handle));
    assert!(offset_of!(ExternalMemory, bytes) == offset_of!(sys::CUDA_EXTERNAL_MEMORY_HANDLE_DESC, size));
    assert!(HANDLE_DMABUF_FD == sys::CUexternalMemoryHandleType::CU_EXTERNAL_MEMORY_HANDLE_TYPE_DMABUF_FD as c_uint);
    assert!(size_of::<Memcpy2D>() == size_of::<sys::CUDA_MEMCPY2D>());
    assert!(offset_of!(Memcpy2D, dst) == offset_of!(sys::CUDA_MEMCPY2D, dstXInBytes));
    assert!(offset_of!(Side2D, pitch) == offset_of!(sys::CUDA_MEMCPY2D, srcPitch));
    assert!(offset_of!(Memcpy2D, width) == offset_of!(sys::CUDA_MEMCPY2D, WidthInBytes));
    assert!(size_of::<Memcpy3D>() == size_of::<sys::CUDA_MEMCPY3D>());
    assert!(size_of::<Memcpy3D>() == size_of::<sys::CUDA_MEMCPY3D_PEER>());
    assert!(offset_of!(Memcpy3D, dst) == offset_of!(sys::CUDA_MEMCPY3D, dstXInBytes));
    assert!(offset_of!(Side3D, height) == offset_of!(sys::CUDA_MEMCPY3D, srcHeight));
    assert!(offset_of!(Memcpy3D, width) == offset_of!(sys::CUDA_MEMCPY3D_PEER, WidthInBytes));
    assert!(size_of::<BoxCopy>() == size_of::<sys::CUDA_MEMCPY3D_BATCH_OP>());
    assert!(offset_of!(BoxCopy, size) == offset_of!(sys::CUDA_MEMCPY3D_BATCH_OP, extent));
    assert!(offset_of!(Operand3D, what) == offset_of!(sys::CUmemcpy3DOperand, op));
    assert!(size_of::<ArrayDescriptor>() == size_of::<sys::CUDA_ARRAY3D_DESCRIPTOR>());
    assert!(offset_of!(ArrayDescriptor, format) == offset_of!(sys::CUDA_ARRAY3D_DESCRIPTOR, Format));
    assert!(size_of::<NvmlMemory>() == 24);
    assert!(size_of::<NvmlMemoryV2>() == 40);
};
