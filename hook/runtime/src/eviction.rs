//! Eviction: chunks of spanning allocations move from VRAM to RAM, and keep their addresses.

use crate::free::{PATIENCE, SHORT_PATIENCE};
use crate::pending::Due;
use crate::runtime::Core;
use greenboost_contract::format_size;
use greenboost_cuda::abi::*;
use greenboost_cuda::{Current, RelaxedCapture};
use greenboost_intercept::guard;
use greenboost_memory::Placing;
use greenboost_memory::admission::Admission;
use greenboost_memory::allocation::{Allocation, Chunk, Table};
use greenboost_memory::backing::file_pages::{FilePages, FileRange};
use greenboost_memory::device::{Device, Use};
use greenboost_memory::quiet::{Busy, Patience};
use greenboost_memory::residency::Target;
use greenboost_weights::eviction::{self, Piece};
use greenboost_weights::hint::PlacementHint;
use std::cmp::Reverse;
use std::ops::Range;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// Who asks for room: only what wants VRAM less makes way, and among equals only what belongs to a larger allocation.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// How much the newcomer wants to be in VRAM.
    pub hint: PlacementHint,
    /// Bytes of the newcomer.
    pub size: u64,
}

impl Request {
    /// What can live in VRAM only, such as scratch that the program maps itself.
    pub const MUST: Self = Self { hint: PlacementHint::HOT, size: 0 };
    /// What displaces nothing but copies of experts.
    pub const COPIES: Self = Self { hint: PlacementHint::COLD, size: u64::MAX };

    fn beats(&self, hint: PlacementHint, size: u64) -> bool {
        hint < self.hint || hint == self.hint && size > self.size
    }
}

impl Core {
    /// Takes `bytes` of VRAM from the budget, evicting where needed and possible.
    pub fn take_vram(&self, device: &Device, what: Use, bytes: u64) -> bool {
        let patience = if what == Use::Plain { SHORT_PATIENCE } else { PATIENCE };
        loop {
            if device.take(what, bytes) {
                return true;
            }
            let short = bytes.saturating_sub(device.budget.left());
            if bytes > device.budget.limit() {
                return false;
            }
            // What the program has freed on a stream is the cheapest room. Another thread may take what was freed:
            // again, as long as there is something to free or to move.
            if self.reap(Due::Of(device.ordinal, patience)) == 0 && self.evict(device, short.max(1), Request::MUST) == 0
            {
                return false;
            }
        }
    }

    /// Runs a driver call that needs VRAM of its own; when the driver has none, evicts once and runs it
    /// again. `bytes` is what the call needs, or a guess.
    pub fn retry(&self, device: &Device, bytes: u64, mut call: impl FnMut() -> Status) -> Status {
        match call() {
            OUT_OF_MEMORY => self.again(device, bytes, call),
            status => status,
        }
    }

    /// Evicts for a call that was refused with OUT_OF_MEMORY, and runs it once more if anything has left VRAM.
    pub fn again(&self, device: &Device, bytes: u64, mut call: impl FnMut() -> Status) -> Status {
        let needed = bytes.max(self.memory.settings.chunk);
        let mut freed = 0;
        while freed < needed {
            match self.reap(Due::Of(device.ordinal, PATIENCE)) {
                0 => break,
                more => freed += more,
            }
        }
        let moved = if freed < needed { self.evict(device, needed - freed, Request::MUST) } else { 0 };
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
    /// Returns the bytes of VRAM made free: 0 when there is nothing to move, nowhere to move it, or no moment for it. What is
    /// in use is waited for with nothing held, and for a limited time.
    pub fn evict(&self, device: &Device, needed: u64, request: Request) -> u64 {
        let _relaxed = RelaxedCapture::enter(self.memory.driver);
        let mut patience = Patience::of(PATIENCE);
        loop {
            match self.try_evict(device, needed, request, &patience) {
                Ok(made_free) => return made_free,
                Err(busy) if patience.wait(&busy) => {}
                Err(_) => {
                    log::warn!(
                        "device {}: its memory is not moved, because it is in use all the time: {} are not made free",
                        device.ordinal,
                        format_size(needed)
                    );
                    return 0;
                }
            }
        }
    }

    /// Evicts for what will have `span` bytes in VRAM, of which it has `owned` in the budget already, and keeps others from
    /// placing anything: somebody else may have taken the room before, and then it is made once more.
    pub fn placing_with_room(&self, device: &Device, span: u64, owned: u64, request: Request) -> Placing<'_> {
        let mut tries = 3;
        loop {
            let placing = self.memory.placing();
            let short = span.saturating_sub(device.budget.left().saturating_add(owned));
            if short == 0 || tries == 0 {
                return placing;
            }
            drop(placing);
            tries = if self.evict(device, short, request) == 0 { 0 } else { tries - 1 };
        }
    }

