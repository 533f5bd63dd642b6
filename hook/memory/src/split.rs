//! Splitting copies and fills where the driver would refuse them.
//!
//! RAM that we map and register ourselves is one allocation for kernels, but the driver refuses a copy or fill
//! that crosses the border of such a chunk. It is split there; the pieces are issued in order on the program's
//! own stream, so that its ordering holds.

use greenboost_cuda::abi::{CUdeviceptr, SUCCESS, Status};

/// Bytes from an address on, at most the second number, that one copy may touch: less only where a boundary comes first.
/// [`crate::Memory::run`] outside of tests.
pub type Run<'a> = &'a dyn Fn(CUdeviceptr, u64) -> u64;

/// Issues `bytes` at several addresses at once (source and target) in pieces that cross no boundary at any of them.
/// `issue(offset, bytes)` is called in order until one fails.
pub fn linear<const N: usize>(
    run: Run<'_>,
    addresses: [CUdeviceptr; N],
    bytes: usize,
    mut issue: impl FnMut(usize, usize) -> Status,
) -> Status {
    let mut offset = 0;
    loop {
        let left = bytes - offset;
        let runs = addresses.map(|address| run(address.wrapping_add(offset as u64), left as u64) as usize);
        let piece = runs.into_iter().min().unwrap_or(left);
        let status = issue(offset, piece);
        offset += piece;
        if status != SUCCESS || offset >= bytes {
            return status;
        }
    }
}

/// A box of bytes: where it begins and how large it is, in bytes, rows and slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes, rows, slices from the corner of the whole copy.
    pub from: [usize; 3],
    /// Bytes of a row, rows, slices.
    pub size: [usize; 3],
}

/// How one side of a box lies in memory.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Address of the corner; 0 for an array, which has none.
    pub corner: CUdeviceptr,
    /// Bytes from row to row.
    pub row: usize,
    /// Bytes from slice to slice.
    pub slice: usize,
}

impl Layout {
    fn address(&self, [x, y, z]: [usize; 3]) -> CUdeviceptr {
        self.corner.wrapping_add((x + y * self.row + z * self.slice) as u64)
    }

    /// Bytes from the first to the last byte of a box, both included.
    pub fn reach(&self, [x, y, z]: [usize; 3]) -> usize {
        x + y.saturating_sub(1) * self.row + z.saturating_sub(1) * self.slice
    }

    /// How far a part may be touched in one go, and how far it reaches.
    fn run(&self, run: Run<'_>, part: Extent) -> (usize, usize) {
        let reach = self.reach(part.size);
        if self.corner == 0 { (reach, reach) } else { (run(self.address(part.from), reach as u64) as usize, reach) }
    }
}

/// Issues a box in parts that cross no boundary on any side: whole where possible, else halves of its slices, then
/// of its rows, then pieces of a row.
pub fn boxed(run: Run<'_>, sides: &[Layout], whole: [usize; 3], issue: &mut dyn FnMut(Extent) -> Status) -> Status {
    part(run, sides, Extent { from: [0; 3], size: whole }, issue)
}

fn part(run: Run<'_>, sides: &[Layout], it: Extent, issue: &mut dyn FnMut(Extent) -> Status) -> Status {
    let runs = sides.iter().map(|side| side.run(run, it));
    // The nearest boundary of any side: a single row is split there.
    let Some(first_boundary) = runs.filter(|(run, reach)| run < reach).map(|(run, _)| run).min() else {
        return issue(it);
    };
    // The outermost dimension that can still be halved.
    let dimension = (1..3).rev().find(|dimension| it.size[*dimension] > 1).unwrap_or(0);
    let first = if dimension == 0 { first_boundary } else { it.size[dimension] / 2 };
    let (mut head, mut tail) = (it, it);
    head.size[dimension] = first;
    tail.from[dimension] += first;
    tail.size[dimension] -= first;
    match part(run, sides, head, issue) {
        SUCCESS => part(run, sides, tail, issue),
        status => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use greenboost_cuda::abi::OUT_OF_MEMORY;

    /// Memory with a boundary at every 16th address.
    fn sixteens(address: CUdeviceptr, bytes: u64) -> u64 {
        bytes.min(16 - address % 16)
    }

    #[test]
    fn a_line_is_split_at_the_boundaries_of_both_sides_and_stays_whole_without() {
        let mut pieces = Vec::new();
        let status = linear(&sixteens, [30, 105], 40, |at, bytes| {
            pieces.push((at, bytes));
            SUCCESS
        });
        assert_eq!(
            (status, &pieces[..]),
            (SUCCESS, &[(0, 2), (2, 5), (7, 11), (18, 5), (23, 11), (34, 5), (39, 1)][..])
        );
        let mut calls = 0;
        linear(&|_, bytes| bytes, [0], 0, |_, _| {
            calls += 1;
            SUCCESS
        });
        assert_eq!(calls, 1, "an empty copy is still the driver's to judge");
    }

    #[test]
    fn the_first_failure_ends_a_line() {
        let mut calls = 0;
        let status = linear(&sixteens, [0], 64, |_, _| {
            calls += 1;
            if calls == 2 { OUT_OF_MEMORY } else { SUCCESS }
        });
        assert_eq!((status, calls), (OUT_OF_MEMORY, 2));
    }

    #[test]
    fn a_box_is_covered_exactly_once_by_parts_that_cross_no_boundary() {
        let sides = [
            Layout { corner: 3, row: 11, slice: 50 },
            Layout { corner: 1000, row: 9, slice: 27 },
            Layout { corner: 0, row: 0, slice: 0 },
        ];
        let whole = [7, 3, 4];
        let mut covered = vec![0; 7 * 3 * 4];
        let status = boxed(&sixteens, &sides, whole, &mut |part| {
            for side in &sides[..2] {
                let reach = side.reach(part.size) as u64;
                assert_eq!(sixteens(side.address(part.from), reach), reach, "{part:?} crosses a boundary");
            }
            let [x, y, z] = part.from;
            for slice in z..z + part.size[2] {
                for row in y..y + part.size[1] {
                    (x..x + part.size[0]).for_each(|byte| covered[(slice * 3 + row) * 7 + byte] += 1);
                }
            }
            SUCCESS
        });
        assert_eq!(status, SUCCESS);
        assert!(covered.iter().all(|times| *times == 1), "{covered:?}");
    }
}
