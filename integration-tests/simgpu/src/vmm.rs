//! Virtual memory management: reserve addresses, create memory, map it, allow access. None of it waits for work.

use crate::driver;
use crate::edge::{In, Out, driver};
use crate::env::{HostMemory, options};
use crate::errors::{Error, Result};
use crate::physical::{Physical, Place};
use crate::va::{self, Backing, GRANULE, Mapping, Origin};
use crate::world::MAX_BOARDS;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard};

/// `CUmemLocation`
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Location {
    /// `CUmemLocationType`
    pub kind: u32,
    /// Device ordinal or NUMA node.
    pub id: i32,
}

/// `CUmemAllocationProp`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Properties {
    kind: u32,
    handle_types: u32,
    location: Location,
    win32: u64,
    flags: u64,
}

/// `CUmemAccessDesc`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Who.
    pub location: Location,
    /// `CUmemAccess_flags`
    pub flags: u32,
}

impl Properties {
    /// Pinned memory at a location, with the handle types it can be exported as.
    pub fn new(location: Location, handle_types: u32) -> Properties {
        Properties { kind: 1, handle_types, location, win32: 0, flags: 0 }
    }
}

const _: () = assert!(size_of::<Properties>() == size_of::<cudarc::driver::sys::CUmemAllocationProp>());
const _: () = assert!(size_of::<Access>() == size_of::<cudarc::driver::sys::CUmemAccessDesc>());

impl crate::edge::Shown for Location {
    fn shown(&self) -> String {
        format!("{}:{}", self.kind, self.id)
    }
}

const DEVICE: u32 = 1;
const HOST: u32 = 2;
const HOST_NUMA: u32 = 3;
const HOST_NUMA_CURRENT: u32 = 4;

struct Handle {
    memory: Arc<Physical>,
    count: u32,
}

static HANDLES: Mutex<Option<HashMap<u64, Handle>>> = Mutex::new(None);

fn handles() -> MutexGuard<'static, Option<HashMap<u64, Handle>>> {
    HANDLES.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Hands out a handle, or one more reference to it.
pub fn hold(memory: &Arc<Physical>) -> u64 {
    let mut handles = handles();
    let handle = handles.get_or_insert_default().entry(memory.id);
    handle.or_insert_with(|| Handle { memory: memory.clone(), count: 0 }).count += 1;
    memory.id
}

/// The memory of a live handle.
pub fn held(handle: u64) -> Result<Arc<Physical>> {
    let handles = handles();
    let held = handles.as_ref().and_then(|handles| handles.get(&handle));
    held.map(|held| held.memory.clone()).ok_or(Error::INVALID_VALUE)
}

impl Location {
    /// The place of memory that is created here.
    pub fn place(&self) -> Result<Place> {
        let host = match self.kind {
            DEVICE => return Ok(Place::Device(driver::device(self.id)?.ordinal)),
            HOST => true,
            HOST_NUMA => self.id == 0,
            HOST_NUMA_CURRENT => true,
            _ => false,
        };
        if !host {
            return Err(Error::INVALID_VALUE);
        }
        if options().host_numa == HostMemory::Unsupported {
            return Err(Error::NOT_SUPPORTED);
        }
        Ok(Place::Host(self.kind))
    }
}

fn checked_place(properties: &Properties) -> Result<Place> {
    if !options().vmm {
        return Err(Error::NOT_SUPPORTED);
    }
    // Pinned memory is the only kind; descriptors are the only handles that can be shared.
    if properties.kind != 1 || properties.win32 != 0 {
        return Err(Error::INVALID_VALUE);
    }
    if properties.handle_types & !1 != 0 {
        return Err(Error::NOT_SUPPORTED);
    }
    properties.location.place()
}

/// Reservations that have been given back, the latest last.
static GIVEN_BACK: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

/// The addresses of the latest of a length; 0 when there is none.
fn given_back(len: u64) -> u64 {
    let mut given_back = GIVEN_BACK.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let latest = given_back.iter().rposition(|(_, of)| *of == len);
    latest.map_or(0, |at| given_back.remove(at).0)
}

