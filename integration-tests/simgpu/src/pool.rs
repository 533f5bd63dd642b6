//! Stream-ordered memory: pools, asynchronous allocation and free, and the memory nodes of graphs.

use crate::accounting::{accounted, address_len, addresses, forget};
use crate::driver;
use crate::errors::{Error, Result};
use crate::handles::Handles;
use crate::physical::{Physical, Place};
use crate::va::{self, Backing, Origin, READ_WRITE, only};
use crate::world::MAX_BOARDS;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

/// A memory pool.
pub struct Pool {
    /// Its `CUmemoryPool`.
    pub handle: usize,
    /// Where its memory is.
    pub place: Place,
    /// As what its memory may be given to other processes.
    pub handle_types: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cached: Vec<Arc<Physical>>,
    /// Frees that have not taken place yet.
    freed: Vec<Freed>,
    /// Addresses of those whose memory is somebody else's already.
    reused: HashSet<u64>,
    threshold: u64,
    switches: [u32; 4],
    used: u64,
    used_high: u64,
    reserved: u64,
    reserved_high: u64,
    rights: [u8; MAX_BOARDS],
}

/// Memory whose free waits for its turn in a stream.
struct Freed {
    address: u64,
    stream: u64,
    memory: Arc<Physical>,
}

/// The live pools.
pub static POOLS: Handles<Pool> = Handles::new(4, Error::INVALID_VALUE);

/// The pools of a device.
#[derive(Clone, Default)]
pub struct PoolsOfDevice {
    default: Option<Arc<Pool>>,
    /// The one the program chose.
    pub current: Option<Arc<Pool>>,
}

static OF_DEVICE: Mutex<Option<HashMap<usize, PoolsOfDevice>>> = Mutex::new(None);

/// Looks at, or changes, the pools of a device; with its default one.
pub fn of_device<R>(ordinal: usize, change: impl FnOnce(&mut PoolsOfDevice, Arc<Pool>) -> R) -> R {
    let mut table = OF_DEVICE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let pools = table.get_or_insert_default().entry(ordinal).or_default();
    let default = pools.default.get_or_insert_with(|| Pool::create(Place::Device(ordinal), 0)).clone();
    change(pools, default)
}

/// The pool `cuMemAllocAsync` takes from on a device.
pub fn current_of(ordinal: usize) -> Arc<Pool> {
    of_device(ordinal, |pools, default| pools.current.clone().unwrap_or(default))
}

