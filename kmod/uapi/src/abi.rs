//! The C header, in Rust: `kmod/include/uapi/greenboost.h` says what the fields mean.

#![allow(missing_docs, reason = "the header explains them, and a copy would drift")]

use std::mem::{offset_of, size_of};

pub const ABI_MAJOR: u32 = 2;
pub const ABI_MINOR: u32 = 0;
pub const CHUNK_BYTES: u64 = 2 << 20;
/// The unit of allocation, and the congruence a mapping needs: 2 MiB.
pub const CHUNK: usize = CHUNK_BYTES as usize;

pub const LEVEL_OK: u32 = 0;
pub const LEVEL_LOW: u32 = 1;
pub const LEVEL_CRITICAL: u32 = 2;

pub const CAUSE_MEMORY: u32 = 1 << 0;
pub const CAUSE_DECLINE: u32 = 1 << 1;
pub const CAUSE_POOL: u32 = 1 << 2;
pub const CAUSE_SPILL: u32 = 1 << 3;
pub const CAUSE_SPILL_GONE: u32 = 1 << 4;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Info {
    pub abi_major: u32,
    pub abi_minor: u32,
    pub ram_level: u32,
    pub spill_level: u32,
    pub causes: u32,
    pub reserved0: u32,
    pub pool_limit_bytes: u64,
    pub pool_used_bytes: u64,
    pub user_limit_bytes: u64,
    pub user_used_bytes: u64,
    pub file_limit_bytes: u64,
    pub file_used_bytes: u64,
    pub reserve_wanted_bytes: u64,
    pub reserve_ready_bytes: u64,
    pub available_bytes: u64,
    pub decline_bytes_per_s: u64,
    pub spill_free_bytes: u64,
    pub refused: u64,
    pub reserved: [u64; 4],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Alloc {
    pub bytes: u64,
    pub flags: u32,
    pub node: i32,
    pub ready_bytes: u64,
    pub fd: i32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Event {
    pub ram_level: u32,
    pub spill_level: u32,
    pub causes: u32,
    pub reserved: u32,
    pub seq: u64,
    pub available_bytes: u64,
    pub spill_free_bytes: u64,
}

const READ: u32 = 2;
const WRITE: u32 = 1;

const fn ioc<T>(direction: u32, number: u32) -> u32 {
    direction << 30 | (size_of::<T>() as u32) << 16 | 0xDC << 8 | number
}

pub const IOC_INFO: u32 = ioc::<Info>(READ, 0);
pub const IOC_ALLOC: u32 = ioc::<Alloc>(READ | WRITE, 1);

/// All of them, by number.
pub const CALLS: [u32; 2] = [IOC_INFO, IOC_ALLOC];

/// Sizes and offsets as the module asserts them (the end of `kmod/ioctl.c`).
const _: () = {
    assert!(size_of::<Info>() == 152);
    assert!(offset_of!(Info, pool_limit_bytes) == 24);
    assert!(offset_of!(Info, refused) == 112);
    assert!(offset_of!(Info, reserved) == 120);
    assert!(size_of::<Alloc>() == 32);
    assert!(offset_of!(Alloc, node) == 12);
    assert!(offset_of!(Alloc, fd) == 24);
    assert!(size_of::<Event>() == 40);
    assert!(offset_of!(Event, seq) == 16);
};
