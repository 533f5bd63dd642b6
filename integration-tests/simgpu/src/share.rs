//! Memory for other processes: descriptors of `cuMemCreate` memory, and the older handles, which exist for
//! `cuMemAlloc` memory only.

use crate::driver;
use crate::edge::{Out, Shown, driver};
use crate::errors::{Error, Result};
use crate::physical::{Physical, Place};
use crate::pool::POOLS;
use crate::va::{self, Backing, Origin};
use crate::vmm;
use crate::world::{self, MAX_BOARDS};
use std::ffi::{CString, c_void};

/// `CUmemAllocationHandleType`: a file descriptor.
const DESCRIPTOR: u32 = 1;
const MAGIC: u64 = 0x5349_4d49_5043_0001;

/// `CUipcMemHandle`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct IpcHandle {
    magic: u64,
    process: u64,
    file: u64,
    offset: u64,
    size: u64,
    board: u64,
    unused: [u64; 2],
}

const _: () = assert!(size_of::<IpcHandle>() == size_of::<cudarc::driver::sys::CUipcMemHandle>());

impl Shown for PoolPointer {
    fn shown(&self) -> String {
        format!("{:#x}", self.address)
    }
}

impl Shown for IpcHandle {
    fn shown(&self) -> String {
        format!("{}+{:#x}", self.process, self.offset)
    }
}

/// `CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD`
const DMA_BUF: u32 = 1;

/// `CUmemPoolPtrExportData`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PoolPointer {
    magic: u64,
    pool: usize,
    address: u64,
    unused: [u64; 5],
}

const _: () = assert!(size_of::<PoolPointer>() == size_of::<cudarc::driver::sys::CUmemPoolPtrExportData>());

