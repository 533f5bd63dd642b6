//! Spanning allocations: one range of device addresses over chunks that reside in VRAM or RAM.

use crate::backing::file_pages::{FilePages, FileRange};
use crate::backing::{HostBacking, HostChunk};
use greenboost_cuda::abi::{CUcontext, CUdevice, CUdeviceptr, CUmemGenericAllocationHandle};
use greenboost_weights::hint::PlacementHint;
use std::collections::BTreeMap;

/// Where a chunk's bytes are.
pub enum Residency {
    /// VRAM, by its driver handle.
    Vram(CUmemGenericAllocationHandle),
    /// RAM of a backing.
    Ram(&'static dyn HostBacking, HostChunk),
    /// The page cache of the file that its bytes come from; read-only.
    File(FilePages),
}

/// A part of an allocation with one residency.
pub struct Chunk {
    /// Device address, inside the allocation's reservation.
    pub at: CUdeviceptr,
    /// Bytes, a multiple of 2 MiB.
    pub bytes: u64,
    /// Where its bytes are.
    pub residency: Residency,
    /// How much it wants to be in VRAM.
    pub hint: PlacementHint,
}

impl Chunk {
    /// Whether copies across its boundaries must be split.
    pub fn has_boundaries(&self) -> bool {
        match &self.residency {
            Residency::Vram(_) => false,
            Residency::Ram(backing, _) => backing.has_boundaries(),
            Residency::File(_) => true,
        }
    }

    /// Whether its bytes are in VRAM.
    pub fn is_in_vram(&self) -> bool {
        matches!(self.residency, Residency::Vram(_))
    }

    /// First address after it.
    pub fn end(&self) -> CUdeviceptr {
        self.at + self.bytes
    }
}

/// What was taken for an allocation without chunks yet, and what was written to it meanwhile.
#[derive(Debug, Default)]
pub struct Deferred {
    /// Bytes of the VRAM budget.
    pub vram: u64,
    /// Bytes of the RAM budget.
    pub ram: u64,
    /// Fills that are still to be done.
    pub fills: Vec<Fill>,
}

impl Deferred {
    /// What was taken, with the fills: none are left, and none of the budgets.
    pub fn take_fills(&mut self) -> Self {
        std::mem::take(self)
    }
}

/// A fill of consecutive elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// First address.
    pub at: CUdeviceptr,
    /// The element's value.
    pub value: u32,
    /// Bytes of an element: 1, 2 or 4.
    pub width: usize,
    /// Elements.
    pub count: usize,
}

impl Fill {
    /// Whether it writes to any byte between two addresses.
    pub fn touches(&self, from: CUdeviceptr, to: CUdeviceptr) -> bool {
        self.at < to && from < self.at.saturating_add((self.count * self.width) as u64)
    }
}

/// One reservation, filled with chunks from its base without gaps.
pub struct Allocation {
    /// The address the program has.
    pub base: CUdeviceptr,
    /// Bytes the program asked for.
    pub size: u64,
    /// Bytes reserved: `size` rounded up to 2 MiB.
    pub span: u64,
    /// The device whose memory it counts as.
    pub device: CUdevice,
    /// The context it was made in.
    pub context: CUcontext,
    /// Unique in the process, for `CU_POINTER_ATTRIBUTE_BUFFER_ID`.
    pub serial: u64,
    /// In order of address; none while [`Self::deferred`] is set.
    pub chunks: Vec<Chunk>,
    /// Granules whose bytes are a file's, in order of address: they may come to be read there.
    pub files: Vec<FileRange>,
    /// Set until its chunks are made.
    pub deferred: Option<Deferred>,
    /// Parts of its addresses whose memory is another allocation's by now: first address and bytes of each.
    pub given_away: Vec<(CUdeviceptr, u64)>,
}

