//! VRAM that the driver gave the program directly: what is to be given back to the budget when it goes.

use greenboost_cuda::abi::{CUcontext, CUdevice, CUdeviceptr, CUmemGenericAllocationHandle};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Allocations left to the driver: bytes, device and context by address.
#[derive(Default)]
pub struct Plain(Mutex<HashMap<CUdeviceptr, (u64, CUdevice, usize)>>);

impl Plain {
    fn lock(&self) -> MutexGuard<'_, HashMap<CUdeviceptr, (u64, CUdevice, usize)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plain {
    /// Notes an allocation that the driver made, whose bytes have been taken from the budget.
    pub fn note(&self, at: CUdeviceptr, bytes: u64, device: CUdevice, context: CUcontext) {
        self.lock().insert(at, (bytes, device, context as usize));
    }

    /// The allocation is gone: its bytes and device, if it is known.
    pub fn remove(&self, at: CUdeviceptr) -> Option<(u64, CUdevice)> {
        self.lock().remove(&at).map(|(bytes, device, _)| (bytes, device))
    }

    /// A context is gone, and its allocations with it: address, bytes and device of each.
    pub fn remove_context(&self, context: CUcontext) -> Vec<(CUdeviceptr, u64, CUdevice)> {
        let gone = self.lock().extract_if(|_, (_, _, of)| *of == context as usize).collect::<Vec<_>>();
        gone.into_iter().map(|(at, (bytes, device, _))| (at, bytes, device)).collect()
    }
}

/// A piece of physical memory: it counts until it has neither a handle nor a mapping.
#[derive(Debug)]
struct Physical {
    bytes: u64,
    device: CUdevice,
    /// References that handles hold.
    handles: usize,
    maps: usize,
}

#[derive(Debug, Default)]
struct Mappings {
    physical: HashMap<u64, Physical>,
    /// Handles are given out again as soon as they are released, while the memory lives on under its mappings:
    /// only our own numbers name memory. With each, how often it has been given out for it.
    by_handle: HashMap<CUmemGenericAllocationHandle, (u64, usize)>,
    by_address: BTreeMap<CUdeviceptr, (u64, u64)>,
    next: u64,
}

impl Mappings {
    /// Removes the memory when nothing holds it; its device and bytes.
    fn settle(&mut self, number: u64) -> Option<(CUdevice, u64)> {
        let memory = self.physical.get(&number)?;
        if memory.handles > 0 || memory.maps > 0 {
            return None;
        }
        self.physical.remove(&number).map(|memory| (memory.device, memory.bytes))
    }
}

/// Physical memory of devices that the program created and maps itself.
#[derive(Debug, Default)]
pub struct MappedByProgram(Mutex<Mappings>);

impl MappedByProgram {
    fn lock(&self) -> MutexGuard<'_, Mappings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `cuMemCreate` gave this handle.
    pub fn created(&self, handle: CUmemGenericAllocationHandle, bytes: u64, device: CUdevice) {
        let mut all = self.lock();
        let number = all.next;
        all.next += 1;
        all.physical.insert(number, Physical { bytes, device, handles: 1, maps: 0 });
        all.by_handle.insert(handle, (number, 1));
    }

    /// `cuMemRetainAllocationHandle` gave this handle of what is mapped at an address: perhaps another, perhaps the same once
    /// more.
    pub fn retained(&self, handle: CUmemGenericAllocationHandle, at: CUdeviceptr) {
        let mut all = self.lock();
        let Some((from, (bytes, number))) = all.by_address.range(..=at).next_back().map(|(at, of)| (*at, *of)) else {
            return;
        };
        if at - from >= bytes {
            return;
        }
        if let Some(memory) = all.physical.get_mut(&number) {
            memory.handles += 1;
        }
        let held = all.by_handle.entry(handle).or_insert((number, 0));
        *held = if held.0 == number { (number, held.1 + 1) } else { (number, 1) };
    }

    /// `cuMemRelease` succeeded. Device and bytes that are free now, if any.
    pub fn released(&self, handle: CUmemGenericAllocationHandle) -> Option<(CUdevice, u64)> {
        let mut all = self.lock();
        let (number, held) = all.by_handle.get_mut(&handle)?;
        let number = *number;
        *held -= 1;
        if *held == 0 {
            all.by_handle.remove(&handle);
        }
        all.physical.get_mut(&number)?.handles -= 1;
        all.settle(number)
    }

    /// `cuMemMap` succeeded.
    pub fn mapped(&self, at: CUdeviceptr, bytes: u64, handle: CUmemGenericAllocationHandle) {
        let mut all = self.lock();
        let Some((number, _)) = all.by_handle.get(&handle).copied() else { return };
        if let Some(memory) = all.physical.get_mut(&number) {
            memory.maps += 1;
        }
        all.by_address.insert(at, (bytes, number));
    }

    /// `cuMemUnmap` of a range succeeded. Devices and bytes that are free now.
    pub fn unmapped(&self, at: CUdeviceptr, bytes: u64) -> Vec<(CUdevice, u64)> {
        let mut all = self.lock();
        let gone: Vec<_> =
            all.by_address.range(at..at.saturating_add(bytes)).map(|(at, (_, number))| (*at, *number)).collect();
        let mut freed = Vec::new();
        for (at, number) in gone {
            all.by_address.remove(&at);
            if let Some(memory) = all.physical.get_mut(&number) {
                memory.maps -= 1;
            }
            freed.extend(all.settle(number));
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_whose_handle_was_released_counts_until_its_last_mapping_goes() {
        // As ggml's pool does it, with the driver giving the same handle out again.
        let all = MappedByProgram::default();
        for step in 0..3 {
            all.created(7, 10, 0);
            all.mapped(100 + step * 10, 10, 7);
            assert_eq!(all.released(7), None, "it is still mapped");
        }
        assert_eq!(all.unmapped(100, 30), vec![(0, 10); 3], "one unmap over many maps");
        assert_eq!(all.unmapped(100, 30), vec![]);
    }

    #[test]
    fn memory_counts_until_every_handle_that_was_retained_is_released() {
        // The driver gives the same handle once more, or another.
        for again in [7, 8] {
            let all = MappedByProgram::default();
            all.created(7, 10, 0);
            all.mapped(100, 10, 7);
            all.retained(again, 109);
            all.retained(9, 110);
            assert_eq!((all.released(7), all.released(9)), (None, None), "the second is of nothing that is known");
            assert_eq!(all.unmapped(100, 10), vec![]);
            assert_eq!((all.released(again), all.released(again)), (Some((0, 10)), None));
        }
    }

    #[test]
    fn memory_with_a_handle_outlives_its_mappings_and_counts_once() {
        let all = MappedByProgram::default();
        all.created(7, 10, 1);
        all.mapped(0, 10, 7);
        all.mapped(50, 10, 7);
        assert_eq!(all.unmapped(0, 60), vec![]);
        assert_eq!(all.released(7), Some((1, 10)));
        assert_eq!(all.released(7), None, "a second release is the driver's to refuse");
    }
}
