//! Making room in VRAM: chunks of spanning allocations move to RAM behind their addresses.

use super::access;
use super::allocations::{Allocation, Chunk, Home, Table, Wish};
use super::claim::Claim;
use super::device::Device;
use super::gate::GATE;
use super::turns::{Piece, turns};
use super::vram::Use;
use super::{Memory, captures};
use crate::ggml::registry;
use crate::stream;
use greenboost_contract::format_size;
use greenboost_cuda::abi::*;
use greenboost_cuda::{Current, RelaxedCapture};
use std::cmp::Reverse;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

/// Who asks for room: only what wants VRAM less makes way, and among equals only what belongs to a larger allocation.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// How much the newcomer wants to be in VRAM.
    pub wish: Wish,
    /// Bytes of the newcomer.
    pub size: u64,
}

impl Request {
    /// What can live in VRAM only, such as scratch that the program maps itself.
    pub const MUST: Self = Self { wish: Wish::HOT, size: 0 };

    fn beats(&self, wish: Wish, size: u64) -> bool {
        wish < self.wish || wish == self.wish && size > self.size
    }
}

impl Memory {
    /// Takes `bytes` of VRAM from the budget, making room where needed and possible.
    pub fn take_vram(&self, device: &Device, what: Use, bytes: u64) -> bool {
        loop {
            if device.budget.take(what, bytes, device.record) {
                return true;
            }
            let short = bytes.saturating_sub(device.budget.left());
            if bytes > device.budget.limit() {
                return false;
            }
            // What the program has freed on a stream is the cheapest room. Another thread may take what was freed:
            // again, as long as there is something to free or to move.
            if self.reap(true) == 0 && self.make_room(device, short.max(1), Request::MUST) == 0 {
                return false;
            }
        }
    }

    /// Runs a driver call that needs VRAM of its own; when the driver has none, makes room once and runs it
    /// again. `bytes` is what the call needs, or a guess.
    pub fn retry(&self, device: &Device, bytes: u64, mut call: impl FnMut() -> Status) -> Status {
        match call() {
            OUT_OF_MEMORY => self.again(device, bytes, call),
            status => status,
        }
    }

    /// Makes room for a call that was refused with OUT_OF_MEMORY, and runs it once more if there is any.
    pub fn again(&self, device: &Device, bytes: u64, mut call: impl FnMut() -> Status) -> Status {
        let (needed, freed) = (bytes.max(self.settings.chunk), self.reap(true));
        let moved = if freed < needed { self.make_room(device, needed - freed, Request::MUST) } else { 0 };
        if freed + moved == 0 {
            return OUT_OF_MEMORY;
        }
        let status = call();
        if status == SUCCESS {
            device.record.retries.fetch_add(1, Relaxed);
        }
        status
    }

    /// Moves at least `needed` bytes of chunks from VRAM to RAM, of those that `request` may displace.
    /// Returns the bytes of VRAM made free: 0 when there is nothing to move, nowhere to move it, or no moment for it.
    pub fn make_room(&self, device: &Device, needed: u64, request: Request) -> u64 {
        let _relaxed = RelaxedCapture::enter(self.driver);
        let _placing = self.placing();
        self.make_room_placing(device, needed, request)
    }

    /// [`Memory::make_room`] for those that hold the lock.
    pub(super) fn make_room_placing(&self, device: &Device, needed: u64, request: Request) -> u64 {
        // Looked at first, so that the gate is not closed in vain.
        let slots = if self.record.tensors.load(Relaxed) > 0 { stream::wanted(self, device) } else { 0 };
        let needed = needed + slots;
        let movable = self.movable(device, request);
        let may_move = !movable.is_empty() && self.may_take_ram();
        // Slots are for weights: other weights are no reason to give them up.
        let may_shrink = request.wish >= Wish::HOT && stream::may_shrink(device);
        if !may_move && !may_shrink || captures::any(self.driver) {
            return 0;
        }
        let Some(_closed) = GATE.close() else { return 0 };
        // Nobody submits work from here on; what was submitted is waited for.
        if captures::any(self.driver) || !self.wait_for(device) {
            return 0;
        }
        let movable = if may_move { movable } else { Vec::new() };
        let (cold, hot) = movable.split_at(movable.partition_point(|(wish, _, _)| *wish < Wish::HOT));
        let shrink = |lacking| if may_shrink { stream::shrink(self, device, lacking) } else { 0 };
        let mut table = self.table_mut();
        let (mut moved, goes_on) = self.move_some(device, &mut table, cold, needed);
        // Slots are colder than what is hot.
        let mut slots_gave = if moved < needed { shrink(needed - moved) } else { 0 };
        if goes_on && moved + slots_gave < needed {
            moved += self.move_some(device, &mut table, hot, needed - moved - slots_gave).0;
        }
        drop(table);
        if moved < needed && slots_gave == 0 {
            slots_gave = shrink(needed - moved);
        }
        device.record.moved_out.fetch_add(moved, Relaxed);
        if moved > 0 {
            log::info!("moved {} from VRAM to RAM to make room for {}", format_size(moved), format_size(needed));
            // Weights have left VRAM: from now on they are streamed.
            if slots > 0
                && let Some(context) = device.contexts().first()
                && let Ok(_current) = Current::push(self.driver, *context)
            {
                stream::begin(self, device, slots);
            }
            self.homes_changed();
        }
        moved + slots_gave
    }