// SAFETY: a context handle is a name that any thread may use; everything else is plain data.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// First address without a chunk.
    pub fn filled_to(&self) -> CUdeviceptr {
        self.chunks.last().map_or(self.base, Chunk::end)
    }

    /// Whether all of it has chunks that can be written.
    pub fn is_whole(&self) -> bool {
        let is_file = |chunk: &Chunk| matches!(chunk.residency, Residency::File(_));
        self.filled_to() == self.base + self.span && self.given_away.is_empty() && !self.chunks.iter().any(is_file)
    }

    /// Takes out the largest chunk in VRAM of at most `bytes`. Its addresses stay mapped until the allocation is released.
    pub fn give_away(&mut self, bytes: u64) -> Option<Chunk> {
        let fits = |chunk: &&Chunk| chunk.is_in_vram() && chunk.bytes <= bytes;
        let largest = self.chunks.iter().filter(fits).max_by_key(|chunk| chunk.bytes)?.at;
        let chunk = self.chunks.remove(self.chunks.iter().position(|chunk| chunk.at == largest)?);
        self.given_away.push((chunk.at, chunk.bytes));
        Some(chunk)
    }

    /// Bytes that are in VRAM.
    pub fn in_vram(&self) -> u64 {
        self.chunks.iter().filter(|chunk| chunk.is_in_vram()).map(|chunk| chunk.bytes).sum()
    }

    /// The chunks that a range touches.
    pub fn touched(&self, from: CUdeviceptr, bytes: u64) -> &[Chunk] {
        let first = self.chunks.partition_point(|chunk| chunk.end() <= from);
        let last = self.chunks.partition_point(|chunk| chunk.at < from.saturating_add(bytes));
        &self.chunks[first.min(last)..last]
    }

    /// The first address inside `(from, from + bytes)` at which a copy must be split.
    fn first_boundary(&self, from: CUdeviceptr, bytes: u64) -> Option<CUdeviceptr> {
        let end = from.saturating_add(bytes);
        let first = self.chunks.partition_point(|chunk| chunk.at + chunk.bytes <= from);
        self.chunks[first..]
            .windows(2)
            .take_while(|pair| pair[1].at < end)
            .find(|pair| pair[0].has_boundaries() || pair[1].has_boundaries())
            .map(|pair| pair[1].at)
    }
}

/// All spanning allocations of the process, by base address.
#[derive(Default)]
pub struct Table(BTreeMap<CUdeviceptr, Allocation>);

impl Table {
    /// The allocation that an address lies in.
    pub fn find(&self, address: CUdeviceptr) -> Option<&Allocation> {
        let (_, allocation) = self.0.range(..=address).next_back()?;
        (address < allocation.base + allocation.span).then_some(allocation)
    }

    /// Whether there is an allocation at exactly this base.
    pub fn has(&self, base: CUdeviceptr) -> bool {
        self.0.contains_key(&base)
    }

    /// The allocation at exactly this base, to be changed.
    pub fn get_mut(&mut self, base: CUdeviceptr) -> Option<&mut Allocation> {
        self.0.get_mut(&base)
    }

    /// Adds one.
    pub fn insert(&mut self, allocation: Allocation) {
        self.0.insert(allocation.base, allocation);
    }

    /// Takes one out.
    pub fn remove(&mut self, base: CUdeviceptr) -> Option<Allocation> {
        self.0.remove(&base)
    }

