//! Where a copy of a whole tensor takes its experts from: out of their expert slots, and only the others over the link.

use super::Experts;
use super::cache::Cache;
use super::window::Window;
use crate::index::Weight;
use crate::linear;
use greenboost_cuda::abi::*;

/// A extent of a tensor: bytes from its begin on, where they are to be read, and whether that is in VRAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    offset: u64,
    bytes: u64,
    from: CUdeviceptr,
    is_in_slot: bool,
}

impl Experts {
    /// Copies a weight on a stream of ours. Returns the bytes that come from outside the expert slots.
    ///
    /// # Errors
    /// The driver's status.
    pub fn copy(&self, weight: &Weight, stream: CUstream, to: CUdeviceptr) -> Result<u64, Status> {
        let issue = |from, to, bytes| linear::copy(self.memory, stream, from, to, bytes);
        let cache = self.is_on().then(|| self.made(weight.device)).flatten();
        let window = cache.and_then(|cache| Some((cache, cache.known(weight.at)??)));
        let Some((cache, window)) = window else {
            return issue(weight.at, to, weight.copied).map(|()| weight.copied);
        };
        let Some(lane) = cache.lane(stream) else {
            return issue(weight.at, to, weight.copied).map(|()| weight.copied);
        };
        // Before the expert slots are looked at: from here on none of them gets another expert before these copies are over.
        lane.begins();
        let mut outside = 0;
        let copied = stretches(cache, &window, weight.copied).iter().try_for_each(|it| {
            outside += if it.is_in_slot { 0 } else { it.bytes };
            issue(it.from, to + it.offset, it.bytes)
        });
        lane.submitted(self.memory.driver);
        copied.map(|()| outside)
    }
}

/// A tensor in extents, each as long as possible.
fn stretches(cache: &Cache, window: &Window, bytes: u64) -> Vec<Stretch> {
    let state = cache.state();
    let layer = state.layers.get(window.layer);
    let slot_of = |expert| layer.and_then(|layer| layer.cache.slot_of(expert));
    divide(window, bytes, slot_of)
}

fn divide(window: &Window, bytes: u64, slot_of: impl Fn(u32) -> Option<u32>) -> Vec<Stretch> {
    let mut all: Vec<Stretch> = Vec::new();
    for expert in 0..window.experts {
        let (offset, slot) = (u64::from(expert) * window.stride, slot_of(expert));
        let from = slot.map_or(window.home(expert), |slot| window.slot(slot));
        let it = Stretch { offset, bytes: window.stride, from, is_in_slot: slot.is_some() };
        match all.last_mut() {
            Some(last) if last.from + last.bytes == it.from && last.is_in_slot == it.is_in_slot => {
                last.bytes += it.bytes
            }
            _ => all.push(it),
        }
    }
    // Padding after the last expert, which kernels read too.
    let end = u64::from(window.experts) * window.stride;
    if bytes > end {
        all.push(Stretch { offset: end, bytes: bytes - end, from: window.at + end, is_in_slot: false });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_is_put_together_from_slots_and_its_home() {
        let (layer, table, notes, elements, row) = (0, 0, None, 1, 1);
        let window = Window { at: 1000, stride: 10, row, experts: 6, elements, distance: 100, layer, table, notes };
        let slot_of = |expert: u32| [None, Some(3), Some(4), None, None, Some(0)][expert as usize];
        let all = divide(&window, 64, slot_of);
        let seen: Vec<_> = all.iter().map(|it| (it.offset, it.bytes, it.from, it.is_in_slot)).collect();
        assert_eq!(
            seen,
            [
                (0, 10, 1000, false),
                (10, 20, 2030, true),
                (30, 20, 1030, false),
                (50, 10, 2000, true),
                (60, 4, 1060, false),
            ]
        );
    }
}
