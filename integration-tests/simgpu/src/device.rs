//! Devices: their identity, their attributes and the account of their memory.

use crate::clock::Compute;
use crate::env::{HostMemory, options};
use crate::errors::{Error, Result};
use crate::link::Link;
use crate::world::{self, Board, Entry, Usage};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

static USAGE: OnceLock<Usage> = OnceLock::new();

/// The machine's memory usage.
pub fn usage() -> &'static Usage {
    USAGE.get_or_init(Usage::open)
}

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
    entry: &'static Entry,
}

impl Device {
    /// A device over a board; what it uses goes into this process's entry.
    pub fn new(ordinal: usize, board: usize, entry: &'static Entry) -> Device {
        Device { ordinal, board, link: Link::default(), compute: Compute::default(), entry }
    }

    /// The board it is.
    pub fn description(&self) -> &'static Board {
        &world::boards()[self.board]
    }

    /// Bytes of VRAM.
    pub fn total(&self) -> u64 {
        self.description().vram
    }

    /// Bytes of VRAM nobody holds.
    pub fn free(&self) -> u64 {
        self.total().saturating_sub(usage().used(self.board))
    }

    /// Takes VRAM, or fails exactly when there is not enough.
    pub fn charge(&self, bytes: u64) -> Result {
        let _lock = usage().lock();
        if bytes > self.free() {
            return Err(Error::OUT_OF_MEMORY);
        }
        self.entry.used[self.board].fetch_add(bytes, Ordering::AcqRel);
        Ok(())
    }

    /// Gives VRAM back.
    pub fn uncharge(&self, bytes: u64) {
        self.entry.used[self.board].fetch_sub(bytes, Ordering::AcqRel);
    }

    /// A `CUdevice_attribute`.
    pub fn attribute(&self, attribute: u32) -> Result<i32> {
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
                // DMA-BUFs of device memory.
                124 => Some(1),
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
