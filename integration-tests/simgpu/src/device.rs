//! Devices: their identity, their attributes and the account of their memory.

use crate::clock::Compute;
use crate::driver;
use crate::edge::{In, Out, driver};
use crate::env::{HostMemory, options};
use crate::errors::{Error, Result};
use crate::link::Link;
use crate::world::{self, Board, Slot};
use std::ffi::c_char;
use std::sync::atomic::Ordering;

/// A device the program sees.
pub struct Device {
    /// The program's number for it.
    pub ordinal: usize,
    /// Its place in the machine.
    pub board: usize,
    /// The link to the host.
    pub link: Link,
    /// Its multiprocessors.
    pub compute: Compute,
    slot: &'static Slot,
}

impl Device {
    /// A device over a board; what it uses goes into this process's slot.
    pub fn new(ordinal: usize, board: usize, slot: &'static Slot) -> Device {
        Device { ordinal, board, link: Link::default(), compute: Compute::default(), slot }
    }

    fn description(&self) -> &'static Board {
        &world::boards()[self.board]
    }

    /// Bytes of VRAM.
    pub fn total(&self) -> u64 {
        self.description().vram
    }

    /// Bytes of VRAM nobody holds.
    pub fn free(&self) -> u64 {
        self.total().saturating_sub(driver::usage().used(self.board))
    }

    /// Takes VRAM, or fails exactly when there is not enough.
    pub fn charge(&self, bytes: u64) -> Result {
        let _lock = driver::usage().lock();
        if bytes > self.free() {
            return Err(Error::OUT_OF_MEMORY);
        }
        self.slot.used[self.board].fetch_add(bytes, Ordering::AcqRel);
        Ok(())
    }

    /// Gives VRAM back.
    pub fn uncharge(&self, bytes: u64) {
        self.slot.used[self.board].fetch_sub(bytes, Ordering::AcqRel);
    }

    fn attribute(&self, attribute: u32) -> Result<i32> {
        let vmm = options().vmm as i32;
        let host_numa = (options().vmm && options().host_numa != HostMemory::Unsupported) as i32;
        let register = options().host_register as i32;
        let read_only = (options().host_register && options().read_only != HostMemory::Unsupported) as i32;
        let bus = self.board as i32 + 1;
        ATTRIBUTES
            .iter()
            .find(|(id, _)| *id == attribute)
            .map(|(_, value)| *value)
            .or(match attribute {
                16 => Some(options().multiprocessors),
                33 => Some(bus),
                99 => Some(register),
                113 => Some(read_only),
                102 | 103 => Some(vmm),
                141 | 145 => Some(host_numa),
                0 => None,
                // Present in the header, absent from this device.
                1..=160 => Some(0),
                _ => None,
            })
            .ok_or(Error::INVALID_VALUE)
    }
}

/// A Hopper-like board without the abilities nothing here needs (textures, fabric, multicast, HMM).
const ATTRIBUTES: &[(u32, i32)] = &[
    (1, 1024),        // MAX_THREADS_PER_BLOCK
    (2, 1024),        // MAX_BLOCK_DIM_X
    (3, 1024),        // MAX_BLOCK_DIM_Y
    (4, 64),          // MAX_BLOCK_DIM_Z
    (5, i32::MAX),    // MAX_GRID_DIM_X
    (6, 65535),       // MAX_GRID_DIM_Y
    (7, 65535),       // MAX_GRID_DIM_Z
    (8, 49152),       // MAX_SHARED_MEMORY_PER_BLOCK
    (9, 65536),       // TOTAL_CONSTANT_MEMORY
    (10, 32),         // WARP_SIZE
    (11, i32::MAX),   // MAX_PITCH
    (12, 65536),      // MAX_REGISTERS_PER_BLOCK
    (13, 1_980_000),  // CLOCK_RATE
    (14, 512),        // TEXTURE_ALIGNMENT
    (15, 1),          // GPU_OVERLAP
    (19, 1),          // CAN_MAP_HOST_MEMORY
    (30, 512),        // SURFACE_ALIGNMENT
    (31, 1),          // CONCURRENT_KERNELS
    (32, 1),          // ECC_ENABLED
    (36, 2_619_000),  // MEMORY_CLOCK_RATE
    (37, 5120),       // GLOBAL_MEMORY_BUS_WIDTH
    (38, 52_428_800), // L2_CACHE_SIZE
    (39, 2048),       // MAX_THREADS_PER_MULTIPROCESSOR
    (40, 3),          // ASYNC_ENGINE_COUNT
    (41, 1),          // UNIFIED_ADDRESSING
    (51, 32),         // TEXTURE_PITCH_ALIGNMENT
    (75, 9),          // COMPUTE_CAPABILITY_MAJOR
    (76, 0),          // COMPUTE_CAPABILITY_MINOR
    (78, 1),          // STREAM_PRIORITIES_SUPPORTED
    (79, 1),          // GLOBAL_L1_CACHE_SUPPORTED
    (80, 1),          // LOCAL_L1_CACHE_SUPPORTED
    (81, 233_472),    // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
    (82, 65536),      // MAX_REGISTERS_PER_MULTIPROCESSOR
    (83, 1),          // MANAGED_MEMORY
    (87, 2),          // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
    (89, 1),          // CONCURRENT_MANAGED_ACCESS
    (90, 1),          // COMPUTE_PREEMPTION_SUPPORTED
    (91, 1),          // CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM
    (92, 1),          // CAN_USE_STREAM_MEM_OPS_V1
    (93, 1),          // CAN_USE_64_BIT_STREAM_MEM_OPS_V1
    (95, 1),          // COOPERATIVE_LAUNCH
    (97, 232_448),    // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    (106, 32),        // MAX_BLOCKS_PER_MULTIPROCESSOR
    (111, 1024),      // RESERVED_SHARED_MEMORY_PER_BLOCK
    (115, 1),         // MEMORY_POOLS_SUPPORTED
    (119, 1),         // MEMPOOL_SUPPORTED_HANDLE_TYPES
    (120, 1),         // CLUSTER_LAUNCH
    (122, 1),         // CAN_USE_64_BIT_STREAM_MEM_OPS
    (126, 4),         // MEM_SYNC_DOMAIN_COUNT
    (131, -1),        // NUMA_ID
];

