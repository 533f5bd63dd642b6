//! What an allocation takes: of the board's memory, and of the addresses, until it is forgotten.

use crate::errors::{Error, Result};
use crate::va::{self, Origin};

const LARGE: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// What the board accounts for an allocation: 2 MiB pages for large ones, 512 bytes steps for small ones.
pub fn accounted(bytes: u64) -> u64 {
    bytes.next_multiple_of(if bytes >= LARGE { va::GRANULE } else { 512 })
}

/// The addresses an allocation takes up.
pub fn address_len(bytes: u64) -> u64 {
    accounted(bytes).next_multiple_of(PAGE)
}

/// Reserves addresses for an allocation.
pub fn addresses(bytes: u64) -> Result<u64> {
    va::reserve_addresses(address_len(bytes), if bytes >= LARGE { va::GRANULE } else { PAGE }, 0)
}

/// Forgets a mapping that owns its addresses.
pub fn forget(start: u64, wanted: impl Fn(Origin) -> bool) -> Result<va::Mapping> {
    let mut space = va::write();
    if !space.at(start).is_some_and(|mapping| wanted(mapping.origin)) {
        return Err(Error::INVALID_VALUE);
    }
    let mapping = space.remove(start).ok_or(Error::INVALID_VALUE)?;
    match mapping.origin {
        Origin::HostAlloc(_) | Origin::Managed => {
            va::release_addresses(mapping.start, mapping.len.next_multiple_of(PAGE));
        }
        Origin::Alloc | Origin::Pool(_) | Origin::Ipc => va::release_addresses(mapping.start, address_len(mapping.len)),
        Origin::Vmm(_) | Origin::Registered(_) | Origin::Graph => {}
    }
    Ok(mapping)
}

/// Frees what belonged to a context that is gone. Memory from `cuMemCreate` belongs to no context.
pub fn release_context(handle: usize) {
    let of_context = |mapping: &&va::Mapping| mapping.context == handle;
    let starts: Vec<u64> = va::read().all().filter(of_context).map(|mapping| mapping.start).collect();
    for start in starts {
        let _ = forget(start, |origin| !matches!(origin, Origin::Vmm(_) | Origin::Graph));
    }
}