    /// Takes out all that `gone` says.
    pub fn take(&mut self, gone: impl Fn(&Allocation) -> bool) -> Vec<Allocation> {
        let bases: Vec<_> = self.0.values().filter(|allocation| gone(allocation)).map(|it| it.base).collect();
        bases.into_iter().filter_map(|base| self.0.remove(&base)).collect()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Allocation> {
        self.0.values()
    }

    /// Bytes from `from` on, at most `bytes`, that one copy may touch; less than `bytes` only at a boundary.
    pub fn run(&self, from: CUdeviceptr, bytes: u64) -> u64 {
        let boundary = self.find(from).and_then(|allocation| allocation.first_boundary(from, bytes));
        boundary.map_or(bytes, |boundary| boundary - from)
    }

    /// Whether any of a range lies in RAM that the processor has no mapping of.
    pub fn is_closed_to_cpu(&self, from: CUdeviceptr, bytes: u64) -> bool {
        let is_closed = |chunk: &Chunk| matches!(chunk.residency, Residency::Ram(..)) && !chunk.has_boundaries();
        self.find(from).is_some_and(|allocation| allocation.touched(from, bytes).iter().any(is_closed))
    }

    /// Whether any of a range lies in a chunk that resides in a file.
    pub fn is_in_file(&self, at: CUdeviceptr, bytes: u64) -> bool {
        let chunks = self.find(at).map_or(&[][..], |allocation| allocation.touched(at, bytes));
        chunks.iter().any(|chunk| matches!(chunk.residency, Residency::File(_)))
    }

    /// Whether all of a range lies in RAM that the processor sees at the same addresses, and may write.
    pub fn is_open_to_cpu(&self, from: CUdeviceptr, bytes: u64) -> bool {
        let Some(allocation) = self.find(from).filter(|it| from + bytes <= it.base + it.span) else { return false };
        let touched = allocation.touched(from, bytes);
        let is_open = |chunk: &Chunk| matches!(chunk.residency, Residency::Ram(..)) && chunk.has_boundaries();
        !touched.is_empty() && touched.iter().all(is_open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backing::Backings;

    const M: u64 = 2 << 20;

    /// Chunks of 2 MiB at 16 MiB: V for VRAM, N for host-numa, F for memfd.
    fn allocation(homes: &str) -> Allocation {
        let backings: &'static Backings = Box::leak(Box::default());
        let ram = |name| {
            let backing = backings.all().into_iter().find(|backing| backing.name() == name).expect("a backing");
            Residency::Ram(backing, HostChunk { token: 0, bytes: M })
        };
        let home = |letter| match letter {
            'N' => ram("host-numa"),
            'F' => ram("memfd"),
            _ => Residency::Vram(1),
        };
        let (base, span) = (8 * M, homes.len() as u64 * M);
        let chunk = |(at, it)| Chunk { at: base + at * M, bytes: M, residency: home(it), hint: PlacementHint::BLIND };
        let chunks = (0..).zip(homes.chars()).map(chunk);
        let context = std::ptr::null_mut();
        let (size, chunks) = (span - 1, chunks.collect());
        let (files, deferred, given_away) = (vec![], None, vec![]);
        Allocation { base, size, span, device: 0, context, serial: 1, chunks, files, deferred, given_away }
    }

    #[test]
    fn the_largest_chunk_in_vram_that_fits_is_given_away_and_its_addresses_are_remembered() {
        let mut allocation = allocation("NVVV");
        allocation.chunks[2].bytes = 2 * M;
        allocation.chunks[3].at += M;
        assert!(allocation.filled_to() == 13 * M && !allocation.is_whole());
        allocation.span = 5 * M;
        assert!(allocation.is_whole());
        let mut give = |bytes| allocation.give_away(bytes).map(|chunk| (chunk.at / M, chunk.bytes / M));
        assert_eq!((give(M - 1), give(3 * M), give(3 * M)), (None, Some((10, 2)), Some((12, 1))));
        assert_eq!((give(M), give(M)), (Some((9, 1)), None), "RAM is not given away");
        assert_eq!(allocation.given_away, [(10 * M, 2 * M), (12 * M, M), (9 * M, M)]);
        assert!(allocation.in_vram() == 0 && !allocation.is_whole());
    }

    #[test]
    fn a_fill_touches_what_any_byte_of_it_is_in() {
        let fill = Fill { at: 100, value: 0, width: 4, count: 5 };
        assert!(fill.touches(119, 200) && fill.touches(50, 101) && fill.touches(0, 1000));
        assert!(!fill.touches(120, 200) && !fill.touches(50, 100));
    }

    #[test]
    fn the_chunks_of_a_range_are_those_that_any_byte_of_it_is_in() {
        let allocation = allocation("VNFV");
        let touched = |from, bytes| allocation.touched(from, bytes).iter().map(|it| it.at / M - 8).collect::<Vec<_>>();
        assert_eq!(touched(8 * M, 4 * M), [0, 1, 2, 3]);
        assert_eq!(touched(9 * M + 5, 1), [1]);
        assert_eq!(touched(9 * M - 1, 2), [0, 1]);
        assert_eq!(touched(20 * M, M), [0; 0]);
        assert_eq!((touched(0, M), touched(9 * M, 0)), (vec![], vec![]));
    }

    #[test]
    fn addresses_belong_to_an_allocation_up_to_its_reserved_end() {
        let mut table = Table::default();
        table.insert(allocation("VV"));
        assert!(table.find(8 * M - 1).is_none() && table.find(10 * M).is_none());
        assert!(table.find(8 * M).is_some() && table.find(10 * M - 1).is_some());
        assert_eq!(table.take(|it| it.device == 0).len(), 1);
        assert!(table.find(8 * M).is_none());
    }

    #[test]
    fn copies_are_cut_where_registered_memory_begins_or_ends_and_nowhere_else() {
        let mut table = Table::default();
        table.insert(allocation("VVNFFV"));
        let base = 8 * M;
        // Within VRAM and the driver's own RAM there is no seam, up to the first registered chunk.
        assert_eq!(table.run(base + 5, 6 * M - 5), 3 * M - 5);
        // Two registrations side by side are two pieces.
        assert_eq!(table.run(base + 3 * M, 3 * M), M);
        assert_eq!(table.run(base + 4 * M + 1, M), M - 1);
        assert_eq!(table.run(base + 5 * M, M), M);
        // Ending exactly at a seam is not crossing it.
        assert_eq!(table.run(base, 3 * M), 3 * M);
        assert_eq!(table.run(1, 100), 100);
    }
}
