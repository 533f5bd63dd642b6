//! What the experts of a device need of the driver, in one context: a stream of its own, the id kernel, memory for tables and ids
//! in VRAM, and memory for notes in RAM.

use super::lanes::Lane;
use greenboost_contract::settings::GRANULE;
use greenboost_cuda::Current;
use greenboost_cuda::abi::*;
use greenboost_cuda::vmm::{self, Reservation};
use greenboost_memory::Memory;
use greenboost_memory::access;
use greenboost_memory::device::{Device, Use};
use std::ffi::{CStr, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The id kernel as PTX.
const PTX: &CStr = match CStr::from_bytes_with_nul(concat!(include_str!("ids.ptx"), "\0").as_bytes()) {
    Ok(text) => text,
    Err(_) => panic!("ids.ptx holds no NUL"),
};
const ENTRY: &CStr = c"greenboost_expert_ids";

/// VRAM for tables and ids.
pub const VRAM: u64 = 2 * GRANULE;
/// In it: the counter of notes first, then the tables, then a place for the ids of each stream.
const TABLES: u64 = 4096;
const IDS: u64 = GRANULE;
/// Bytes of a stream's place for ids.
const IDS_EACH: u64 = 16 << 10;
/// Ids that such a place holds.
pub const MOST_IDS: u64 = IDS_EACH / 4;

/// Notes that the ring holds.
pub const NOTES: u32 = 1 << 16;
/// Entries of all tables.
const ENTRIES: u64 = (IDS - TABLES) / 4;
/// `CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP`.
const EVERYWHERE: u32 = 1 | 2;
/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: u32 = 1;

/// See the module.
pub struct Ground {
    /// The context it lives in.
    pub context: CUcontext,
    /// What copies and updates tables.
    pub stream: CUstream,
    base: CUdeviceptr,
    handle: CUmemGenericAllocationHandle,
    /// Pinned: notes, then a mirror of the tables.
    host: *mut u32,
    functions: Vec<(CUcontext, CUfunction)>,
    entries: u64,
    places: u64,
    /// The next note to be read.
    read: u32,
}

// SAFETY: handles are names that any thread may use; the host memory is used under the lock that this lies behind, and by the device.
unsafe impl Send for Ground {}

/// A layer's table: where the device has it, and the mirror's first entry.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// The device's.
    pub at: CUdeviceptr,
    first: usize,
    entries: usize,
}

impl Table {
    /// Whether it is one of this many experts.
    pub fn is_for(&self, experts: u32) -> bool {
        self.entries == experts as usize
    }
}

impl Ground {
    /// In the current context.
    ///
    /// # Errors
    /// `CUDA_ERROR_OUT_OF_MEMORY` when the budget has not this much; else the driver's status.
    pub fn make(memory: &Memory, device: &Device) -> Result<Self, Status> {
        let driver = memory.driver;
        // Programs destroy the contexts that they make, and notes would go with them.
        let current = memory.current_context().map_err(|_| UNKNOWN)?;
        let context = driver.primary_context(device.ordinal).unwrap_or(current);
        let _current = Current::push(driver, context)?;
        if !device.take(Use::Experts, VRAM) {
            return Err(OUT_OF_MEMORY);
        }
        let made = (|| {
            let (mut stream, mut host) = (null_mut(), null_mut());
            // SAFETY: writes handles to live locals.
            unsafe {
                driver.cuStreamCreateWithPriority(&mut stream, NON_BLOCKING, 0)?;
                driver.cuMemHostAlloc(&mut host, NOTES as usize * 4 + ENTRIES as usize * 4, EVERYWHERE)?;
                std::ptr::write_bytes(host.cast::<u8>(), 0, NOTES as usize * 4);
                std::ptr::write_bytes(host.cast::<u8>().add(NOTES as usize * 4), 0xff, ENTRIES as usize * 4);
            }
            let base = Reservation::new(driver, VRAM, GRANULE, 0)?;
            let handle = vmm::create(driver, VRAM, &AllocationProp::pinned(LOCATION_DEVICE, device.ordinal))?;
            // SAFETY: an empty reservation, and memory of its size.
            unsafe { vmm::map(driver, base.at(), VRAM, handle, &access::to_vram(driver, device.ordinal)) }
                .inspect_err(|_| {
                    // SAFETY: made just now, and mapped nowhere.
                    let _ = unsafe { driver.cuMemRelease(handle) };
                })?;
            Ok((stream, host.cast::<u32>(), base.keep(), handle))
        })();
        let (stream, host, base, handle) = made.inspect_err(|_| device.give_back(Use::Experts, VRAM))?;
        let (functions, entries, places, read) = (Vec::new(), 0, 0, 0);
        let ground = Self { context, stream, base, handle, host, functions, entries, places, read };
        let zero = ground.host;
        // The counter begins at 0, as the notes do; tables name no expert slot.
        // SAFETY: pinned memory of ours that nobody writes before the stream is done; VRAM of this size.
        unsafe {
            driver.cuMemcpyAsync(ground.base, zero as CUdeviceptr, 4, stream)?;
            driver.cuMemcpyAsync(ground.base + TABLES, ground.mirror() as CUdeviceptr, ENTRIES as usize * 4, stream)?;
            driver.cuStreamSynchronize(stream)?;
        }
        Ok(ground)
    }

    fn mirror(&self) -> *mut i32 {
        // SAFETY: behind the notes, as allocated.
        unsafe { self.host.add(NOTES as usize) }.cast()
    }