    /// Does it if nobody uses the memory right now, or stops using it in a moment.
    fn try_evict(&self, device: &Device, needed: u64, request: Request, patience: &Patience) -> Result<u64, Busy> {
        let memory = self.memory;
        let _placing = memory.placing();
        // Looked at first, so that the gates are not closed in vain.
        let slots = if memory.record.tensors.load(Relaxed) > 0 { self.streaming.wanted(device) } else { 0 };
        let needed = needed + slots;
        let movable = self.movable(device, request);
        let may_move = !movable.is_empty() && memory.may_take_ram();
        // Slots are for weights: other weights are no reason to give them up.
        let may_shrink = request.hint >= PlacementHint::HOT && self.streaming.may_shrink(device);
        // Copies of experts are colder than anything that has its place in VRAM.
        let may_give = self.streaming.experts().may_shrink(device);
        if !may_move && !may_shrink && !may_give || memory.captures.any(memory.driver) {
            return Ok(0);
        }
        let _quiet = memory.quiet(device, patience)?;
        let experts_gave = if may_give { self.streaming.experts().shrink(device, needed) } else { 0 };
        let needed = needed.saturating_sub(experts_gave);
        if needed == 0 {
            return Ok(experts_gave);
        }
        let movable = if may_move { movable } else { Vec::new() };
        let (cold, hot) = movable.split_at(movable.partition_point(|(hint, _, _)| *hint < PlacementHint::HOT));
        let shrink = |lacking| if may_shrink { self.streaming.shrink(device, lacking) } else { 0 };
        let mut table = memory.table_mut();
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
                && let Ok(_current) = Current::push(memory.driver, *context)
            {
                self.streaming.begin(device, slots);
            }
            self.residency_changed();
        }
        Ok(moved + slots_gave + experts_gave)
    }

    /// Moves chunks to RAM until the needed number of bytes has moved. Returns how many did, and whether more might.
    fn move_some(
        &self,
        device: &Device,
        table: &mut Table,
        movable: &[(PlacementHint, CUdeviceptr, usize)],
        needed: u64,
    ) -> (u64, bool) {
        let mut moved = 0;
        for (_, base, at) in movable {
            if moved >= needed {
                break;
            }
            let Some(allocation) = table.get_mut(*base) else { continue };
            let Ok(_current) = Current::push(self.memory.driver, allocation.context) else { continue };
            let chunk = &mut allocation.chunks[*at];
            if !chunk.is_in_vram() {
                continue;
            }
            if self.move_to_file(device, &allocation.files, chunk) {
                moved += chunk.bytes;
                continue;
            }
            match self.memory.transition(device, chunk, Target::Ram(Admission::New)) {
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
    fn movable(&self, device: &Device, request: Request) -> Vec<(PlacementHint, CUdeviceptr, usize)> {
        let table = self.memory.table();
        let mut found = Vec::new();
        for allocation in table.iter().filter(|allocation| allocation.device == device.ordinal) {
            let may_move = |chunk: &Chunk| chunk.is_in_vram() && request.beats(chunk.hint, allocation.size);
            let pieces: Vec<_> = allocation.chunks.iter().map(|chunk| piece(chunk, may_move(chunk))).collect();
            let turns = match self.streaming.is_on() {
                true => eviction::order(&self.tensor_ranges(allocation), &pieces),
                false => vec![0; pieces.len()],
            };
            let movable = (0..pieces.len()).filter(|at| pieces[*at].may_move);
            found.extend(movable.map(|at| {
                (allocation.chunks[at].hint, Reverse(allocation.size), Reverse(allocation.base), turns[at], Reverse(at))
            }));
        }
        found.sort_unstable();
        found.into_iter().map(|(hint, _, Reverse(base), _, Reverse(at))| (hint, base, at)).collect()
    }

    /// Where the tensors of an allocation are, in order.
    fn tensor_ranges(&self, allocation: &Allocation) -> Vec<Range<CUdeviceptr>> {
        let inside = self.tensors.within(allocation.base, allocation.span).into_iter();
        inside.map(|(address, tensor)| address..address + tensor.bytes).collect()
    }

    /// Gives a chunk in VRAM the pages of the file that has its bytes. `false`: there is none, or not now. Nobody is using the
    /// chunk, nor can. The bytes are compared: whatever was done to them, nothing has to be believed.
    fn move_to_file(&self, device: &Device, files: &[FileRange], chunk: &mut Chunk) -> bool {
        // After a panic of ours, a write may have been captured that nobody knows of.
        if self.writes_captured.load(SeqCst) || guard::failures() > 0 {
            return false;
        }
        let range = files.iter().find(|range| range.at <= chunk.at && chunk.end() <= range.end());
        let Some(range) = range.filter(|_| self.memory.may_be_in_file(device, chunk.bytes)) else { return false };
        let pages = range.pages_at(chunk.at);
        if !pages.file.has_its_bytes() || !self.is_the_same(&pages, chunk) {
            return false;
        }
        let moved = self.memory.transition(device, chunk, Target::File(pages));
        moved
            .inspect_err(|status| log::debug!("a chunk at {:#x} goes to RAM, not to its file: {status}", chunk.at))
            .is_ok()
    }

    /// Whether a chunk's bytes are those of a file.
    fn is_the_same(&self, pages: &FilePages, chunk: &Chunk) -> bool {
        let by_threads = self.uploads.is_the_same(self.memory, chunk, pages.file.descriptor(), pages.offset);
        by_threads.unwrap_or_else(|| {
            let mut there = Vec::new();
            let compared = pages.each_piece(chunk.at, chunk.bytes, |at, piece| {
                there.resize(piece.len(), 0);
                // SAFETY: a buffer of this many bytes, out of VRAM that is mapped here.
                unsafe { self.memory.driver.cuMemcpyDtoH_v2(there.as_mut_ptr().cast(), at, piece.len()) }?;
                if there == piece { Ok(()) } else { Err(INVALID_VALUE) }
            });
            compared.is_ok()
        })
    }
}

fn piece(chunk: &Chunk, may_move: bool) -> Piece {
    Piece { at: chunk.at..chunk.end(), is_in_vram: chunk.is_in_vram(), may_move }
}
