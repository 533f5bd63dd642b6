//! The ring of staging slots: which tensor's copy is where, and which is given up for another. No driver here.
//!
//! Tensors are used in the same order every pass, so staging slots are given out round and round; the oldest copy
//! goes first. That is also the one whose next use is farthest away.

use std::collections::VecDeque;

/// Names a tensor: its address in the program.
pub type Key = u64;

/// Copies begin at multiples of this, as far apart as any kernel's widest loads.
const ALIGNMENT: u64 = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    key: Key,
    start: u64,
    end: u64,
}

/// Staging slots of different sizes in `capacity` bytes, given out in a circle.
#[derive(Debug, Default)]
pub struct Ring {
    capacity: u64,
    head: u64,
    /// Oldest first.
    slots: VecDeque<Slot>,
}

/// A place for a new copy, and the copies that have to go for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Bytes from the ring's start.
    pub offset: u64,
    /// Copies in the way, oldest first.
    pub evicted: Vec<Key>,
}

impl Ring {
    /// An empty ring.
    pub fn new(capacity: u64) -> Self {
        Self { capacity, head: 0, slots: VecDeque::new() }
    }

    /// A place of `bytes` for `key`. `may_go` says of each copy in the way whether it can be given up; one that
    /// cannot, or a tensor that is larger than the ring, means no place, and nothing changes.
    pub fn take(&mut self, key: Key, bytes: u64, may_go: impl Fn(Key) -> bool) -> Option<Place> {
        let bytes = bytes.checked_next_multiple_of(ALIGNMENT)?;
        if bytes > self.capacity || bytes == 0 {
            return None;
        }
        let offset = if self.head + bytes <= self.capacity { self.head } else { 0 };
        let end = offset + bytes;
        // Oldest first, all up to the last that is in the way: the order of age is the order of place.
        let overlaps = |slot: &Slot| slot.start < end && offset < slot.end;
        let count = self.slots.iter().rposition(overlaps).map_or(0, |last| last + 1);
        if !self.slots.iter().take(count).all(|slot| may_go(slot.key)) {
            return None;
        }
        let evicted = self.slots.drain(..count).map(|slot| slot.key).collect();
        self.slots.push_back(Slot { key, start: offset, end });
        self.head = end;
        Some(Place { offset, evicted })
    }

    /// Gives up the copy of a tensor, if there is one.
    pub fn remove(&mut self, key: Key) {
        self.slots.retain(|slot| slot.key != key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(ring: &mut Ring, key: Key, kib: u64) -> Option<(u64, Vec<Key>)> {
        ring.take(key, kib << 10, |_| true).map(|place| (place.offset >> 10, place.evicted))
    }

    #[test]
    fn slots_are_given_out_in_a_circle_and_the_oldest_go_first() {
        let mut ring = Ring::new(10 << 10);
        assert_eq!(take(&mut ring, 1, 4), Some((0, vec![])));
        assert_eq!(take(&mut ring, 2, 4), Some((4, vec![])));
        // Behind the second there is no room: back to the start, over the first.
        assert_eq!(take(&mut ring, 3, 3), Some((0, vec![1])));
        assert_eq!(take(&mut ring, 4, 3), Some((3, vec![2])));
        assert_eq!(take(&mut ring, 5, 10), Some((0, vec![3, 4])));
        assert_eq!(take(&mut ring, 6, 11), None);
    }

    #[test]
    fn a_copy_that_must_stay_keeps_its_place_and_nothing_changes() {
        let mut ring = Ring::new(8 << 10);
        take(&mut ring, 1, 4);
        take(&mut ring, 2, 4);
        assert_eq!(ring.take(3, 4 << 10, |key| key != 1), None);
        assert_eq!(take(&mut ring, 3, 4), Some((0, vec![1])));
    }

    #[test]
    fn a_copy_that_was_given_up_is_in_nobodys_way() {
        let mut ring = Ring::new(8 << 10);
        for key in 1..=2 {
            take(&mut ring, key, 4);
        }
        ring.remove(1);
        let asked = std::cell::Cell::new(0);
        let place = ring.take(3, 4 << 10, |_| {
            asked.set(asked.get() + 1);
            false
        });
        assert_eq!((place, asked.get()), (Some(Place { offset: 0, evicted: vec![] }), 0));
        // The others stay, and so does one that takes the name of one that went.
        ring.remove(7);
        assert_eq!(take(&mut ring, 1, 4), Some((4, vec![2])));
        assert_eq!(take(&mut ring, 4, 8), Some((0, vec![3, 1])));
    }

    /// Sides that touch are in nobody's way; the last byte of the ring is used.
    #[test]
    fn copies_that_only_touch_stay() {
        let mut ring = Ring::new(12 << 10);
        for key in 1..=3 {
            assert_eq!(take(&mut ring, key, 4), Some(((key - 1) * 4, vec![])));
        }
        assert_eq!(take(&mut ring, 4, 4), Some((0, vec![1])));
        assert_eq!(take(&mut ring, 5, 4), Some((4, vec![2])));
        assert_eq!(take(&mut ring, 6, 12), Some((0, vec![3, 4, 5])));
        assert_eq!(take(&mut ring, 7, 0), None);
        assert_eq!(ring.take(8, u64::MAX, |_| true), None);
        assert_eq!(take(&mut ring, 9, 1), Some((0, vec![6])));
    }

    /// Where a copy begins, whatever the sizes are.
    #[test]
    fn copies_begin_at_what_the_widest_loads_need() {
        let mut ring = Ring::new(1 << 20);
        let starts: Vec<_> = [1, 256, 257, 5].map(|bytes| ring.take(bytes, bytes, |_| true).map(|it| it.offset)).into();
        assert_eq!(starts, [Some(0), Some(256), Some(512), Some(1024)]);
    }

    #[test]
    fn copies_never_overlap_whatever_the_sizes() {
        let mut seed = 7u64;
        let mut ring = Ring::new(1 << 20);
        for key in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ring.take(key, (seed >> 40) % (300 << 10) + 1, |_| true).expect("it fits");
            if seed >> 61 == 0 {
                ring.remove(key - key % 3);
            }
            let mut slots: Vec<_> = ring.slots.iter().map(|slot| (slot.start, slot.end)).collect();
            slots.sort_unstable();
            assert!(slots.windows(2).all(|pair| pair[0].1 <= pair[1].0), "seed 7, step {key}: {slots:?}");
            assert!(slots.last().is_none_or(|slot| slot.1 <= ring.capacity));
        }
    }
}