fn granular(value: u64) -> Result {
    if value == 0 || !value.is_multiple_of(GRANULE) { Err(Error::INVALID_VALUE) } else { Ok(()) }
}

/// Lets the host into mapped host memory, or shuts it out again.
fn show_to_host(mapping: &Mapping, rights: u8) -> Result {
    let Backing::Physical(memory, offset) = &mapping.backing else { return Err(Error::INVALID_VALUE) };
    let (file, start) = memory.file();
    let (protection, flags, file) = match rights {
        0 => (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1),
        1 => (libc::PROT_READ, libc::MAP_SHARED, file),
        _ => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file),
    };
    let start = if file < 0 { 0 } else { start + offset };
    // SAFETY: replaces pages inside a reservation of ours.
    let at = unsafe {
        libc::mmap(
            mapping.start as *mut c_void,
            mapping.len as usize,
            protection,
            flags | libc::MAP_FIXED,
            file,
            start as i64,
        )
    };
    if at == libc::MAP_FAILED { Err(Error::OPERATING_SYSTEM) } else { Ok(()) }
}

fn set_access(start: u64, len: u64, list: &[Access]) -> Result {
    let mut space = va::write();
    let maps = space.tiles(start, len)?;
    for access in list {
        if access.flags > 3 || access.flags == 2 {
            return Err(Error::INVALID_VALUE);
        }
        let rights = access.flags as u8;
        let device = match access.location.kind {
            DEVICE => Some(driver::device(access.location.id)?.ordinal),
            HOST | HOST_NUMA | HOST_NUMA_CURRENT => None,
            _ => return Err(Error::INVALID_VALUE),
        };
        for map in &maps {
            let mapping = space.at_mut(*map).ok_or(Error::INVALID_VALUE)?;
            if !matches!(mapping.origin, Origin::Vmm(_)) {
                return Err(Error::INVALID_VALUE);
            }
            match device {
                Some(device) => mapping.rights[device] = rights,
                None if mapping.on_host() => {
                    show_to_host(mapping, rights)?;
                    mapping.host_rights = rights;
                }
                None => return Err(Error::INVALID_VALUE),
            }
        }
    }
    Ok(())
}

