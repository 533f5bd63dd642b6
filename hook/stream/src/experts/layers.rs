//! The layers of a device: their tensors with their expert slots, and what is in those.

use super::ground::{Ground, Table};
use super::policy::LayerCache;
use super::slots::{Slots, cost};
use super::window::Window;
use greenboost_contract::counts::Counts;
use greenboost_cuda::abi::CUdeviceptr;
use greenboost_memory::Memory;
use greenboost_memory::device::Device;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// What changes.
#[derive(Default)]
pub struct State {
    /// What there is of the driver's, once a launch needed it.
    pub ground: Option<Ground>,
    /// The layers.
    pub layers: Vec<Layer>,
    /// Addresses for expert slots, for each stride of an allocation.
    pub classes: Vec<Class>,
    /// Expert slots of tensors that are gone, to be unmapped when nothing is running.
    pub graveyard: Vec<(Window, Slots)>,
    /// Counts tensors that joined.
    pub joined: u64,
    /// Whether the worker's thread has been started.
    pub has_worker: bool,
    /// What earlier sessions counted of each model, by the allocation that its weights are in; the key is `None` where counts are not
    /// kept.
    pub kept: HashMap<CUdeviceptr, (Option<String>, Counts)>,
    /// VRAM was asked for by something hotter: expert slots grow again some time after.
    pub grow_after: Option<Instant>,
}

/// A layer.
pub struct Layer {
    /// The allocation that it is in.
    pub base: CUdeviceptr,
    /// What names it: `blk.7`.
    pub name: String,
    /// Its table.
    pub table: Table,
    /// Its tensors with their expert slots.
    pub parts: Vec<(Arc<Window>, Slots)>,
    /// What is in the expert slots.
    pub cache: LayerCache,
    /// Changes when what the expert slots have is worth nothing any more.
    pub generation: u64,
    /// Whether the tensors in RAM have their bytes: all that was submitted before is over.
    pub is_ready: bool,
}

impl Layer {
    /// The number of its block.
    pub fn number(&self) -> Option<u32> {
        self.name.strip_prefix("blk.")?.parse().ok()
    }

    /// Bytes of one expert in all its tensors.
    pub fn expert_bytes(&self) -> u64 {
        self.parts.iter().map(|(window, _)| window.stride).sum()
    }

    /// VRAM for this many expert slots.
    pub fn cost(&self, slots: u32) -> u64 {
        self.parts.iter().map(|(window, _)| cost(window, slots)).sum()
    }

    /// The most expert slots that it can have.
    pub fn most(&self) -> u32 {
        self.parts.iter().map(|(window, _)| window.most()).min().unwrap_or(0)
    }

    /// Forgets what is in the expert slots; as many expert slots as before.
    pub fn empty(&mut self, generation: u64) {
        let slots = self.cache.slots();
        self.cache.resize(0);
        self.cache.resize(slots);
        self.generation = generation;
        self.is_ready = false;
    }
}

/// Addresses for the expert slots of all tensors of an allocation that have the same stride: they have the same distance.
pub struct Class {
    /// The allocation.
    pub base: CUdeviceptr,
    /// Bytes of an expert.
    pub stride: u64,
    /// From a tensor to its expert slots, in strides.
    pub distance: i64,
    /// The first of the addresses.
    pub reserved: CUdeviceptr,
    /// How many.
    pub bytes: u64,
}

/// Unmaps expert slots of tensors that are gone, while nothing is running. Returns bytes.
pub fn bury(memory: &Memory, device: &Device, graveyard: &mut Vec<(Window, Slots)>) -> u64 {
    graveyard.drain(..).map(|(window, mut slots)| slots.shrink(memory, device, &window, 0)).sum()
}

/// What names a tensor's layer: `blk.7` of `blk.7.ffn_up_exps.weight`.
pub fn layer_name(tensor: &str) -> Option<&str> {
    let number = tensor.strip_prefix("blk.")?;
    let end = number.find('.')?;
    Some(&tensor[.."blk.".len() + end])
}

#[cfg(test)]
mod tests {
    use super::layer_name;

    #[test]
    fn a_layer_is_named_by_its_number() {
        assert_eq!(layer_name("blk.7.ffn_up_exps.weight"), Some("blk.7"));
        assert_eq!((layer_name("output.weight"), layer_name("blk.7")), (None, None));
    }
}
