//! The tier map that the hook draws (`GREENBOOST_MAP`), as a test reads it: every granule and where it is.

use anyhow::{Context, Result};
use greenboost_contract::settings::GRANULE;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// A spanning allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// First address.
    pub base: u64,
    /// Bytes the program asked for.
    pub size: u64,
    /// Its device.
    pub device: u64,
    /// The tier of each granule in order: `vram`, or the name of a RAM backing. Empty: not placed yet.
    pub granules: Vec<String>,
}

impl Allocation {
    /// Whether an address is in it.
    pub fn has(&self, at: u64) -> bool {
        (self.base..self.base + self.size).contains(&at)
    }

    /// Whether each granule is in VRAM.
    pub fn in_vram(&self) -> Vec<bool> {
        self.granules.iter().map(|tier| tier == "vram").collect()
    }

    /// Granules from the first to the last that bytes at an address touch.
    pub fn touched(&self, at: u64, bytes: u64) -> std::ops::RangeInclusive<usize> {
        let granule = |address: u64| ((address - self.base) / GRANULE) as usize;
        granule(at)..=granule(at + bytes - 1)
    }
}

/// A weight tensor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its first address.
    pub at: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// One moment of a process's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierMap {
    /// By address.
    pub allocations: Vec<Allocation>,
    /// By address.
    pub tensors: Vec<Tensor>,
}

impl TierMap {
    /// Reads a map and checks that it makes sense.
    ///
    /// # Panics
    /// When there is none, or chunks leave gaps.
    #[track_caller]
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::parse(&text).unwrap_or_else(|error| panic!("{error:#}\n{text}"))
    }

    fn parse(text: &str) -> Result<Self> {
        let json: Value = serde_json::from_str(text)?;
        let list = |value: &Value, key: &str| value[key].as_array().cloned().with_context(|| format!("no list {key}"));
        let number = |value: &Value, key: &str| value[key].as_u64().with_context(|| format!("no number {key}"));
        let word =
            |value: &Value, key: &str| value[key].as_str().map(str::to_owned).with_context(|| format!("no text {key}"));
        let mut map = Self { allocations: Vec::new(), tensors: Vec::new() };
        for it in list(&json, "allocations")? {
            let (base, size, mut granules) = (number(&it, "base")?, number(&it, "size")?, Vec::new());
            for chunk in list(&it, "chunks")? {
                let (at, bytes, tier) = (number(&chunk, "at")?, number(&chunk, "bytes")?, word(&chunk, "home")?);
                let next = base + granules.len() as u64 * GRANULE;
                anyhow::ensure!(at == next && bytes % GRANULE == 0, "a chunk at {at:#x}, after {next:#x}");
                granules.extend((0..bytes / GRANULE).map(|_| tier.clone()));
            }
            let wanted = size.div_ceil(GRANULE);
            anyhow::ensure!(granules.is_empty() || granules.len() as u64 == wanted, "{base:#x} is not covered");
            map.allocations.push(Allocation { base, size, device: number(&it, "device")?, granules });
        }
        for it in list(&json, "tensors")? {
            map.tensors.push(Tensor { name: word(&it, "name")?, at: number(&it, "at")?, bytes: number(&it, "bytes")? });
        }
        Ok(map)
    }

    /// The tensors inside an allocation.
    pub fn inside<'a>(&'a self, allocation: &'a Allocation) -> impl Iterator<Item = &'a Tensor> {
        self.tensors.iter().filter(|tensor| allocation.has(tensor.at))
    }

    /// The allocations that hold weights.
    pub fn weights(&self) -> Vec<&Allocation> {
        self.allocations.iter().filter(|allocation| self.inside(allocation).next().is_some()).collect()
    }

    /// The tiers of the granules that a tensor touches.
    ///
    /// # Panics
    /// When it is not in any spanning allocation.
    #[track_caller]
    pub fn tiers(&self, name: &str) -> Vec<&str> {
        let tensor = self.tensors.iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no {name}"));
        let allocation = self.allocations.iter().find(|it| it.has(tensor.at)).expect("its allocation");
        allocation.granules[allocation.touched(tensor.at, tensor.bytes)].iter().map(String::as_str).collect()
    }

    /// Bytes of all allocations of a device in VRAM.
    pub fn vram(&self, device: u64) -> u64 {
        let of_device = self.allocations.iter().filter(|allocation| allocation.device == device);
        of_device.flat_map(Allocation::in_vram).filter(|in_vram| *in_vram).count() as u64 * GRANULE
    }
}
