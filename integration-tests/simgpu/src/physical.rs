//! Physical memory: VRAM of the boards and pages the driver took from the host.
//!
//! Both are pieces of memory files, so that one piece can show at several addresses, be shared with another
//! process and be given back. The simulator reaches a piece through its own view; the program never can, except
//! where the driver lets the host in. VRAM is charged when it is created and lives as long as anything, a handle,
//! a mapping or running work, refers to it.

use crate::driver;
use crate::errors::{Error, Result};
use std::ffi::CString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Where memory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// VRAM of a device.
    Device(usize),
    /// System memory; the `CUmemLocationType` it was asked with.
    Host(u32),
}

/// A piece of physical memory.
pub struct Physical {
    /// Unique, and the `CUmemGenericAllocationHandle` of memory from `cuMemCreate`.
    pub id: u64,
    /// Where it is.
    pub place: Place,
    /// Bytes.
    pub size: u64,
    /// What `cuMemCreate` asked for: handle types that may be exported, compression and RDMA flags.
    pub handle_types: u32,
    /// `allocFlags` of `cuMemCreate`, given back verbatim.
    pub flags: u64,
    file: i32,
    offset: u64,
    own_file: bool,
    charged: bool,
    view: *mut u8,
}

// SAFETY: `view` is plain memory that stays mapped as long as the value lives; what the simulated program's
// streams do to it concurrently is that program's race, as on hardware.
unsafe impl Send for Physical {}
// SAFETY: as above.
unsafe impl Sync for Physical {}

static NEXT_ID: AtomicU64 = AtomicU64::new(0x10_0001);

struct Arena {
    file: i32,
    end: u64,
}

static ARENA: Mutex<Option<Arena>> = Mutex::new(None);

fn memory_file(name: &str) -> Result<i32> {
    let name = CString::new(name).map_err(|_| Error::OPERATING_SYSTEM)?;
    // SAFETY: the name is a valid string; the descriptor is ours.
    let file = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 { Err(Error::OPERATING_SYSTEM) } else { Ok(file) }
}

fn grow(file: i32, end: u64) -> Result {
    // SAFETY: a file of ours.
    if unsafe { libc::ftruncate(file, end as i64) } != 0 { Err(Error::OUT_OF_MEMORY) } else { Ok(()) }
}

fn map(file: i32, offset: u64, size: u64) -> Result<*mut u8> {
    // SAFETY: a new mapping at an address the kernel chooses.
    let view = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
            file,
            offset as i64,
        )
    };
    if view == libc::MAP_FAILED { Err(Error::OUT_OF_MEMORY) } else { Ok(view.cast()) }
}

/// A part of the common memory file. It only grows; pieces given back become holes.
fn carve(size: u64) -> Result<(i32, u64)> {
    let mut arena = ARENA.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if arena.is_none() {
        *arena = Some(Arena { file: memory_file("simgpu")?, end: 0 });
    }
    let arena = arena.as_mut().ok_or(Error::OUT_OF_MEMORY)?;
    let offset = arena.end;
    grow(arena.file, offset + size)?;
    arena.end += size;
    Ok((arena.file, offset))
}

impl Physical {
    /// Takes memory; `Error::OUT_OF_MEMORY` when the board has no more. `charge` is what the board accounts.
    pub fn create(place: Place, size: u64, handle_types: u32, flags: u64) -> Result<Arc<Physical>> {
        if let Place::Device(device) = place {
            driver::devices()[device].charge(size)?;
        }
        let made = Physical::build(place, size, handle_types, flags);
        if made.is_err()
            && let Place::Device(device) = place
        {
            driver::devices()[device].uncharge(size);
        }
        made
    }

    fn build(place: Place, size: u64, handle_types: u32, flags: u64) -> Result<Arc<Physical>> {
        let length = size.next_multiple_of(4096);
        let (file, offset, own_file) = if handle_types & 1 != 0 {
            // Shared by descriptor, so it needs one of its own; the name tells an importer where the memory is.
            let file = match place {
                Place::Device(device) => memory_file(&format!("simgpu:device:{}", driver::devices()[device].board))?,
                Place::Host(kind) => memory_file(&format!("simgpu:host:{kind}"))?,
            };
            grow(file, length)?;
            (file, 0, true)
        } else {
            let (file, offset) = carve(length)?;
            (file, offset, false)
        };
        let view = map(file, offset, length)?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let charged = matches!(place, Place::Device(_));
        Ok(Arc::new(Physical { id, place, size, handle_types, flags, file, offset, own_file, charged, view }))
    }

    /// Takes up memory another process (or this one) exported as a descriptor. The exporter pays for it.
    pub fn import(file: i32, offset: u64, size: u64, place: Place) -> Result<Arc<Physical>> {
        let view = map(file, offset, size.next_multiple_of(4096))?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let physical =
            Physical { id, place, size, handle_types: 1, flags: 0, file, offset, own_file: true, charged: false, view };
        Ok(Arc::new(physical))
    }

    /// The simulator's own address of a byte.
    pub fn at(&self, offset: u64) -> *mut u8 {
        debug_assert!(offset < self.size);
        // SAFETY: within the view.
        unsafe { self.view.add(offset as usize) }
    }

    /// The file and the position in it that hold this memory.
    pub fn file(&self) -> (i32, u64) {
        (self.file, self.offset)
    }
}

impl Drop for Physical {
    fn drop(&mut self) {
        if driver::forked() {
            return;
        }
        let length = self.size.next_multiple_of(4096);
        // SAFETY: the last reference is gone, so nothing uses the view, the file part or the file any more.
        unsafe {
            libc::munmap(self.view.cast(), length as usize);
            if self.own_file {
                libc::close(self.file);
            } else {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                libc::fallocate(self.file, mode, self.offset as i64, length as i64);
            }
        }
        if let (true, Place::Device(device)) = (self.charged, self.place) {
            driver::devices()[device].uncharge(self.size);
        }
    }
}