driver! {
    [init] "cuMemGetAllocationGranularity" 10020 cuMemGetAllocationGranularity(
        _call, out: Out<usize>, properties: In<Properties>, option: u32,
    ) {
        checked_place(&properties.get()?)?;
        if option > 1 { return Err(Error::INVALID_VALUE) }
        out.put(GRANULE as usize)
    }

    [init] "cuMemAddressReserve" 10020 cuMemAddressReserve(
        _call, out: Out<u64>, len: usize, align: usize, wanted: u64, flags: u64,
    ) {
        if !options().vmm {
            return Err(Error::NOT_SUPPORTED);
        }
        granular(len as u64)?;
        let align = if align == 0 { GRANULE } else { align as u64 };
        if out.is_null() || flags != 0 || !align.is_power_of_two() {
            return Err(Error::INVALID_VALUE);
        }
        let wanted = if options().address_hints { wanted } else { given_back(len as u64) };
        let start = va::reserve_addresses(len as u64, align.max(GRANULE), wanted)?;
        va::write().reserve(start, len as u64);
        out.put(start)
    }

    [init] "cuMemAddressFree" 10020 cuMemAddressFree(_call, start: u64, len: usize) {
        let mut space = va::write();
        let known = space.reservation(start) == Some((start, len as u64));
        if !known || space.within(start, len as u64).next().is_some() {
            return Err(Error::INVALID_VALUE);
        }
        space.unreserve(start);
        va::release_addresses(start, len as u64);
        GIVEN_BACK.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((start, len as u64));
        Ok(())
    }

    [init] "cuMemCreate" 10020 cuMemCreate(
        _call, out: Out<u64>, size: usize, properties: In<Properties>, flags: u64,
    ) {
        let properties = properties.get()?;
        let place = checked_place(&properties)?;
        granular(size as u64)?;
        if out.is_null() || flags != 0 {
            return Err(Error::INVALID_VALUE);
        }
        let memory = crate::pool::or_trim(|| {
            Physical::create(place, size as u64, properties.handle_types, properties.flags)
        })?;
        out.put(hold(&memory))
    }

    [init] "cuMemRelease" 10020 cuMemRelease(_call, handle: u64) {
        let mut handles = handles();
        let table = handles.get_or_insert_default();
        let held = table.get_mut(&handle).ok_or(Error::INVALID_VALUE)?;
        held.count -= 1;
        let last = if held.count == 0 { table.remove(&handle) } else { None };
        drop(handles);
        drop(last);
        Ok(())
    }

    [init] "cuMemRetainAllocationHandle" 11000 cuMemRetainAllocationHandle(_call, out: Out<u64>, address: u64) {
        let space = va::read();
        let mapping = space.find(address).ok_or(Error::INVALID_VALUE)?;
        match (&mapping.backing, mapping.origin) {
            (Backing::Physical(memory, _), Origin::Vmm(_)) => out.put(hold(memory)),
            _ => Err(Error::INVALID_VALUE),
        }
    }

    [init] "cuMemGetAllocationPropertiesFromHandle" 10020 cuMemGetAllocationPropertiesFromHandle(
        _call, out: Out<Properties>, handle: u64,
    ) {
        let memory = held(handle)?;
        let location = match memory.place {
            Place::Device(device) => Location { kind: DEVICE, id: device as i32 },
            Place::Host(kind) => Location { kind, id: 0 },
        };
        out.put(Properties {
            kind: 1,
            handle_types: memory.handle_types,
            location,
            win32: 0,
            flags: memory.flags,
        })
    }

    [init] "cuMemMap" 10020 cuMemMap(_call, start: u64, len: usize, offset: usize, handle: u64, flags: u64) {
        let memory = held(handle)?;
        granular(len as u64)?;
        if !start.is_multiple_of(GRANULE) || offset != 0 || flags != 0 || len as u64 > memory.size {
            return Err(Error::INVALID_VALUE);
        }
        let mut space = va::write();
        let (reserved, size) = space.reservation(start).ok_or(Error::INVALID_VALUE)?;
        let inside = start + len as u64 <= reserved + size;
        if !inside || space.within(start, len as u64).next().is_some() {
            return Err(Error::INVALID_VALUE);
        }
        let backing = Backing::Physical(memory, 0);
        space.insert(start, len as u64, backing, Origin::Vmm(reserved), [0; MAX_BOARDS], 0);
        Ok(())
    }

    [init] "cuMemUnmap" 10020 cuMemUnmap(_call, start: u64, len: usize) {
        let removed: Vec<Mapping> = {
            let mut space = va::write();
            let maps = space.tiles(start, len as u64)?;
            let ours = |map: &u64| space.at(*map).is_some_and(|map| matches!(map.origin, Origin::Vmm(_)));
            if !maps.iter().all(ours) {
                return Err(Error::INVALID_VALUE);
            }
            let removed: Vec<Mapping> = maps.into_iter().filter_map(|map| space.remove(map)).collect();
            for mapping in removed.iter().filter(|mapping| mapping.host_rights != 0) {
                show_to_host(mapping, 0)?;
            }
            removed
        };
        // Memory is given back outside the lock: that can take time.
        drop(removed);
        Ok(())
    }

    [init] "cuMemSetAccess" 10020 cuMemSetAccess(_call, start: u64, len: usize, list: In<Access>, count: usize) {
        if count == 0 { return Err(Error::INVALID_VALUE) }
        set_access(start, len as u64, &list.list(count)?)
    }

    [init] "cuMemGetAccess" 10020 cuMemGetAccess(_call, out: Out<u64>, location: In<Location>, address: u64) {
        let location = location.get()?;
        let space = va::read();
        let mapping = space.find(address).filter(|mapping| matches!(mapping.origin, Origin::Vmm(_)));
        let mapping = mapping.ok_or(Error::INVALID_VALUE)?;
        out.put(u64::from(match location.kind {
            DEVICE => mapping.rights[driver::device(location.id)?.ordinal],
            HOST | HOST_NUMA | HOST_NUMA_CURRENT => mapping.host_rights,
            _ => return Err(Error::INVALID_VALUE),
        }))
    }
}
