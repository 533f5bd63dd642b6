//! Every environment variable of the simulated driver, read once.

use crate::world::parse_size;
use std::collections::HashMap;
use std::str::FromStr;
use std::sync::OnceLock;

/// How memory on the host behaves; boards in the field differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostMemory {
    /// Works.
    Ok,
    /// The driver makes it, but a kernel that touches it faults.
    Unreadable,
    /// The driver makes it, but kernels read zeroes and their writes are lost.
    Stale,
    /// The driver refuses.
    Unsupported,
}

/// The Nth call of a function fails with a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Counted from 1.
    pub nth: u64,
    /// The `CUresult` to return.
    pub code: u32,
}

/// The options, see the crate's documentation for their meaning.
pub struct Options {
    /// `SIMGPU_CTX_OVERHEAD`
    pub context_overhead: u64,
    /// `SIMGPU_SEED`
    pub seed: u64,
    /// `SIMGPU_DELAY_US`
    pub delay_us: u64,
    /// `SIMGPU_LINK_GBPS`
    pub link_gbps: Option<f64>,
    /// `SIMGPU_IN_PLACE_GBPS`
    pub in_place_gbps: Option<f64>,
    /// `SIMGPU_VRAM_GBPS`
    pub vram_gbps: Option<f64>,
    /// `SIMGPU_MULTIPROCESSORS`
    pub multiprocessors: i32,
    /// `SIMGPU_DRIVER_VERSION`
    pub driver_version: i32,
    /// `SIMGPU_VMM`
    pub vmm: bool,
    /// `SIMGPU_ADDRESS_HINTS`
    pub address_hints: bool,
    /// `SIMGPU_HOST_NUMA`
    pub host_numa: HostMemory,
    /// `SIMGPU_HOST_REGISTER`
    pub host_register: bool,
    /// `SIMGPU_READ_ONLY`
    pub read_only: HostMemory,
    /// `SIMGPU_FAIL`, by function name
    pub failures: HashMap<String, Vec<Failure>>,
    /// `SIMGPU_TRACE`
    pub trace: Option<String>,
    /// `SIMGPU_TWINS`
    pub twins: bool,
    /// `CUDA_VISIBLE_DEVICES`
    pub visible: Option<String>,
}

/// The options of this process.
pub fn options() -> &'static Options {
    static OPTIONS: OnceLock<Options> = OnceLock::new();
    OPTIONS.get_or_init(Options::read)
}

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_string()).filter(|value| !value.is_empty())
}

fn number<T: FromStr>(name: &str, default: T) -> T {
    text(name).and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn host_memory(name: &str) -> HostMemory {
    match text(name).as_deref() {
        Some("unreadable") => HostMemory::Unreadable,
        Some("stale") => HostMemory::Stale,
        Some("unsupported") => HostMemory::Unsupported,
        _ => HostMemory::Ok,
    }
}

fn speed(name: &str) -> Option<f64> {
    text(name).and_then(|value| value.parse().ok()).filter(|gbps| *gbps > 0.0)
}

impl Options {
    fn read() -> Options {
        Options {
            context_overhead: text("SIMGPU_CTX_OVERHEAD").and_then(|size| parse_size(&size)).unwrap_or(0),
            seed: number("SIMGPU_SEED", 0),
            delay_us: number("SIMGPU_DELAY_US", 20),
            link_gbps: speed("SIMGPU_LINK_GBPS"),
            in_place_gbps: speed("SIMGPU_IN_PLACE_GBPS").or(speed("SIMGPU_LINK_GBPS")),
            vram_gbps: speed("SIMGPU_VRAM_GBPS"),
            multiprocessors: number("SIMGPU_MULTIPROCESSORS", 132),
            driver_version: number("SIMGPU_DRIVER_VERSION", 13000),
            vmm: number("SIMGPU_VMM", 1u8) != 0,
            address_hints: number("SIMGPU_ADDRESS_HINTS", 1u8) != 0,
            host_numa: host_memory("SIMGPU_HOST_NUMA"),
            host_register: text("SIMGPU_HOST_REGISTER").as_deref() != Some("fail"),
            read_only: host_memory("SIMGPU_READ_ONLY"),
            failures: failures(&text("SIMGPU_FAIL").unwrap_or_default()),
            trace: text("SIMGPU_TRACE"),
            twins: number("SIMGPU_TWINS", 0u8) != 0,
            visible: std::env::var("CUDA_VISIBLE_DEVICES").ok(),
        }
    }
}

/// Reads `cuMemCreate:3,cuMemMap:1:999`; the code defaults to out of memory.
fn failures(list: &str) -> HashMap<String, Vec<Failure>> {
    let mut table: HashMap<String, Vec<Failure>> = HashMap::new();
    for item in list.split(',') {
        let mut parts = item.trim().split(':');
        if let (Some(name), Some(Ok(nth))) = (parts.next(), parts.next().map(str::parse)) {
            let code = parts.next().and_then(|code| code.parse().ok()).unwrap_or(2);
            table.entry(name.to_string()).or_default().push(Failure { nth, code });
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_default_to_out_of_memory() {
        let table = failures("cuMemCreate:3, cuMemMap:1:999,nonsense");
        assert_eq!(table["cuMemCreate"], [Failure { nth: 3, code: 2 }]);
        assert_eq!(table["cuMemMap"], [Failure { nth: 1, code: 999 }]);
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("512MiB"), Some(512 << 20));
        assert_eq!(parse_size("4g"), Some(4 << 30));
        assert_eq!(parse_size("65536"), Some(65536));
        assert_eq!(parse_size("a lot"), None);
    }
}
