//! Making the index of weights anew, from chunks and tensors as they are.

use crate::Streaming;
use crate::index::Weight;
use greenboost_contract::Stream;
use greenboost_memory::allocation::Chunk;

/// Kernels read a little after a quantised tensor: its last row is padded. More than the padding of any type.
const MOST_PADDING: u64 = 4096;

impl Streaming {
    /// Makes the index anew from the chunks as they are. Called after chunks have changed their residency.
    pub fn rebuild(&self) {
        self.index.renew(|| self.weights_outside());
    }

    /// What the index is to hold, in order of address.
    fn weights_outside(&self) -> Vec<Weight> {
        let mut found = self.prefetched_weights();
        if self.memory.settings.stream == Stream::On {
            let table = self.memory.table();
            for allocation in table.iter() {
                let tensors = self.tensors.within(allocation.base, allocation.span);
                let next = tensors.iter().skip(1).map(|(at, _)| *at).chain([allocation.base + allocation.span]);
                let next: Vec<_> = next.collect();
                for ((at, tensor), next) in tensors.into_iter().zip(next).filter(|((_, tensor), _)| tensor.is_weight) {
                    let end = at + tensor.bytes;
                    let outside = |chunk: &Chunk| !chunk.is_in_vram() && chunk.at < end && at < chunk.end();
                    if allocation.chunks.iter().any(outside) {
                        found.push(Weight {
                            at,
                            bytes: tensor.bytes,
                            copied: next.min(end + MOST_PADDING).max(end) - at,
                            rules: self.rules.of_tensor(&tensor.name),
                            device: allocation.device,
                        });
                    }
                }
            }
        }
        found.sort_by_key(|weight| weight.at);
        found
    }
}
