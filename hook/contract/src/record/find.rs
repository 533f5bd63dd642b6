//! Records of other processes, read also by root and also where such a process means harm: it may name anything as a
//! record is named, keep it open, and change it while it is read.
//!
//! So a descriptor is looked at before it is opened for reading: a regular file, of the process's own user, exactly as
//! long as a record. Opening does not wait (a FIFO would), and what was opened is a memfd whose seals keep its size.

use super::layout::{MAGIC, Mapped, NAME, Record, SEALS, VERSION};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

/// A record as it was at one moment.
#[derive(Debug)]
pub struct Snapshot(Box<Record>);

impl Deref for Snapshot {
    type Target = Record;
    fn deref(&self) -> &Record {
        &self.0
    }
}

/// What is known of a process that may have a record.
struct Owner {
    /// Its process ids: the one here, and those in the namespaces it is in.
    pids: Vec<u32>,
    /// Its users: real, effective, saved, and of files.
    users: Vec<u32>,
}

impl Owner {
    fn new(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let numbers = |key: &str| -> Option<Vec<u32>> {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            Some(line.split_whitespace().filter_map(|number| number.parse().ok()).collect())
        };
        Some(Self { pids: numbers("NSpid:").unwrap_or_else(|| vec![pid]), users: numbers("Uid:")? })
    }

    fn has_written(&self, record: &Record) -> bool {
        let is_ours = record.magic.load(Relaxed) == MAGIC && record.version.load(Relaxed) == VERSION;
        // A forked child that inherited the descriptor is not its writer.
        is_ours && self.pids.contains(&record.pid.load(Relaxed))
    }
}

/// The record of a live process, if it has one that this user may read. It stays as it was when the process ends.
pub fn of_process(pid: u32) -> Option<Mapped> {
    let owner = Owner::new(pid)?;
    let mapped = files(pid, &owner).filter_map(|file| Mapped::map(&file, libc::PROT_READ).ok());
    mapped.into_iter().find(|record| owner.has_written(record))
}

/// The records of all live processes that this user may read, by process id.
pub fn all() -> Vec<(u32, Snapshot)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut found: Vec<_> = pids.filter_map(|pid| snapshot(pid).map(|record| (pid, record))).collect();
    found.sort_by_key(|(pid, _)| *pid);
    found
}

fn snapshot(pid: u32) -> Option<Snapshot> {
    let owner = Owner::new(pid)?;
    files(pid, &owner).filter_map(|file| read(&file).ok()).find(|record| owner.has_written(record))
}

/// The files of a process that look like a record.
fn files(pid: u32, owner: &Owner) -> impl Iterator<Item = File> {
    let wanted = format!("/memfd:{NAME}");
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let name = fs::read_link(entry.path()).ok()?;
        if name.to_str().is_some_and(|name| name.starts_with(&wanted)) { open(&entry.path(), owner).ok() } else { None }
    })
}

fn open(path: &Path, owner: &Owner) -> io::Result<File> {
    let refuse = || io::Error::from(io::ErrorKind::InvalidData);
    // Nothing is opened yet, so that no FIFO's writer and no device notices.
    let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)?;
    check(&place, owner)?;
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
    check(&file, owner)?;
    // SAFETY: a question about our own descriptor.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    if seals < 0 || seals & SEALS != SEALS {
        return Err(refuse());
    }
    Ok(file)
}

fn check(file: &File, owner: &Owner) -> io::Result<()> {
    let meta = file.metadata()?;
    let fits = meta.is_file() && meta.len() == size_of::<Record>() as u64 && owner.users.contains(&meta.uid());
    if fits { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// A copy of what the file holds now.
fn read(file: &File) -> io::Result<Snapshot> {
    let mut record = Box::new(MaybeUninit::<Record>::zeroed());
    // SAFETY: the bytes of the box, which are initialised and which nobody else sees.
    let bytes = unsafe { std::slice::from_raw_parts_mut(record.as_mut_ptr().cast::<u8>(), size_of::<Record>()) };
    file.read_exact_at(bytes, 0)?;
    // SAFETY: every bit pattern is a record: it consists of integers.
    Ok(Snapshot(unsafe { record.assume_init() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{FromRawFd, OwnedFd};

    /// A memfd named like a record, of this size and with these seals.
    fn pretender(bytes: usize, seals: libc::c_int) -> File {
        // SAFETY: the name is a C string; the results are checked, and the descriptor is ours.
        let file = unsafe {
            let fd = libc::memfd_create(c"greenboost-status".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
            assert!(fd >= 0 && libc::ftruncate(fd, bytes as libc::off_t) == 0);
            File::from(OwnedFd::from_raw_fd(fd))
        };
        // SAFETY: our own descriptor.
        assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }, 0);
        file
    }

    fn opened(file: &File, owner: &Owner) -> bool {
        open(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())), owner).is_ok()
    }

    #[test]
    fn only_a_sealed_file_of_a_records_size_and_the_process_s_user_is_read() {
        let own = Owner::new(std::process::id()).expect("own status");
        let size = size_of::<Record>();
        assert!(opened(&pretender(size, SEALS), &own));
        assert!(!opened(&pretender(size - 1, SEALS), &own), "shorter");
        assert!(!opened(&pretender(size + 4096, SEALS), &own), "longer");
        assert!(!opened(&pretender(size, libc::F_SEAL_GROW), &own), "may shrink while it is read");
        let stranger = Owner { users: vec![u32::MAX - 1], ..Owner::new(std::process::id()).expect("own status") };
        assert!(!opened(&pretender(size, SEALS), &stranger), "another user's");
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("memfd:greenboost-status");
        let name = std::ffi::CString::new(path.to_str().expect("path")).expect("path");
        // SAFETY: a C string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let own = Owner::new(std::process::id()).expect("own status");
        for path in [path.as_path(), folder.path(), Path::new("/dev/null")] {
            assert!(open(path, &own).is_err(), "{}", path.display());
        }
    }
}
