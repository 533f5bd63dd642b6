//! Where an expert is: in place, or in an expert slot; and the number by which a kernel finds either.
//!
//! A kernel computes `tensor + id * stride`. So expert slots may lie anywhere at a multiple of the stride from the tensor, before it or
//! after it, and an expert slot's number is the distance in strides and the expert slot's place in the row:
//!
//! ```text
//!       id: 0    1    2    3         D   D+1  D+2
//!         [ e0 | e1 | e2 | e3 ] .... [ s0 | s1 | s2 ]
//!          the tensor: RAM, a file    expert slots: VRAM
//! ```
//!
//! The limit is the kernel's arithmetic, which holds `id * stride` in 32 bits with a sign, counted in its own elements.

use greenboost_contract::settings::GRANULE;
use greenboost_cuda::abi::CUdeviceptr;

/// A tensor of experts as launches name it.
#[derive(Debug)]
pub struct Window {
    /// The tensor's address.
    pub at: CUdeviceptr,
    /// Bytes of one expert.
    pub stride: u64,
    /// Bytes of one row.
    pub row: u64,
    /// How many experts.
    pub experts: u32,
    /// One expert in the elements that kernels count.
    pub elements: u32,
    /// From the tensor to the first expert slot, in strides.
    pub distance: i32,
    /// The layer it is of, by its place among those of the device.
    pub layer: usize,
    /// Where the device has the layer's table.
    pub table: CUdeviceptr,
    /// Where its launches note which experts were asked for, the ring and its counter: those of one tensor a layer do.
    pub notes: Option<(CUdeviceptr, CUdeviceptr)>,
}

impl Window {
    /// The address of an expert in place.
    pub fn home(&self, expert: u32) -> CUdeviceptr {
        self.at + u64::from(expert) * self.stride
    }

    /// The address of an expert slot.
    pub fn slot(&self, slot: u32) -> CUdeviceptr {
        let strides = i64::from(self.distance) + i64::from(slot);
        self.at.wrapping_add_signed(strides * self.stride as i64)
    }

    /// Bytes after the last expert slot that kernels may read too: they work on four rows at once.
    pub fn slack(&self) -> u64 {
        4 * self.row
    }

    /// The most expert slots that keep clear of the expert slots of the next tensor, which has the same distance or more.
    pub fn most(&self) -> u32 {
        let (first, bytes) = (self.slot(0), u64::from(self.experts) * self.stride);
        let end = (first + bytes) / GRANULE * GRANULE;
        (end.saturating_sub(first + self.slack()) / self.stride).min(u64::from(self.experts)) as u32
    }
}

/// The shape of a tensor of experts, from what a launch says of it and what ggml does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of one expert.
    pub stride: u64,
    /// Bytes of one row.
    pub row: u64,
    /// How many experts.
    pub experts: u32,
}

/// More experts than any model has, and fewer than a note can name.
const MOST_EXPERTS: u64 = 0x7fff;

impl Shape {
    /// Of a tensor of `bytes` in `rows`, whose kernel counts `row` elements from row to row and `expert` from expert to expert.
    /// `None`: these numbers do not make whole experts.
    pub fn of(bytes: u64, rows: u64, row: u32, expert: u32) -> Option<Self> {
        let is_whole = |all: u64, part: u64| part > 0 && all.is_multiple_of(part);
        let (row, expert) = (u64::from(row), u64::from(expert));
        if !is_whole(bytes, rows) || !is_whole(expert, row) || !is_whole(rows, expert / row) {
            return None;
        }
        let (bytes, rows_each) = (bytes / rows, expert / row);
        let experts = rows / rows_each;
        (2..MOST_EXPERTS).contains(&experts).then_some(Self {
            stride: bytes * rows_each,
            row: bytes,
            experts: experts as u32,
        })
    }
}

/// The least distance in strides that leads from `first` to `reserved` or beyond.
pub fn distance(first: CUdeviceptr, reserved: CUdeviceptr, stride: u64) -> i64 {
    let (bytes, stride) = (reserved as i128 - first as i128, i128::from(stride));
    let strides = bytes.div_euclid(stride) + i128::from(bytes.rem_euclid(stride) != 0);
    strides as i64
}

/// Whether a kernel that holds `id * elements` in 32 bits with a sign gets from a tensor to all of this many expert slots.
pub fn reaches(distance: i64, slots: u32, elements: u32) -> bool {
    let farthest = i128::from(distance.unsigned_abs()) + i128::from(slots) + 1;
    farthest * i128::from(elements.max(1)) < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(at: u64, distance: i32) -> Window {
        let (layer, table, notes) = (0, 0, None);
        Window { at, stride: 1000, row: 10, experts: 8192, elements: 10, distance, layer, table, notes }
    }

    #[test]
    fn a_slot_is_found_by_its_number_on_either_side() {
        for distance in [5000, -20_000] {
            let window = window(100 << 20, distance);
            let id = i64::from(distance) + 3;
            assert_eq!(window.slot(3), ((100 << 20) as i64 + id * 1000) as u64);
        }
        assert_eq!(window(4096, 1).home(2), 6096);
    }

    #[test]
    fn slots_stay_below_those_of_the_next_tensor() {
        let window = window(GRANULE + 5, 100_000);
        let next = window.slot(0) + 8192 * 1000;
        let end = window.slot(window.most()) + window.slack();
        assert!(end.next_multiple_of(GRANULE) <= next / GRANULE * GRANULE, "{end} {next}");
        assert!(window.most() > 8192 - 2 * GRANULE as u32 / 1000);
    }

    #[test]
    fn the_distance_leads_to_the_reservation_and_no_farther_than_a_stride() {
        for (first, reserved) in [(100, 5000), (5000, 100), (7, 7)] {
            let at = first as i64 + distance(first, reserved, 300) * 300;
            assert!((reserved as i64..reserved as i64 + 300).contains(&at), "{first} {reserved}: {at}");
        }
    }

    #[test]
    fn thirty_two_bits_are_the_limit() {
        // Q4_K: 6144 blocks of 144 bytes an expert; 2^31 blocks are 349525 experts.
        assert!(reaches(349_000, 100, 6144) && reaches(-349_000, 100, 6144));
        assert!(!reaches(349_500, 100, 6144) && !reaches(-349_500, 100, 6144) && !reaches(i64::MAX, 1, 1));
    }

    #[test]
    fn experts_are_counted_from_what_the_kernel_says() {
        // 128 experts of 768 rows, each of 8 blocks of 144 bytes.
        let (rows, bytes) = (128 * 768, 128 * 768 * 8 * 144);
        assert_eq!(Shape::of(bytes, rows, 8, 768 * 8), Some(Shape { stride: 884_736, row: 1152, experts: 128 }));
        for (bytes, rows, row, expert) in [
            (bytes + 1, rows, 8, 6144),
            (bytes, 0, 8, 6144),
            (bytes, rows, 0, 6144),
            (bytes, rows, 8, 6145),
            (bytes, rows, 8, 7 * 6144),
        ] {
            assert_eq!(Shape::of(bytes, rows, row, expert), None);
        }
        assert_eq!(Shape::of(1152, 1, 8, 8), None, "one expert is none");
    }
}
