//! Which addresses of the program are which bytes of which file. No system call here.
//!
//! What is known is a cache: forgetting too much costs a question to the kernel. So the room is fixed, and nothing here
//! allocates: it is called from inside a program's `munmap`, which may come from its allocator.

/// A range of addresses, and where its first byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// The file's number.
    pub file: u32,
    /// Of the byte at `start`, in the file.
    pub offset: u64,
    /// Whether the process may have pages of its own in it, which are not the file's.
    pub is_private: bool,
}

/// Ranges that do not overlap; the newest are kept when there are too many.
#[derive(Debug)]
pub struct Ranges<const N: usize> {
    /// Oldest first.
    known: [Range; N],
    count: usize,
}

impl<const N: usize> Ranges<N> {
    /// Nothing is known.
    pub const fn new() -> Self {
        Self { known: [Range { start: 0, end: 0, file: 0, offset: 0, is_private: false }; N], count: 0 }
    }

    /// Notes a range, in the place of whatever was known of its addresses.
    pub fn insert(&mut self, range: Range) {
        if range.start >= range.end {
            return;
        }
        self.forget(range.start, range.end);
        if self.count == N {
            self.known.copy_within(1.., 0);
            self.count -= 1;
        }
        self.push(range);
    }

    /// Forgets what is known of the addresses from `start` to before `end`.
    pub fn forget(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let (before, count) = (self.known, self.count);
        self.count = 0;
        for range in &before[..count] {
            if range.end <= start || end <= range.start {
                self.push(*range);
                continue;
            }
            self.push(Range { end: range.end.min(start), ..*range });
            if range.end > end {
                let offset = range.offset + (end - range.start);
                self.push(Range { start: end, offset, ..*range });
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.count = 0;
    }

    /// The `bytes` at `start`, if one range has them all.
    pub fn find(&self, start: u64, bytes: u64) -> Option<Range> {
        let end = start.checked_add(bytes)?;
        let range = self.known[..self.count].iter().find(|range| range.start <= start && end <= range.end)?;
        Some(Range { start, end, offset: range.offset + (start - range.start), ..*range })
    }

    /// The lowest address known and the first after all; `(0, 0)` when nothing is.
    pub fn hull(&self) -> (u64, u64) {
        let known = &self.known[..self.count];
        let start = known.iter().map(|range| range.start).min();
        let end = known.iter().map(|range| range.end).max();
        start.zip(end).unwrap_or_default()
    }

    /// Adds a range that is known not to overlap; an empty one, or one too many, is dropped.
    fn push(&mut self, range: Range) {
        if range.start < range.end && self.count < N {
            self.known[self.count] = range;
            self.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn place<const N: usize>(ranges: &Ranges<N>, at: u64, bytes: u64) -> Option<(u32, u64)> {
        ranges.find(at, bytes).map(|found| (found.file, found.offset))
    }

    #[test]
    fn a_hole_leaves_both_sides_with_their_own_offsets() {
        let mut ranges = Ranges::<8>::new();
        ranges.insert(Range { start: 100, end: 200, file: 3, offset: 1000, is_private: true });
        ranges.forget(120, 150);
        let piece = |start, end, offset| Some(Range { start, end, file: 3, offset, is_private: true });
        assert_eq!(ranges.find(100, 20), piece(100, 120, 1000));
        assert_eq!(ranges.find(150, 50), piece(150, 200, 1050));
        assert_eq!(ranges.find(119, 2), None);
        assert_eq!(ranges.find(100, 100), None);
        assert_eq!(ranges.hull(), (100, 200));
        ranges.clear();
        assert_eq!((ranges.find(150, 1), ranges.hull()), (None, (0, 0)));
    }

    #[test]
    fn too_many_ranges_lose_the_oldest_and_never_lie() {
        let mut ranges = Ranges::<2>::new();
        for at in [10, 20, 30] {
            ranges.insert(Range { start: at, end: at + 9, file: 0, offset: at, is_private: false });
        }
        assert_eq!([10, 20, 30].map(|at| place(&ranges, at, 1)), [None, Some((0, 20)), Some((0, 30))]);
        // No room for both sides of a hole.
        ranges.forget(22, 24);
        assert_eq!(ranges.find(22, 1), None);
    }

    /// Against a map with an entry for each address. What is found must be right; with room enough, all that the map
    /// knows as one piece is found.
    #[test]
    fn ranges_agree_with_a_plain_model_whatever_happens() {
        for seed in 1..=200u64 {
            let mut state = seed;
            let mut random = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            let (mut roomy, mut narrow, mut model) = (Ranges::<256>::new(), Ranges::<3>::new(), HashMap::new());
            for step in 0..120 {
                let (start, length) = (random(200), random(40));
                if random(3) == 0 {
                    roomy.forget(start, start + length);
                    narrow.forget(start, start + length);
                    model.retain(|at, _| !(start..start + length).contains(at));
                } else {
                    let (file, offset, is_private) = (random(3) as u32, random(1000), random(2) == 0);
                    let range = Range { start, end: start + length, file, offset, is_private };
                    roomy.insert(range);
                    narrow.insert(range);
                    model.extend((0..length).map(|at| (start + at, (step, range.file, range.offset + at))));
                }
                for at in 0..240 {
                    let known = model.get(&at).map(|(_, file, offset)| (*file, *offset));
                    assert_eq!(place(&roomy, at, 1), known, "seed {seed} step {step} address {at}");
                    assert!(place(&narrow, at, 1).is_none_or(|found| Some(found) == known), "seed {seed} step {step}");
                    let length = random(6) + 1;
                    let found = place(&roomy, at, length);
                    let one = (0..length).map(|by| model.get(&(at + by))).collect::<Option<Vec<_>>>();
                    if let Some((file, offset)) = found {
                        let one = one.expect("every address of what was found is known");
                        let fits = |(by, it): (usize, &&(i32, u32, u64))| (it.1, it.2) == (file, offset + by as u64);
                        assert!(one.iter().enumerate().all(fits), "seed {seed} step {step} address {at}+{length}");
                    }
                }
            }
        }
    }
}
