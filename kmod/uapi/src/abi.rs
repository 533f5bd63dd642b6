//! The C header, in Rust: `kmod/include/uapi/greenboost.h` says what the fields mean.

#![allow(missing_docs, reason = "the header explains them, and a copy would drift")]

use std::mem::{offset_of, size_of};

pub const ABI_MAJOR: u32 = 1;
pub const ABI_MINOR: u32 = 0;
pub const CHUNK_SIZE: u64 = 2 << 20;
pub const LABEL_LEN: usize = 32;

pub const LEVEL_OK: u32 = 0;
pub const LEVEL_LOW: u32 = 1;
pub const LEVEL_CRITICAL: u32 = 2;

pub const CAUSE_MEMORY: u32 = 1 << 0;
pub const CAUSE_DECLINE: u32 = 1 << 1;
pub const CAUSE_POOL: u32 = 1 << 2;
pub const CAUSE_SPILL: u32 = 1 << 3;
pub const CAUSE_SPILL_GONE: u32 = 1 << 4;

pub const ALLOC_MIXED: u32 = 1 << 0;
pub const STATE_SEALED: u32 = 1 << 0;
pub const STATE_SHARED: u32 = 1 << 1;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Info {
    pub abi_major: u32,
    pub abi_minor: u32,
    pub level: u32,
    pub causes: u32,
    pub pool_limit: u64,
    pub pool_used: u64,
    pub user_limit: u64,
    pub user_used: u64,
    pub file_limit: u64,
    pub file_used: u64,
    pub reserve_target: u64,
    pub reserve_ready: u64,
    pub cache_limit: u64,
    pub cache_used: u64,
    pub available: u64,
    pub decline: u64,
    pub spill_free: u64,
    pub refused: u64,
    pub reserved: [u64; 4],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Alloc {
    pub bytes: u64,
    pub flags: u32,
    pub node: i32,
    pub label: [u8; LABEL_LEN],
    pub id: u64,
    pub small_bytes: u64,
    pub ready_bytes: u64,
    pub fd: i32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Query {
    pub id: u64,
    pub bytes: u64,
    pub small_bytes: u64,
    pub state: u32,
    pub uid: u32,
    pub mappings: u32,
    pub attachments: u32,
    pub label: [u8; LABEL_LEN],
    pub reserved: [u64; 2],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Seal {
    pub fd: i32,
    pub flags: u32,
}

/// What bytes these are. The kernel only compares.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key {
    /// The device the model file lies on.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
    /// Its length.
    pub file_bytes: u64,
    /// When it was last written.
    pub mtime_ns: u64,
    /// Where in the file the bytes begin.
    pub offset: u64,
    /// How many they are.
    pub bytes: u64,
    /// How they are laid out in the buffer: the publisher's own number.
    pub layout: u64,
    /// Zero.
    pub reserved: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Publish {
    pub key: Key,
    pub fd: i32,
    pub ttl_ms: u32,
    pub reserved: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Open {
    pub key: Key,
    pub id: u64,
    pub bytes: u64,
    pub fd: i32,
    pub flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Withdraw {
    pub key: Key,
    pub reserved: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Spill {
    pub dir_fd: i32,
    pub flags: u32,
    pub low: u64,
    pub critical: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Eventfd {
    pub fd: i32,
    pub flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Event {
    pub level: u32,
    pub causes: u32,
    pub seq: u64,
    pub available: u64,
    pub spill_free: u64,
}

const READ: u32 = 2;
const WRITE: u32 = 1;

const fn ioc<T>(direction: u32, number: u32) -> u32 {
    direction << 30 | (size_of::<T>() as u32) << 16 | 0xDC << 8 | number
}

pub const IOC_INFO: u32 = ioc::<Info>(READ, 0);
pub const IOC_ALLOC: u32 = ioc::<Alloc>(READ | WRITE, 1);
pub const IOC_QUERY: u32 = ioc::<Query>(READ | WRITE, 2);
pub const IOC_SEAL: u32 = ioc::<Seal>(WRITE, 3);
pub const IOC_PUBLISH: u32 = ioc::<Publish>(WRITE, 4);
pub const IOC_OPEN: u32 = ioc::<Open>(READ | WRITE, 5);
pub const IOC_WITHDRAW: u32 = ioc::<Withdraw>(WRITE, 6);
pub const IOC_SPILL: u32 = ioc::<Spill>(WRITE, 7);
pub const IOC_EVENTFD: u32 = ioc::<Eventfd>(WRITE, 8);

/// All of them, by number.
pub const CALLS: [u32; 9] =
    [IOC_INFO, IOC_ALLOC, IOC_QUERY, IOC_SEAL, IOC_PUBLISH, IOC_OPEN, IOC_WITHDRAW, IOC_SPILL, IOC_EVENTFD];

/// Sizes and offsets as the module asserts them (the end of `kmod/ioctl.c`).
const _: () = {
    assert!(size_of::<Info>() == 160);
    assert!(offset_of!(Info, pool_limit) == 16);
    assert!(offset_of!(Info, refused) == 120);
    assert!(offset_of!(Info, reserved) == 128);
    assert!(size_of::<Alloc>() == 80);
    assert!(offset_of!(Alloc, node) == 12);
    assert!(offset_of!(Alloc, label) == 16);
    assert!(offset_of!(Alloc, id) == 48);
    assert!(offset_of!(Alloc, fd) == 72);
    assert!(size_of::<Query>() == 88);
    assert!(offset_of!(Query, state) == 24);
    assert!(offset_of!(Query, label) == 40);
    assert!(size_of::<Seal>() == 8);
    assert!(size_of::<Key>() == 64);
    assert!(offset_of!(Key, layout) == 48);
    assert!(size_of::<Publish>() == 80);
    assert!(offset_of!(Publish, fd) == 64);
    assert!(size_of::<Open>() == 88);
    assert!(offset_of!(Open, fd) == 80);
    assert!(size_of::<Withdraw>() == 72);
    assert!(size_of::<Spill>() == 24);
    assert!(offset_of!(Spill, low) == 8);
    assert!(size_of::<Eventfd>() == 8);
    assert!(size_of::<Event>() == 32);
    assert!(offset_of!(Event, seq) == 8);
};
