//! The boards: who they are, what is in use, how they are connected.

use crate::out::{Answer, enter, get, put, put_text, text};
use crate::system::ready;
use crate::world::{Board, Usage, boards};
use crate::{Code, INSUFFICIENT_SIZE, INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED};
use std::ffi::c_char;
use std::sync::OnceLock;

/// A `nvmlDevice_t`: the board's number and a mark, never a pointer.
const MARK: usize = 0x4e56_0000;

fn usage() -> &'static Usage {
    static USAGE: OnceLock<Usage> = OnceLock::new();
    USAGE.get_or_init(Usage::open)
}

fn board(handle: usize) -> Result<&'static Board, Code> {
    ready()?;
    handle.checked_sub(MARK).and_then(|index| boards().get(index)).ok_or(INVALID_ARGUMENT)
}

fn by(out: *mut usize, wanted: impl Fn(&Board) -> bool) -> Answer {
    ready()?;
    put(out, MARK + boards().iter().position(wanted).ok_or(NOT_FOUND)?)
}

fn by_index(index: u32, out: *mut usize) -> Code {
    enter(|| {
        ready()?;
        if index as usize >= boards().len() {
            return Err(INVALID_ARGUMENT);
        }
        put(out, MARK + index as usize)
    })
}

fn by_pci(id: *const c_char, out: *mut usize) -> Code {
    enter(|| {
        let id = text(id)?.to_ascii_uppercase();
        by(out, |board| id.ends_with(&board.pci_text()) || board.pci_text().ends_with(&id))
    })
}

fn count(out: *mut u32) -> Code {
    enter(|| {
        ready()?;
        put(out, boards().len() as u32)
    })
}

/// NVML's `nvmlDeviceGetCount`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCount(out: *mut u32) -> Code {
    count(out)
}

/// NVML's `nvmlDeviceGetCount_v2`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCount_v2(out: *mut u32) -> Code {
    count(out)
}

/// NVML's `nvmlDeviceGetHandleByIndex`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByIndex(index: u32, out: *mut usize) -> Code {
    by_index(index, out)
}

/// NVML's `nvmlDeviceGetHandleByIndex_v2`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: u32, out: *mut usize) -> Code {
    by_index(index, out)
}

/// NVML's `nvmlDeviceGetHandleByUUID`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, out: *mut usize) -> Code {
    enter(|| {
        let uuid = text(uuid)?;
        by(out, |board| board.uuid_text() == uuid)
    })
}

/// NVML's `nvmlDeviceGetHandleByPciBusId`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByPciBusId(id: *const c_char, out: *mut usize) -> Code {
    by_pci(id, out)
}

/// NVML's `nvmlDeviceGetHandleByPciBusId_v2`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(id: *const c_char, out: *mut usize) -> Code {
    by_pci(id, out)
}

/// NVML's `nvmlDeviceGetIndex`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetIndex(device: usize, out: *mut u32) -> Code {
    enter(|| put(out, board(device)?.index as u32))
}

/// NVML's `nvmlDeviceGetUUID`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUUID(device: usize, out: *mut c_char, room: u32) -> Code {
    enter(|| put_text(&board(device)?.uuid_text(), out, room))
}

/// NVML's `nvmlDeviceGetName`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetName(device: usize, out: *mut c_char, room: u32) -> Code {
    enter(|| put_text(board(device)?.name(), out, room))
}

/// `nvmlMemory_t`
#[repr(C)]
pub struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

/// `nvmlMemory_v2_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemoryV2 {
    version: u32,
    total: u64,
    reserved: u64,
    free: u64,
    used: u64,
}

/// NVML's `nvmlDeviceGetMemoryInfo`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryInfo(device: usize, out: *mut Memory) -> Code {
    enter(|| {
        let board = board(device)?;
        let used = usage().used(board.index).min(board.vram);
        put(out, Memory { total: board.vram, free: board.vram - used, used })
    })
}

/// NVML's `nvmlDeviceGetMemoryInfo_v2`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: usize, out: *mut MemoryV2) -> Code {
    enter(|| {
        let board = board(device)?;
        let used = usage().used(board.index).min(board.vram);
        let version = get(out.cast_const().cast::<u32>())?;
        put(out, MemoryV2 { version, total: board.vram, reserved: 0, free: board.vram - used, used })
    })
}

/// `nvmlPciInfo_t`
#[repr(C)]
pub struct PciInfo {
    legacy_id: [u8; 16],
    domain: u32,
    bus: u32,
    device: u32,
    device_id: u32,
    subsystem_id: u32,
    id: [u8; 32],
}

