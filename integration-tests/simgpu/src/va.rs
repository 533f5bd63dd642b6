//! The device address space: which address leads to which memory, and who may touch it.
//!
//! There is one for the process, as unified addressing has it. Device addresses are reserved in the process too
//! (without access), so host code that touches device memory faults as on hardware, and host memory may be mapped
//! into a reservation and registered there.

use crate::errors::{Error, Result};
use crate::physical::{Physical, Place};
use crate::world::MAX_BOARDS;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Granule of virtual memory management.
pub const GRANULE: u64 = 2 << 20;
/// Read access, as in `CUmemAccess_flags`.
pub const READ: u8 = 1;
/// Read and write access.
pub const READ_WRITE: u8 = 3;

/// What an address leads to.
#[derive(Clone)]
pub enum Backing {
    /// Memory of the driver, from an offset.
    Physical(Arc<Physical>, u64),
    /// The program's memory at the very same address.
    Host,
    /// Reserved by a graph, and only there while the graph runs.
    Pending,
}

/// How a mapping came to be; it decides what a copy may cross and what a pointer query says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// `cuMemMap` into the reservation that starts here.
    Vmm(u64),
    /// `cuMemAlloc` and `cuMemAllocPitch`.
    Alloc,
    /// A memory pool, by its handle.
    Pool(usize),
    /// A memory node of a graph.
    Graph,
    /// `cuMemHostAlloc` with its flags.
    HostAlloc(u32),
    /// `cuMemHostRegister` with its flags.
    Registered(u32),
    /// `cuMemAllocManaged`.
    Managed,
    /// Another process's memory.
    Ipc,
}

/// A range of addresses that leads somewhere.
#[derive(Clone)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Where it leads.
    pub backing: Backing,
    /// How it came to be.
    pub origin: Origin,
    /// Access by device ordinal.
    pub rights: [u8; MAX_BOARDS],
    /// Access by the host, for memory of the driver that the host may touch.
    pub host_rights: u8,
    /// The context it belongs to, 0 for none.
    pub context: usize,
    /// Unique over the life of the process.
    pub id: u64,
}

impl Mapping {
    /// First address after it.
    pub fn end(&self) -> u64 {
        self.start + self.len
    }

    /// The device whose VRAM it is.
    pub fn device(&self) -> Option<usize> {
        match &self.backing {
            Backing::Physical(memory, _) => match memory.place {
                Place::Device(device) => Some(device),
                Place::Host(_) => None,
            },
            _ => None,
        }
    }

    /// Whether it is system memory.
    pub fn on_host(&self) -> bool {
        match &self.backing {
            Backing::Physical(memory, _) => matches!(memory.place, Place::Host(_)),
            Backing::Host => true,
            Backing::Pending => false,
        }
    }
}

/// The page table.
#[derive(Default)]
pub struct AddressSpace {
    maps: BTreeMap<u64, Mapping>,
    reservations: BTreeMap<u64, u64>,
}

static SPACE: RwLock<AddressSpace> = RwLock::new(AddressSpace { maps: BTreeMap::new(), reservations: BTreeMap::new() });
static GENERATION: AtomicU64 = AtomicU64::new(1);
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Counts the changes of the page table: a translation is good while this stays the same.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// The page table, to look something up.
pub fn read() -> RwLockReadGuard<'static, AddressSpace> {
    SPACE.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The page table, to change it.
pub fn write() -> RwLockWriteGuard<'static, AddressSpace> {
    let space = SPACE.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    GENERATION.fetch_add(1, Ordering::AcqRel);
    space
}

impl AddressSpace {
    /// The mapping an address lies in.
    pub fn find(&self, address: u64) -> Option<&Mapping> {
        let (_, mapping) = self.maps.range(..=address).next_back()?;
        (address < mapping.end()).then_some(mapping)
    }

    /// The mapping that starts exactly here.
    pub fn at(&self, start: u64) -> Option<&Mapping> {
        self.maps.get(&start)
    }

