//! What the driver says about a GPU, and how a process that asks it tells its parent.

use super::cuda::{self, Calls, CudaError};
use super::nvml::Nvml;
use super::report::{Device, Event};
use std::ffi::c_int;
use std::io::Write;

/// Tells the parent.
pub fn report(event: &Event) {
    if let Ok(line) = serde_json::to_string(event) {
        // When doctor is gone there is nobody left to tell.
        let _ = writeln!(std::io::stdout(), "{line}").and_then(|()| std::io::stdout().flush());
    }
}

/// Tells the parent what is tried next.
pub fn step(doing: impl Into<String>) {
    report(&Event::Step { doing: doing.into() });
}

/// The loader's own words, which name the file and the reason; the error's are only "dlopen failed".
pub fn not_loaded(error: &libloading::Error) -> String {
    let reason = std::error::Error::source(error).map(ToString::to_string).unwrap_or_else(|| error.to_string());
    if reason.contains(cuda::FILE) { reason } else { format!("{}: {reason}", cuda::FILE) }
}

/// Asks about a GPU: its handle, and what is said of it.
pub fn describe(calls: &Calls, nvml: Option<&Nvml>, index: c_int) -> Result<(c_int, Device), CudaError> {
    let mut handle = 0;
    let mut name = [0u8; 128];
    let mut uuid = [0u8; 16];
    // SAFETY: every pointer is to a local of the size the call is told or documented to write.
    unsafe {
        calls.device(&mut handle, index)?;
        calls.device_name(name.as_mut_ptr().cast(), name.len() as c_int, handle)?;
        calls.device_uuid(&mut uuid, handle)?;
    }
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    let uuid = uuid_text(&uuid);
    let device = Device {
        index,
        name: String::from_utf8_lossy(&name[..end]).into_owned(),
        compute: (attribute(calls, cuda::COMPUTE_MAJOR, handle), attribute(calls, cuda::COMPUTE_MINOR, handle)),
        vmm: attribute(calls, cuda::VMM, handle) > 0,
        host_numa: attribute(calls, cuda::HOST_NUMA_VMM, handle) > 0,
        link: nvml.and_then(|nvml| nvml.link(&uuid)),
        mig: nvml.and_then(|nvml| nvml.mig(&uuid)),
        uuid,
    };
    Ok((handle, device))
}

/// An attribute, 0 for one this driver does not know.
pub fn attribute(calls: &Calls, attribute: c_int, device: c_int) -> c_int {
    let mut value = 0;
    // SAFETY: the value is written by the call.
    unsafe { calls.attribute(&mut value, attribute, device) }.map_or(0, |()| value)
}

fn uuid_text(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_written_as_nvml_writes_it() {
        let bytes = std::array::from_fn(|at| at as u8);
        assert_eq!(uuid_text(&bytes), "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}