    /// The id kernel in the current context.
    ///
    /// # Errors
    /// The driver's status.
    pub fn function(&mut self, memory: &Memory) -> Result<CUfunction, Status> {
        let context = memory.current_context().map_err(|_| UNKNOWN)?;
        if let Some((_, function)) = self.functions.iter().find(|(of, _)| *of == context) {
            return Ok(*function);
        }
        let (mut module, mut function) = (null_mut(), null_mut());
        // SAFETY: PTX with a NUL at its end; results go to live locals.
        unsafe {
            memory.driver.cuModuleLoadData(&mut module, PTX.as_ptr().cast::<c_void>())?;
            memory.driver.cuModuleGetFunction(&mut function, module, ENTRY.as_ptr())?;
        }
        self.functions.push((context, function));
        Ok(function)
    }

    /// Whether there is anything of ours in a context.
    pub fn is_of(&self, context: CUcontext) -> bool {
        self.context == context || self.functions.iter().any(|(of, _)| *of == context)
    }

    /// A context is gone, and its modules.
    pub fn forget_context(&mut self, context: CUcontext) {
        self.functions.retain(|(of, _)| *of != context);
    }

    /// A queue of launches for a stream. `None`: there is no place for its ids any more, or the driver refuses.
    pub fn lane(&mut self, memory: &Memory, stream: CUstream) -> Option<Lane> {
        if IDS + (self.places + 1) * IDS_EACH > VRAM {
            return None;
        }
        let context = memory.context_of(stream).ok()?;
        // Kernel and events have to be of the stream's context.
        let _current = Current::push(memory.driver, context).ok()?;
        let function = self.function(memory).inspect_err(|status| log::warn!("no id kernel: {status}")).ok()?;
        let out = self.base + IDS + self.places * IDS_EACH;
        let lane = Lane::new(memory.driver, (context, stream), function, out).ok()?;
        self.places += 1;
        Some(lane)
    }

    /// A table for this many experts; none of them has an expert slot.
    pub fn table(&mut self, experts: u32) -> Option<Table> {
        let entries = u64::from(experts);
        if self.entries + entries > ENTRIES {
            return None;
        }
        let first = self.entries;
        self.entries += entries;
        Some(Table { at: self.base + TABLES + first * 4, first: first as usize, entries: experts as usize })
    }

    /// Changes an entry of a table's mirror: the expert's expert slot, or none.
    pub fn set(&mut self, table: Table, expert: u32, slot: Option<u32>) {
        debug_assert!((expert as usize) < table.entries);
        let entry = slot.map_or(-1, |slot| slot as i32);
        // SAFETY: inside the mirror; the device reads a copy of it only when told to.
        unsafe { self.mirror().add(table.first + expert as usize).write_volatile(entry) };
    }

    /// Empties a table's mirror.
    pub fn clear(&mut self, table: Table) {
        (0..table.entries as u32).for_each(|expert| self.set(table, expert, None));
    }

    /// Sends a table's mirror to the device, on our stream.
    ///
    /// # Errors
    /// The driver's status.
    pub fn send(&self, memory: &Memory, table: Table) -> Result<(), Status> {
        // SAFETY: both inside memory of ours.
        let from = unsafe { self.mirror().add(table.first) } as CUdeviceptr;
        // SAFETY: as above.
        unsafe { memory.driver.cuMemcpyAsync(table.at, from, table.entries * 4, self.stream) }
    }

    /// Where the device writes notes, and where it counts them.
    pub fn notes(&self) -> (CUdeviceptr, CUdeviceptr) {
        (self.host as CUdeviceptr, self.base)
    }

    /// The next note, if there is one: layer, expert, and whether it was in an expert slot.
    pub fn next_note(&mut self) -> Option<(usize, u32, bool)> {
        let at = (self.read % NOTES) as usize;
        // SAFETY: inside the ring, which lives as long as this; the device writes whole words.
        let word = unsafe { AtomicU32::from_ptr(self.host.add(at)) };
        let note = word.load(Relaxed);
        if note == 0 {
            return None;
        }
        word.store(0, Relaxed);
        self.read = self.read.wrapping_add(1);
        Some(((note >> 16 & 0x7fff) as usize, note & 0x7fff, note >> 15 & 1 == 1))
    }

    /// Begins anew with the notes, where the device is with them. Nothing is running.
    ///
    /// # Errors
    /// The driver's status.
    pub fn catch_up(&mut self, memory: &Memory) -> Result<(), Status> {
        let mut head = 0u32;
        // SAFETY: the ring, which nobody writes now; four bytes of ours.
        unsafe {
            std::ptr::write_bytes(self.host.cast::<u8>(), 0, NOTES as usize * 4);
            memory.driver.cuMemcpyAsync((&raw mut head) as CUdeviceptr, self.base, 4, self.stream)?;
            memory.driver.cuStreamSynchronize(self.stream)?;
        }
        self.read = head;
        Ok(())
    }

    /// Gives its VRAM back. No launch may be using it any more. The stream, the modules and the notes go with the context.
    pub fn release(self, memory: &Memory, device: &Device) {
        // SAFETY: mapped by us; nobody uses it, as the caller says.
        let undone = unsafe {
            memory.driver.cuMemUnmap(self.base, VRAM as usize).and_then(|()| memory.driver.cuMemRelease(self.handle))
        };
        if let Err(status) = undone {
            log::error!("VRAM of experts' tables could not be given back: {status}");
        }
        vmm::free(memory.driver, self.base, VRAM);
        device.give_back(Use::Experts, VRAM);
    }
}
