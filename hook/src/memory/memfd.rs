//! RAM of our own: a memfd mapped over the reservation and registered with the driver.
//!
//! Huge pages where the machine has them ready, else ordinary pages with the wish for transparent huge ones.
//! Kernels reach such memory at the same address; copies and fills that cross a chunk's border are refused by
//! the driver and must be cut.

use super::backing::{HostBacking, HostChunk};
use crate::abi::*;
use crate::driver::Driver;
use std::ffi::c_void;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// `CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP`.
const REGISTER_FLAGS: u32 = 1 | 2;

/// A memfd, registered.
pub struct Memfd;

/// A memfd of `bytes`, of huge pages when all of them can be had at once.
fn open(bytes: u64) -> Option<OwnedFd> {
    let huge = memfd(bytes, libc::MFD_HUGETLB | libc::MFD_HUGE_2MB).filter(|fd| {
        // A huge page that is missing shows at the first touch as SIGBUS; asked for now, it is an error.
        // SAFETY: a plain system call on our own descriptor.
        unsafe { libc::fallocate(fd.as_raw_fd(), 0, 0, bytes as libc::off_t) == 0 }
    });
    huge.or_else(|| memfd(bytes, 0))
}

fn memfd(bytes: u64, flags: libc::c_uint) -> Option<OwnedFd> {
    // SAFETY: the name is a literal; a descriptor that comes back is ours alone.
    let fd = unsafe {
        let fd = libc::memfd_create(c"greenboost-chunk".as_ptr(), libc::MFD_CLOEXEC | flags);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
    }?;
    // SAFETY: a plain system call on our own descriptor.
    (unsafe { libc::ftruncate(fd.as_raw_fd(), bytes as libc::off_t) } == 0).then_some(fd)
}

/// Maps the file, at an address if there is one. The file's descriptor is only needed until then.
fn map_file(fd: RawFd, bytes: u64, at: CUdeviceptr) -> Option<*mut c_void> {
    let fixed = if at == 0 { 0 } else { libc::MAP_FIXED };
    // SAFETY: either the kernel chooses the place, or it is an empty part of a reservation of ours.
    let mapped = unsafe {
        libc::mmap(
            at as *mut c_void,
            bytes as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | fixed,
            fd,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: advice on our own mapping; a kernel that cannot follow it changes nothing.
    unsafe { libc::madvise(mapped, bytes as usize, libc::MADV_HUGEPAGE) };
    // A forked child must not turn pinned pages into copy-on-write ones.
    // SAFETY: as above.
    unsafe { libc::madvise(mapped, bytes as usize, libc::MADV_DONTFORK) };
    Some(mapped)
}

/// Makes the range what the driver's reservation was: addresses that nobody else can be given.
fn restore_reservation(at: CUdeviceptr, bytes: u64) {
    // SAFETY: replaces our own mapping inside our own reservation.
    let restored = unsafe {
        libc::mmap(
            at as *mut c_void,
            bytes as usize,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    if restored == libc::MAP_FAILED {
        log::error!("the reservation at {at:#x} could not be restored: {}", std::io::Error::last_os_error());
    }
}

impl HostBacking for Memfd {
    fn name(&self) -> &'static str {
        "memfd"
    }

    fn has_seams(&self) -> bool {
        true
    }

    fn create(&self, _: &Driver, _: CUdevice, bytes: u64) -> Result<HostChunk, Status> {
        let fd = open(bytes).ok_or(OUT_OF_MEMORY)?;
        Ok(HostChunk { token: fd.into_raw_fd() as u64, bytes })
    }

    fn fill(&self, driver: &Driver, _: CUdevice, chunk: HostChunk, from: CUdeviceptr) -> Result<(), Status> {
        let window = map_file(chunk.token as RawFd, chunk.bytes, 0).ok_or(OUT_OF_MEMORY)?;
        // SAFETY: the window is this many bytes of our own memory; the source is mapped VRAM of this size.
        unsafe {
            let copied = driver.cuMemcpyDtoH_v2(window, from, chunk.bytes as usize);
            libc::munmap(window, chunk.bytes as usize);
            copied
        }
    }

    fn map(&self, driver: &Driver, _: CUdevice, chunk: &mut HostChunk, at: CUdeviceptr) -> Result<(), Status> {
        let fd = chunk.token as RawFd;
        map_file(fd, chunk.bytes, at).ok_or(OUT_OF_MEMORY)?;
        let (host, bytes) = (at as *mut c_void, chunk.bytes as usize);
        let mut seen = 0;
        // SAFETY: the range was mapped just now and stays so until `unmap`.
        let registered = unsafe {
            driver.cuMemHostRegister_v2(host, bytes, REGISTER_FLAGS).and_then(|()| {
                let same = driver.cuMemHostGetDevicePointer_v2(&mut seen, host, 0).is_ok() && seen == at;
                // Elsewhere on the device it is of no use: the program has this address.
                if same { Ok(()) } else { driver.cuMemHostUnregister(host).and(Err(NOT_SUPPORTED)) }
            })
        };
        if let Err(status) = registered {
            restore_reservation(at, chunk.bytes);
            return Err(status);
        }
        // The mapping keeps the memory; hundreds of open files would meet the program's own limit.
        // SAFETY: the descriptor is ours; it is forgotten at once.
        unsafe { libc::close(fd) };
        chunk.token = u64::MAX;
        Ok(())
    }

    fn unmap(&self, driver: &Driver, chunk: HostChunk, at: CUdeviceptr) {
        // SAFETY: undoes the registration that `map` made.
        if let Err(status) = unsafe { driver.cuMemHostUnregister(at as *mut c_void) } {
            log::error!("cuMemHostUnregister at {at:#x} failed with {status}");
        }
        restore_reservation(at, chunk.bytes);
    }

    fn destroy(&self, _: &Driver, chunk: HostChunk) {
        if chunk.token != u64::MAX {
            // SAFETY: the descriptor has not been mapped, so it is still ours to close.
            unsafe { libc::close(chunk.token as RawFd) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memfd_is_usable_whether_or_not_huge_pages_are_there() {
        let fd = open(2 << 20).expect("memfd");
        let at = map_file(fd.as_raw_fd(), 2 << 20, 0).expect("mmap");
        // SAFETY: 2 MiB were mapped; the byte and the mapping are ours.
        unsafe {
            at.cast::<u8>().add((2 << 20) - 1).write(7);
            assert_eq!(libc::munmap(at, 2 << 20), 0);
        }
        let left = map_file(fd.as_raw_fd(), 2 << 20, 0).expect("mmap");
        // SAFETY: as above.
        unsafe {
            assert_eq!(left.cast::<u8>().add((2 << 20) - 1).read(), 7);
            libc::munmap(left, 2 << 20);
        }
    }
}