fn pci(device: usize, out: *mut PciInfo) -> Code {
    enter(|| {
        let board = board(device)?;
        let mut info = PciInfo {
            legacy_id: [0; 16],
            domain: 0,
            bus: board.index as u32 + 1,
            device: 0,
            device_id: 0x2335_10de,
            subsystem_id: 0x18be_10de,
            id: [0; 32],
        };
        let short = board.pci_text();
        let long = format!("0000{short}");
        info.legacy_id[..short.len()].copy_from_slice(short.as_bytes());
        info.id[..long.len()].copy_from_slice(long.as_bytes());
        put(out, info)
    })
}

/// NVML's `nvmlDeviceGetPciInfo_v2`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPciInfo_v2(device: usize, out: *mut PciInfo) -> Code {
    pci(device, out)
}

/// NVML's `nvmlDeviceGetPciInfo_v3`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPciInfo_v3(device: usize, out: *mut PciInfo) -> Code {
    pci(device, out)
}

macro_rules! number {
    ($($name:ident $value:expr;)*) => { $(
        #[doc = concat!("NVML's `", stringify!($name), "`.")]
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(device: usize, out: *mut u32) -> Code {
            enter(|| {
                board(device)?;
                put(out, $value)
            })
        }
    )* };
}

number! {
    nvmlDeviceGetCurrPcieLinkGeneration 5;
    nvmlDeviceGetMaxPcieLinkGeneration 5;
    nvmlDeviceGetCurrPcieLinkWidth 16;
    nvmlDeviceGetMaxPcieLinkWidth 16;
}

/// NVML's `nvmlDeviceGetMigMode`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMigMode(device: usize, _current: *mut u32, _pending: *mut u32) -> Code {
    enter(|| board(device).and(Err(NOT_SUPPORTED)))
}

/// NVML's `nvmlDeviceGetTemperature`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetTemperature(device: usize, _sensor: u32, out: *mut u32) -> Code {
    enter(|| {
        board(device)?;
        put(out, 40)
    })
}

/// NVML's `nvmlDeviceGetUtilizationRates`: GPU and memory, in percent.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUtilizationRates(device: usize, out: *mut [u32; 2]) -> Code {
    enter(|| {
        board(device)?;
        put(out, [0, 0])
    })
}

/// NVML's `nvmlDeviceGetCudaComputeCapability`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCudaComputeCapability(device: usize, major: *mut i32, minor: *mut i32) -> Code {
    enter(|| {
        board(device)?;
        put(major, 9)?;
        put(minor, 0)
    })
}

/// `nvmlProcessInfo_v2_t`, which v3 shares.
#[repr(C)]
pub struct Process {
    pid: u32,
    used: u64,
    instances: [u32; 2],
}

/// `nvmlProcessInfo_v1_t`
#[repr(C)]
pub struct ProcessV1 {
    pid: u32,
    used: u64,
}

fn processes<T>(device: usize, count: *mut u32, out: *mut T, make: impl Fn(u32, u64) -> T) -> Answer {
    let board = board(device)?;
    let running: Vec<(u64, u64)> = usage().processes(board.index).collect();
    let room = get(count)? as usize;
    put(count, running.len() as u32)?;
    if running.len() > room {
        return Err(INSUFFICIENT_SIZE);
    }
    for (index, (pid, used)) in running.into_iter().enumerate() {
        // SAFETY: the caller has room for every process, as just checked.
        put(unsafe { out.add(index) }, make(pid as u32, used))?;
    }
    Ok(())
}

/// NVML's `nvmlDeviceGetComputeRunningProcesses`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetComputeRunningProcesses(device: usize, count: *mut u32, out: *mut ProcessV1) -> Code {
    enter(|| processes(device, count, out, |pid, used| ProcessV1 { pid, used }))
}

/// NVML's `nvmlDeviceGetComputeRunningProcesses_v2`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetComputeRunningProcesses_v2(device: usize, count: *mut u32, out: *mut Process) -> Code {
    enter(|| processes(device, count, out, |pid, used| Process { pid, used, instances: [u32::MAX; 2] }))
}

/// NVML's `nvmlDeviceGetComputeRunningProcesses_v3`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(device: usize, count: *mut u32, out: *mut Process) -> Code {
    enter(|| processes(device, count, out, |pid, used| Process { pid, used, instances: [u32::MAX; 2] }))
}
