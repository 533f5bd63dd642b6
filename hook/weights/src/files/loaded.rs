//! The file that the hook's own library was loaded from.

use super::page::page;
use super::{area, reading};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;

/// The file that this library was loaded from, which is there whatever the program does: the very file that is mapped,
/// whatever has its path now. `None`: it cannot be had any more.
pub fn own_library() -> Option<File> {
    static IN_IT: u8 = 0;
    loaded_from((&raw const IN_IT) as u64)
}

/// The file of the mapping that an address is in. `None` where there is none, or it cannot be had any more: an update may
/// have put another one into its place.
fn loaded_from(at: u64) -> Option<File> {
    let (area, path) = area::named(at)?;
    let file = File::from(reading::open_exact(&area, &path)?);
    let is_it = file.metadata().is_ok_and(|it| it.is_file()) && name_in_mappings(&file) == Some(area.file);
    is_it.then_some(file)
}

/// What the kernel names an open file in mappings: that can be compared with other mappings, and `stat` cannot.
fn name_in_mappings(file: &File) -> Option<area::FileId> {
    let bytes = page() as usize;
    // SAFETY: a mapping of our own, at an address of the kernel's choice, which nobody touches.
    let at = unsafe { libc::mmap(null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return None;
    }
    let known = area::quick(at as u64).unwrap_or_else(|| area::named(at as u64).map(|(area, _)| area));
    // SAFETY: made above.
    unsafe { libc::munmap(at, bytes) };
    known.map(|area| area.file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::testing::{MappedFile, PAGE};
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn code_leads_to_its_file() {
        let own = own_library().expect("the test program");
        let path = std::env::current_exe().expect("a path");
        assert_eq!(own.metadata().expect("open").ino(), fs::metadata(path).expect("there").ino());
        assert!(loaded_from(PAGE).is_none());
    }

    #[test]
    fn a_file_with_the_same_path_is_not_the_one_that_was_loaded() {
        let file = MappedFile::new("updated", PAGE, libc::MAP_PRIVATE, libc::PROT_READ);
        assert!(loaded_from(file.at).is_some());
        let before = fs::metadata(&file.path).expect("there").ino();
        let aside = file.path.with_extension("new");
        fs::write(&aside, vec![1; PAGE as usize]).expect("written");
        fs::rename(&aside, &file.path).expect("renamed");
        let found = loaded_from(file.at).map(|found| found.metadata().expect("open").ino());
        assert!(found.is_none_or(|inode| inode == before), "found by a right to open mappings, or not at all");
    }
}