impl Pool {
    /// Makes a pool.
    pub fn create(place: Place, handle_types: u32) -> Arc<Pool> {
        let rights = match place {
            Place::Device(device) => only(device),
            Place::Host(_) => [READ_WRITE; MAX_BOARDS],
        };
        let state = State { rights, switches: [1; 4], ..State::default() };
        POOLS.insert(|handle| Pool { handle, place, handle_types, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes memory for a stream, and what the devices may do with it. What the same stream has been told to free is there for
    /// it at once: whatever uses it next comes after the last use.
    pub fn take(&self, size: u64, stream: u64) -> Result<(Arc<Physical>, [u8; MAX_BOARDS])> {
        let mut state = self.state();
        if let Some(at) = state.freed.iter().position(|freed| freed.stream == stream && freed.memory.size == size) {
            let freed = state.freed.swap_remove(at);
            state.reused.insert(freed.address);
            return Ok((freed.memory, state.rights));
        }
        let fits = state.cached.iter().position(|memory| memory.size == size);
        let memory = match fits {
            Some(index) => state.cached.swap_remove(index),
            None => {
                drop(state);
                let memory = or_trim(|| Physical::create(self.place, size, self.handle_types, 0))?;
                state = self.state();
                state.reserved += size;
                state.reserved_high = state.reserved_high.max(state.reserved);
                memory
            }
        };
        state.used += size;
        state.used_high = state.used_high.max(state.used);
        Ok((memory, state.rights))
    }

    /// A stream is told to free what is at an address.
    pub fn freed(&self, address: u64, stream: u64) -> Result {
        let backing = va::read().at(address).map(|mapping| mapping.backing.clone());
        let Some(Backing::Physical(memory, _)) = backing else { return Err(Error::INVALID_VALUE) };
        let mut state = self.state();
        if state.reused.contains(&address) || state.freed.iter().any(|freed| freed.address == address) {
            return Err(Error::INVALID_VALUE);
        }
        state.freed.push(Freed { address, stream, memory });
        Ok(())
    }

    /// It could not be told.
    pub fn not_freed(&self, address: u64) {
        self.state().freed.retain(|freed| freed.address != address);
    }

    fn give_back(&self, address: u64, memory: Arc<Physical>) {
        let mut state = self.state();
        if state.reused.remove(&address) {
            return;
        }
        state.freed.retain(|freed| freed.address != address);
        state.used = state.used.saturating_sub(memory.size);
        state.cached.push(memory);
    }

    /// Gives cached memory back to the device until no more than `keep` bytes are reserved.
    pub fn trim(&self, keep: u64) {
        let mut state = self.state();
        while state.reserved > keep {
            let Some(memory) = state.cached.pop() else { break };
            state.reserved -= memory.size;
        }
    }

    /// Opens the pool to devices.
    pub fn allow(&self, device: usize, rights: u8) {
        self.state().rights[device] = rights;
        let mut space = va::write();
        let own = |mapping: &&va::Mapping| mapping.origin == Origin::Pool(self.handle);
        let starts: Vec<u64> = space.all().filter(own).map(|mapping| mapping.start).collect();
        for start in starts {
            if let Some(mapping) = space.at_mut(start) {
                mapping.rights[device] = rights;
            }
        }
    }

    /// What a device may do.
    pub fn rights(&self, device: usize) -> u8 {
        self.state().rights[device]
    }

    /// Reads an attribute: the value, and whether it has 8 bytes.
    pub fn attribute(&self, attribute: u32) -> Result<(u64, bool)> {
        let state = self.state();
        Ok(match attribute {
            1..=3 => (state.switches[attribute as usize].into(), false),
            4 => (state.threshold, true),
            5 => (state.reserved, true),
            6 => (state.reserved_high, true),
            7 => (state.used, true),
            8 => (state.used_high, true),
            _ => return Err(Error::INVALID_VALUE),
        })
    }

    /// Sets an attribute; the two high-water marks can only be reset.
    pub fn set_attribute(&self, attribute: u32, value: u64) -> Result {
        let mut state = self.state();
        match (attribute, value) {
            (1..=3, _) => state.switches[attribute as usize] = value as u32,
            (4, _) => state.threshold = value,
            (6, 0) => state.reserved_high = state.reserved,
            (8, 0) => state.used_high = state.used,
            _ => return Err(Error::INVALID_VALUE),
        }
        Ok(())
    }
}

/// After a synchronisation pools keep no more than their threshold.
pub fn trim_after_sync(ordinal: usize) {
    for pool in POOLS.all().iter().filter(|pool| pool.place == Place::Device(ordinal)) {
        let threshold = pool.state().threshold;
        pool.trim(threshold);
    }
}

/// Tries to take memory; if there is none, pools give up what they keep before it fails.
pub fn or_trim<T>(take: impl Fn() -> Result<T>) -> Result<T> {
    let taken = take();
    if !matches!(taken, Err(Error::OUT_OF_MEMORY)) {
        return taken;
    }
    POOLS.all().iter().for_each(|pool| pool.trim(0));
    take()
}

/// A free that has reached its turn.
pub fn free_now(address: u64) -> Result {
    let Ok(mapping) = forget(address, |origin| matches!(origin, Origin::Pool(_) | Origin::Alloc)) else {
        return Ok(());
    };
    if let (Backing::Physical(memory, _), Origin::Pool(pool)) = (mapping.backing, mapping.origin)
        && let Ok(pool) = POOLS.get(pool)
    {
        pool.give_back(address, memory);
    }
    Ok(())
}

/// Memory of a graph: its address is fixed when the node is made, its bytes exist while the graph needs them.
pub struct GraphMemory {
    /// Where.
    pub address: u64,
    len: u64,
    device: usize,
    memory: Mutex<Option<Arc<Physical>>>,
}

impl GraphMemory {
    /// Reserves its addresses.
    pub fn reserve(device: usize, len: u64) -> Result<Arc<GraphMemory>> {
        let address = addresses(len)?;
        va::write().insert(address, len, Backing::Pending, Origin::Graph, only(device), 0);
        Ok(Arc::new(GraphMemory { address, len, device, memory: Mutex::new(None) }))
    }

    fn memory(&self) -> MutexGuard<'_, Option<Arc<Physical>>> {
        self.memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes the memory for a launch.
    pub fn back(&self) -> Result {
        let mut memory = self.memory();
        if memory.is_none() {
            *memory = Some(or_trim(|| Physical::create(Place::Device(self.device), accounted(self.len), 0, 0))?);
        }
        Ok(())
    }

    /// The node runs.
    pub fn appear(&self) {
        if let (Some(memory), Some(mapping)) = (self.memory().clone(), va::write().at_mut(self.address)) {
            mapping.backing = Backing::Physical(memory, 0);
        }
    }
}

impl Drop for GraphMemory {
    fn drop(&mut self) {
        if !driver::forked() && va::write().remove(self.address).is_some() {
            va::release_addresses(self.address, address_len(self.len));
        }
    }
}

/// Memory of a graph is freed; its address stays the graph's.
pub fn disappear(address: u64) -> Result {
    let mut space = va::write();
    let mapping = space.at_mut(address).filter(|mapping| mapping.origin == Origin::Graph);
    mapping.ok_or(Error::INVALID_VALUE)?.backing = Backing::Pending;
    Ok(())
}