    /// The mapping that starts exactly here, to change it.
    pub fn at_mut(&mut self, start: u64) -> Option<&mut Mapping> {
        self.maps.get_mut(&start)
    }

    /// The mappings that touch a range, in order.
    pub fn within(&self, start: u64, len: u64) -> impl Iterator<Item = &Mapping> {
        let first = self.find(start).map_or(start, |mapping| mapping.start);
        self.maps.range(first..start.saturating_add(len).max(first)).map(|(_, mapping)| mapping)
    }

    /// Every mapping.
    pub fn all(&self) -> impl Iterator<Item = &Mapping> {
        self.maps.values()
    }

    /// Starts of the mappings that exactly tile a range: no hole, nothing sticking out.
    pub fn tiles(&self, start: u64, len: u64) -> Result<Vec<u64>> {
        let mut next = start;
        let mut starts = Vec::new();
        for mapping in self.within(start, len) {
            if mapping.start != next {
                return Err(Error::INVALID_VALUE);
            }
            starts.push(mapping.start);
            next = mapping.end();
        }
        if next == start + len && len > 0 { Ok(starts) } else { Err(Error::INVALID_VALUE) }
    }

    /// Enters a mapping; the range must be free.
    pub fn insert(
        &mut self,
        start: u64,
        len: u64,
        backing: Backing,
        origin: Origin,
        rights: [u8; MAX_BOARDS],
        context: usize,
    ) {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let mapping = Mapping { start, len, backing, origin, rights, host_rights: 0, context, id };
        self.maps.insert(start, mapping);
    }

    /// Takes a mapping out.
    pub fn remove(&mut self, start: u64) -> Option<Mapping> {
        self.maps.remove(&start)
    }

    /// Notes a reservation.
    pub fn reserve(&mut self, start: u64, len: u64) {
        self.reservations.insert(start, len);
    }

    /// The reservation an address lies in.
    pub fn reservation(&self, address: u64) -> Option<(u64, u64)> {
        let (start, len) = self.reservations.range(..=address).next_back()?;
        (address < start + len).then_some((*start, *len))
    }

    /// Forgets a reservation that starts here.
    pub fn unreserve(&mut self, start: u64) -> Option<u64> {
        self.reservations.remove(&start)
    }
}

/// Rights of one device only.
pub fn only(device: usize) -> [u8; MAX_BOARDS] {
    let mut rights = [0; MAX_BOARDS];
    rights[device] = READ_WRITE;
    rights
}

/// Reserves addresses in the process, without access. `wanted` is a hint.
pub fn reserve_addresses(len: u64, align: u64, wanted: u64) -> Result<u64> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let try_at = |address: u64, len: u64, extra: i32| {
        // SAFETY: without MAP_FIXED a new mapping replaces nothing.
        let at = unsafe { libc::mmap(address as *mut _, len as usize, libc::PROT_NONE, flags | extra, -1, 0) };
        if at == libc::MAP_FAILED { None } else { Some(at as u64) }
    };
    if wanted != 0 && wanted.is_multiple_of(align) {
        match try_at(wanted, len, libc::MAP_FIXED_NOREPLACE) {
            Some(at) if at == wanted => return Ok(at),
            Some(at) => release_addresses(at, len),
            None => {}
        }
    }
    let slack = len.checked_add(align).ok_or(Error::OUT_OF_MEMORY)?;
    let start = try_at(0, slack, 0).ok_or(Error::OUT_OF_MEMORY)?;
    let aligned = start.next_multiple_of(align);
    if aligned > start {
        release_addresses(start, aligned - start);
    }
    release_addresses(aligned + len, start + slack - (aligned + len));
    Ok(aligned)
}

/// Gives addresses back to the process.
pub fn release_addresses(start: u64, len: u64) {
    if len > 0 {
        // SAFETY: a range this module reserved and nobody uses any more.
        unsafe { libc::munmap(start as *mut _, len as usize) };
    }
}