    /// Moves chunks to RAM until so many bytes are. Returns how many were, and whether more might.
    fn move_some(
        &self,
        device: &Device,
        table: &mut Table,
        movable: &[(Wish, CUdeviceptr, usize)],
        needed: u64,
    ) -> (u64, bool) {
        let mut moved = 0;
        for (_, base, at) in movable {
            if moved >= needed {
                break;
            }
            let Some(allocation) = table.get_mut(*base) else { continue };
            let Ok(_current) = Current::push(self.driver, allocation.context) else { continue };
            let chunk = &mut allocation.chunks[*at];
            let Home::Vram(handle) = chunk.home else { continue };
            if self.move_to_file(device, &allocation.files, chunk, handle) {
                moved += chunk.bytes;
                continue;
            }
            match self.move_to_ram(device, chunk, handle) {
                Ok(()) => moved += chunk.bytes,
                Err(status) => {
                    log::warn!("a chunk stays in VRAM: moving it to RAM failed with {status}");
                    return (moved, false);
                }
            }
        }
        (moved, true)
    }

    /// Chunks in VRAM that make way, the first to go first: by allocation and position. What wants VRAM least, then
    /// what belongs to the largest allocation, then the end: what is read first keeps its place longest.
    fn movable(&self, device: &Device, request: Request) -> Vec<(Wish, CUdeviceptr, usize)> {
        let table = self.table();
        let mut found = Vec::new();
        for allocation in table.iter().filter(|allocation| allocation.device == device.ordinal) {
            let may_move = |chunk: &Chunk| chunk.is_in_vram() && request.beats(chunk.wish, allocation.size);
            let pieces: Vec<_> = allocation.chunks.iter().map(|chunk| Piece::of(chunk, may_move(chunk))).collect();
            let turns = if stream::is_on() { turns(&tensors(allocation), &pieces) } else { vec![0; pieces.len()] };
            let movable = (0..pieces.len()).filter(|at| pieces[*at].may_move);
            found.extend(movable.map(|at| {
                (allocation.chunks[at].wish, Reverse(allocation.size), Reverse(allocation.base), turns[at], Reverse(at))
            }));
        }
        found.sort_unstable();
        found.into_iter().map(|(wish, _, Reverse(base), _, Reverse(at))| (wish, base, at)).collect()
    }

    /// Waits for all work on a device; false when that is not possible.
    pub(super) fn wait_for(&self, device: &Device) -> bool {
        device.contexts().into_iter().all(|context| {
            let Ok(_current) = Current::push(self.driver, context) else {
                device.forget_context(context);
                return true;
            };
            // SAFETY: no stream is capturing, as the caller has seen.
            unsafe { self.driver.cuCtxSynchronize() }.is_ok()
        })
    }

    fn move_to_ram(
        &self,
        device: &Device,
        chunk: &mut Chunk,
        handle: CUmemGenericAllocationHandle,
    ) -> Result<(), Status> {
        let (backing, mut memory) = self.take_ram(device, chunk.bytes, Claim::New)?;
        let moved = backing.fill(self.driver, device.ordinal, memory, chunk.at).and_then(|()| {
            let map = || backing.map(self.driver, device.ordinal, &mut memory, chunk.at);
            self.exchange(device, chunk, handle, map)
        });
        moved.inspect_err(|_| {
            backing.destroy(self.driver, memory);
            self.ram.give_back(chunk.bytes, self.record);
        })?;
        chunk.home = Home::Ram(backing, memory);
        self.vram_gone(device, chunk.bytes, handle);
        self.note_ram(device, backing, chunk.bytes);
        Ok(())
    }

    /// Gives back VRAM that is mapped nowhere any more.
    pub(super) fn vram_gone(&self, device: &Device, bytes: u64, handle: CUmemGenericAllocationHandle) {
        // SAFETY: the caller's promise.
        if let Err(status) = unsafe { self.driver.cuMemRelease(handle) } {
            log::error!("VRAM of a moved chunk could not be given back: {status}");
        }
        device.budget.give_back(Use::Chunks, bytes, device.record);
    }

    /// Puts what `map` maps in the place of VRAM. When that fails, the VRAM is put back.
    pub(super) fn exchange(
        &self,
        device: &Device,
        chunk: &Chunk,
        handle: CUmemGenericAllocationHandle,
        map: impl FnOnce() -> Result<(), Status>,
    ) -> Result<(), Status> {
        let bytes = chunk.bytes as usize;
        // SAFETY: the device is idle and nobody can submit work; the range is exactly one mapping of ours.
        unsafe { self.driver.cuMemUnmap(chunk.at, bytes) }?;
        map().inspect_err(|status| {
            // SAFETY: the range is empty again, the handle still holds the bytes.
            let restored = unsafe {
                self.driver
                    .cuMemMap(chunk.at, bytes, 0, handle, 0)
                    .and_then(|()| access::open_vram(self.driver, device.ordinal, chunk.at, chunk.bytes))
            };
            if let Err(lost) = restored {
                log::error!(
                    "a chunk at {:#x} is unmapped: its new home refused with {status}, VRAM with {lost}",
                    chunk.at
                );
            }
        })
    }
}

/// Where the tensors of an allocation are, in order.
fn tensors(allocation: &Allocation) -> Vec<Range<CUdeviceptr>> {
    let inside = registry::within(allocation.base, allocation.span).into_iter();
    inside.map(|(address, tensor)| address..address + tensor.bytes).collect()
}
