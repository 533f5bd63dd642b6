//! `cuGetProcAddress`: from a base name, a CUDA version and a stream form to a function. The rows come from the
//! declarations of the functions themselves, so that no name is written twice.

use crate::edge::{Entry, Form, In, Out, driver};
use crate::env::options;
use crate::errors::{Error, Result};
use std::collections::HashMap;
use std::ffi::c_char;
use std::sync::OnceLock;

const LEGACY_STREAM: u64 = 1;
const PER_THREAD_STREAM: u64 = 2;

/// `CUdriverProcAddressQueryResult`
const FOUND: u32 = 0;
const SYMBOL_NOT_FOUND: u32 = 1;
const VERSION_NOT_SUFFICIENT: u32 = 2;

/// Every function of the driver.
pub fn table() -> &'static HashMap<&'static str, Vec<Entry>> {
    static TABLE: OnceLock<HashMap<&'static str, Vec<Entry>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table: HashMap<&'static str, Vec<Entry>> = HashMap::new();
        let files = [
            entries,
            crate::alloc_calls::entries,
            crate::capture_calls::entries,
            crate::context_calls::entries,
            crate::device_calls::entries,
            crate::driver_calls::entries,
            crate::error_calls::entries,
            crate::event_calls::entries,
            crate::function::entries,
            crate::graph_build::entries,
            crate::graph_exec::entries,
            crate::graph_nodes::entries,
            crate::host_calls::entries,
            crate::launch_calls::entries,
            crate::memcpy::entries,
            crate::memcpy_array::entries,
            crate::memcpy_batch::entries,
            crate::array::entries,
            crate::memcpy_shaped::entries,
            crate::memset_calls::entries,
            crate::module_calls::entries,
            crate::pointer::entries,
            crate::pool_calls::entries,
            crate::primary::entries,
            crate::share::entries,
            crate::stream_calls::entries,
            crate::unsupported::entries,
            crate::v1::entries,
            crate::vmm::entries,
        ];
        for entry in files.into_iter().flat_map(|entries| entries()) {
            table.entry(entry.base).or_default().push(entry);
        }
        for versions in table.values_mut() {
            versions.sort_by_key(|entry| (entry.since, entry.form == Form::PerThread));
        }
        table
    })
}

/// The newest form of a function that a caller of this version knows; where there is no per-thread form, the
/// other is the right one.
fn choose(versions: &[Entry], version: i32, form: Form) -> Option<&Entry> {
    let fitting = || versions.iter().filter(|entry| entry.since <= version);
    let newest = fitting().rfind(|entry| entry.form == Form::Legacy)?;
    let per_thread = fitting().rfind(|entry| entry.form == Form::PerThread);
    match (form, per_thread) {
        (Form::PerThread, Some(entry)) => Some(entry),
        _ => Some(newest),
    }
}

fn look_up(name: In<c_char>, version: i32, flags: u64, default: Form) -> Result<core::result::Result<usize, u32>> {
    let name = name.text()?;
    let form = match flags {
        0 => default,
        LEGACY_STREAM => Form::Legacy,
        PER_THREAD_STREAM => Form::PerThread,
        _ => return Err(Error::INVALID_VALUE),
    };
    if version > options().driver_version {
        return Err(Error::INVALID_VALUE);
    }
    let Some(versions) = table().get(name.as_str()) else { return Ok(Err(SYMBOL_NOT_FOUND)) };
    let driver = options().driver_version;
    if versions.iter().all(|entry| entry.since > driver) {
        return Ok(Err(SYMBOL_NOT_FOUND));
    }
    Ok(match choose(versions, version, form) {
        Some(entry) if options().twins => Ok(entry.twin),
        Some(entry) => Ok(entry.address),
        None => Err(VERSION_NOT_SUFFICIENT),
    })
}

fn answer(found: core::result::Result<usize, u32>, out: Out<usize>, status: Out<u32>) -> Result {
    out.put(found.unwrap_or(0))?;
    status.opt(found.err().unwrap_or(FOUND));
    // What is missing is reported in the status; only a caller who does not want to know gets an error.
    if found.is_err() && status.is_null() { Err(Error::NOT_FOUND) } else { Ok(()) }
}

driver! {
    [any] "cuGetProcAddress" 11030 cuGetProcAddress(
        _call, name: In<c_char>, out: Out<usize>, version: i32, flags: u64,
    ) {
        let found = look_up(name, version, flags, Form::Legacy)?;
        out.put(found.unwrap_or(0))?;
        found.map(drop).map_err(|_| Error::NOT_FOUND)
    }

    [any] "cuGetProcAddress" 12000 cuGetProcAddress_v2(
        _call, name: In<c_char>, out: Out<usize>, version: i32, flags: u64, status: Out<u32>,
    ) {
        answer(look_up(name, version, flags, Form::Legacy)?, out, status)
    }

    // The header's name for programs compiled for per-thread streams; not a name one can look up.
    [any] "cuGetProcAddress_v2_ptsz" 12000 cuGetProcAddress_v2_ptsz(
        _call, name: In<c_char>, out: Out<usize>, version: i32, flags: u64, status: Out<u32>,
    ) {
        answer(look_up(name, version, flags, Form::PerThread)?, out, status)
    }
}