/// The UUID as CUDA's struct.
pub type Uuid = [u8; 16];

fn write_text(text: &str, out: Out<c_char>, room: i32) -> Result {
    let room = usize::try_from(room).map_err(|_| Error::INVALID_VALUE)?;
    if out.is_null() || room == 0 {
        return Err(Error::INVALID_VALUE);
    }
    let shown = text.bytes().take(room - 1).chain([0]).map(|byte| byte as c_char);
    out.fill(shown, room);
    Ok(())
}

driver! {
    [init] "cuDeviceGet" 2000 cuDeviceGet(_call, out: Out<i32>, ordinal: i32) {
        driver::device(ordinal)?;
        out.put(ordinal)
    }

    [init] "cuDeviceGetCount" 2000 cuDeviceGetCount(_call, count: Out<i32>) {
        count.put(driver::devices().len() as i32)
    }

    [init] "cuDeviceGetName" 2000 cuDeviceGetName(_call, name: Out<c_char>, room: i32, device: i32) {
        write_text(driver::device(device)?.description().name(), name, room)
    }

    [init] "cuDeviceGetUuid" 9020 cuDeviceGetUuid(_call, uuid: Out<Uuid>, device: i32) {
        uuid.put(driver::device(device)?.description().uuid())
    }

    [init] "cuDeviceGetUuid" 11040 cuDeviceGetUuid_v2(_call, uuid: Out<Uuid>, device: i32) {
        uuid.put(driver::device(device)?.description().uuid())
    }

    [init] "cuDeviceGetLuid" 10000 cuDeviceGetLuid(_call, _luid: Out<c_char>, _mask: Out<u32>, _device: i32) {
        Err(Error::NOT_SUPPORTED)
    }

    [init] "cuDeviceGetAttribute" 2000 cuDeviceGetAttribute(_call, out: Out<i32>, attribute: u32, device: i32) {
        out.put(driver::device(device)?.attribute(attribute)?)
    }

    [init] "cuDeviceComputeCapability" 2000 cuDeviceComputeCapability(
        _call, major: Out<i32>, minor: Out<i32>, device: i32,
    ) {
        let device = driver::device(device)?;
        major.put(device.attribute(75)?)?;
        minor.put(device.attribute(76)?)
    }

    [init] "cuDeviceTotalMem" 3020 cuDeviceTotalMem_v2(_call, bytes: Out<usize>, device: i32) {
        bytes.put(driver::device(device)?.total() as usize)
    }

    [init] "cuDeviceGetPCIBusId" 4010 cuDeviceGetPCIBusId(_call, id: Out<c_char>, room: i32, device: i32) {
        write_text(&driver::device(device)?.description().pci_text(), id, room)
    }

    [init] "cuDeviceGetByPCIBusId" 4010 cuDeviceGetByPCIBusId(_call, out: Out<i32>, id: In<c_char>) {
        let id = id.text()?;
        let wanted = |device: &&crate::device::Device| {
            let full = device.description().pci_text();
            let id = id.to_ascii_uppercase();
            id.ends_with(&full) || full.ends_with(&id)
        };
        let device = driver::devices().iter().find(wanted).ok_or(Error::INVALID_DEVICE)?;
        out.put(device.ordinal as i32)
    }

    [init] "cuDeviceCanAccessPeer" 4000 cuDeviceCanAccessPeer(_call, can: Out<i32>, device: i32, peer: i32) {
        driver::device(device)?;
        driver::device(peer)?;
        can.put((device != peer) as i32)
    }

    [init] "cuDeviceGetP2PAttribute" 8000 cuDeviceGetP2PAttribute(
        _call, value: Out<i32>, attribute: u32, source: i32, destination: i32,
    ) {
        driver::device(source)?;
        driver::device(destination)?;
        if source == destination {
            return Err(Error::INVALID_DEVICE);
        }
        value.put(matches!(attribute, 2..=4) as i32)
    }

    [ctx] "cuMemGetInfo" 3020 cuMemGetInfo_v2(call, free: Out<usize>, total: Out<usize>) {
        let context = call.context()?;
        let device = context.device();
        free.opt(device.free() as usize);
        total.opt(device.total() as usize);
        Ok(())
    }
}
