//! RAM of our own: a memfd, of huge pages where the machine has them ready, else of ordinary pages for which
//! transparent huge ones are asked.

use super::registered::Source;
use greenboost_cuda::Driver;
use greenboost_cuda::abi::{CUdevice, OUT_OF_MEMORY, Status};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A memfd.
#[derive(Default)]
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

impl Source for Memfd {
    const NAME: &'static str = "memfd";
    const HAS_OWN_LIMIT: bool = false;

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn open(&self, _: &Driver, _: CUdevice, bytes: u64) -> Result<OwnedFd, Status> {
        open(bytes).ok_or(OUT_OF_MEMORY)
    }

    fn note(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use greenboost_kmod::{Access, Mapping};
    use std::os::fd::AsFd;

    #[test]
    fn a_memfd_is_usable_whether_or_not_huge_pages_are_there() {
        let fd = open(2 << 20).expect("memfd");
        for before in [0, 7] {
            let window = Mapping::of_file(fd.as_fd(), 2 << 20, Access::ReadWrite).expect("mmap");
            // SAFETY: the last byte of the mapping, which is ours.
            unsafe {
                let last = window.as_ptr().add(window.len() - 1);
                assert_eq!(last.replace(7), before);
            }
        }
    }
}