fn duplicate(file: i32) -> Result<i32> {
    // SAFETY: fcntl on a descriptor number; a bad one is an error.
    let copy = unsafe { libc::fcntl(file, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 { Err(Error::INVALID_VALUE) } else { Ok(copy) }
}

/// Where exported memory is, as the name of its file tells.
fn place_of(file: i32) -> Result<Place> {
    let link = std::fs::read_link(format!("/proc/self/fd/{file}")).map_err(|_| Error::INVALID_VALUE)?;
    let name = link.to_string_lossy().into_owned();
    let mut parts = name.trim_start_matches("/memfd:").trim_end_matches(" (deleted)").split(':');
    match (parts.next(), parts.next(), parts.next().map(str::parse::<usize>)) {
        (Some("simgpu"), Some("device"), Some(Ok(board))) => on_board(board),
        (Some("simgpu"), Some("host"), Some(Ok(kind))) => Ok(Place::Host(kind as u32)),
        _ => Err(Error::INVALID_VALUE),
    }
}

fn on_board(board: usize) -> Result<Place> {
    let device = driver::devices().iter().find(|device| device.board == board);
    device.map(|device| Place::Device(device.ordinal)).ok_or(Error::INVALID_DEVICE)
}

fn open(handle: IpcHandle, out: Out<u64>, context: usize) -> Result {
    if handle.magic != MAGIC || handle.board as usize >= world::boards().len() {
        return Err(Error::INVALID_VALUE);
    }
    if handle.process == u64::from(std::process::id()) {
        return Err(Error::INVALID_CONTEXT);
    }
    let path =
        CString::new(format!("/proc/{}/fd/{}", handle.process, handle.file)).map_err(|_| Error::INVALID_VALUE)?;
    // SAFETY: a plain open; the descriptor is ours.
    let file = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if file < 0 {
        return Err(Error::MAP_FAILED);
    }
    let memory = Physical::import(file, handle.offset, handle.size, on_board(handle.board as usize)?)?;
    let len = handle.size.next_multiple_of(4096);
    let start = va::reserve_addresses(len, 2 << 20, 0)?;
    let mut space = va::write();
    space.insert(start, handle.size, Backing::Physical(memory, 0), Origin::Ipc, [0; MAX_BOARDS], context);
    out.put(start)
}

driver! {
    [init] "cuMemExportToShareableHandle" 10020 cuMemExportToShareableHandle(
        _call, out: Out<i32>, handle: u64, kind: u32, flags: u64,
    ) {
        let memory = vmm::held(handle)?;
        if kind != DESCRIPTOR || flags != 0 || memory.handle_types & DESCRIPTOR == 0 {
            return Err(Error::INVALID_VALUE);
        }
        out.put(duplicate(memory.file().0)?)
    }

    [init] "cuMemImportFromShareableHandle" 10020 cuMemImportFromShareableHandle(
        _call, out: Out<u64>, descriptor: *mut c_void, kind: u32,
    ) {
        if kind != DESCRIPTOR {
            return Err(Error::INVALID_VALUE);
        }
        let file = descriptor as usize as i32;
        let place = place_of(file)?;
        // SAFETY: fstat fills the struct it is given.
        let size = unsafe {
            let mut status: libc::stat = std::mem::zeroed();
            if libc::fstat(file, &mut status) != 0 {
                return Err(Error::INVALID_VALUE);
            }
            status.st_size as u64
        };
        let memory = Physical::import(duplicate(file)?, 0, size, place)?;
        out.put(vmm::hold(&memory))
    }

    [ctx] "cuMemGetHandleForAddressRange" 11070 cuMemGetHandleForAddressRange(
        _call, out: Out<i32>, start: u64, len: usize, kind: u32, flags: u64,
    ) {
        let space = va::read();
        let mapping = space.find(start).filter(|mapping| start + len as u64 <= mapping.end());
        let Some((Backing::Physical(memory, _), Some(_))) = mapping.map(|mapping| (&mapping.backing, mapping.device()))
        else {
            return Err(Error::INVALID_VALUE);
        };
        let is_whole = len > 0 && start.is_multiple_of(4096) && len.is_multiple_of(4096);
        if kind != DMA_BUF || flags > 1 || !is_whole {
            return Err(Error::INVALID_VALUE);
        }
        // A descriptor that nobody here can import: the file of the memory, at whose begin it need not be.
        out.put(duplicate(memory.file().0)?)
    }

    [init] "cuMemPoolExportToShareableHandle" 11020 cuMemPoolExportToShareableHandle(
        _call, out: Out<i32>, pool: usize, kind: u32, flags: u64,
    ) {
        let pool = POOLS.get(pool)?;
        if kind != DESCRIPTOR || flags != 0 || pool.handle_types & DESCRIPTOR == 0 {
            return Err(Error::INVALID_VALUE);
        }
        // A name for the pool, which nobody here can import.
        // SAFETY: the name is a valid string; the descriptor is the caller's.
        let file = unsafe { libc::memfd_create(c"simgpu:pool".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 { Err(Error::OPERATING_SYSTEM) } else { out.put(file) }
    }

    [init] "cuMemPoolExportPointer" 11020 cuMemPoolExportPointer(_call, out: Out<PoolPointer>, address: u64) {
        let Some(Origin::Pool(pool)) = va::read().at(address).map(|mapping| mapping.origin) else {
            return Err(Error::INVALID_VALUE);
        };
        if POOLS.get(pool)?.handle_types & DESCRIPTOR == 0 {
            return Err(Error::INVALID_VALUE);
        }
        out.put(PoolPointer { magic: MAGIC, pool, address, unused: [0; 5] })
    }

    [ctx] "cuIpcGetMemHandle" 4010 cuIpcGetMemHandle(_call, out: Out<IpcHandle>, address: u64) {
        let space = va::read();
        let mapping = space.find(address).filter(|mapping| mapping.origin == Origin::Alloc);
        let Some((Backing::Physical(memory, offset), Some(device))) =
            mapping.map(|mapping| (&mapping.backing, mapping.device()))
        else {
            return Err(Error::INVALID_VALUE);
        };
        let (file, start) = memory.file();
        out.put(IpcHandle {
            magic: MAGIC,
            process: std::process::id().into(),
            file: file as u64,
            offset: start + offset,
            size: memory.size,
            board: driver::devices()[device].board as u64,
            unused: [0; 2],
        })
    }

    [ctx] "cuIpcOpenMemHandle" 4010 cuIpcOpenMemHandle(call, out: Out<u64>, handle: IpcHandle, _flags: u32) {
        open(handle, out, call.context()?.handle)
    }

    [ctx] "cuIpcOpenMemHandle" 11000 cuIpcOpenMemHandle_v2(call, out: Out<u64>, handle: IpcHandle, _flags: u32) {
        open(handle, out, call.context()?.handle)
    }

    [ctx] "cuIpcCloseMemHandle" 4010 cuIpcCloseMemHandle(call, address: u64) {
        crate::waiting::wait_for(&*call.context()?);
        let mut space = va::write();
        let ours = space.at(address).is_some_and(|mapping| mapping.origin == Origin::Ipc);
        let mapping = ours.then(|| space.remove(address)).flatten().ok_or(Error::INVALID_VALUE)?;
        va::release_addresses(mapping.start, mapping.len.next_multiple_of(4096));
        Ok(())
    }

    [ctx] "cuIpcGetEventHandle" 4010 cuIpcGetEventHandle(_call, _out: Out<IpcHandle>, _event: usize) {
        Err(Error::NOT_SUPPORTED)
    }
}
