//! Translation of addresses in this very process. The hooks are not installed in it, so what they would tell is told here.

use super::testing::{MappedFile, PAGE, byte};
use super::*;

fn content(source: &Source, by: u64) -> u8 {
    // SAFETY: inside a mapping that the file holds.
    unsafe { ((source.address() + by) as *const u8).read() }
}

/// Whether the kernel can be asked at every use; without that and without hooks nothing is translated.
fn asks() -> bool {
    area::quick(PAGE).is_some()
}

#[test]
fn the_library_itself_is_a_file_that_is_always_there() {
    let mut first = [0; 4];
    std::os::unix::fs::FileExt::read_exact_at(&own_library().expect("it"), &mut first, 0).expect("its start");
    assert_eq!(&first, b"\x7fELF");
}

#[test]
fn a_source_is_the_same_bytes_elsewhere() {
    let files = Files::new();
    let mapped = MappedFile::new("a source", 9 * PAGE, libc::MAP_SHARED, libc::PROT_READ);
    let found = files.source(mapped.at + PAGE + 5, 2 * PAGE);
    assert_eq!(found.is_some(), asks());
    let Some(found) = found else { return };
    assert_ne!(found.address(), mapped.at + PAGE + 5);
    assert!((0..2 * PAGE).all(|by| content(&found, by) == byte(PAGE + 5 + by)));
    assert_eq!(files.source(mapped.at + PAGE, 8 * PAGE).expect("to the end").bytes(), 8 * PAGE);
    assert!(files.source(mapped.at + PAGE, 8 * PAGE + 1).is_none(), "behind the file");
    assert!(files.source(mapped.at, u64::MAX).is_none());
}

#[test]
fn memory_and_writable_mappings_are_no_sources() {
    let files = Files::new();
    let writable = MappedFile::new("writable", PAGE, libc::MAP_SHARED, libc::PROT_READ | libc::PROT_WRITE);
    let heap = vec![1u8; 8192];
    assert!(files.source(writable.at, 16).is_none());
    assert!(files.source(heap.as_ptr() as u64, 16).is_none());
    assert!(files.source(16, 16).is_none());
    // Another mapping of the process may be private; without hooks nobody would see it being written.
    let private = MappedFile::new("private", PAGE, libc::MAP_PRIVATE, libc::PROT_READ);
    assert!(files.source(private.at, 16).is_none());
}

#[test]
fn an_address_that_is_used_anew_is_never_taken_for_the_file() {
    let files = Files::new();
    let mapped = MappedFile::new("reused", 8 * PAGE, libc::MAP_SHARED, libc::PROT_READ);
    if files.source(mapped.at, 8 * PAGE).is_none() {
        return assert!(!asks());
    }
    // Past the hooks: the kernel's word is enough.
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: over a part of our own mapping.
    let over =
        unsafe { libc::mmap((mapped.at + 2 * PAGE) as *mut _, PAGE as usize, libc::PROT_READ, anonymous, -1, 0) };
    assert_ne!(over, libc::MAP_FAILED);
    assert!(files.source(mapped.at + 2 * PAGE, PAGE).is_none());
    assert!(files.source(mapped.at, 8 * PAGE).is_none(), "a part of it is not the file's");
    assert!(files.source(mapped.at, 2 * PAGE).is_some() && files.source(mapped.at + 3 * PAGE, PAGE).is_some());
}

/// Rights that are given and taken back by system calls leave the mapping as it was; what was written in between is seen.
#[test]
fn private_pages_that_were_written_unseen_are_not_the_files() {
    let files = Files::new();
    files.follow();
    let mapped = MappedFile::new("private", 8 * PAGE, libc::MAP_PRIVATE, libc::PROT_READ);
    assert!(files.source(mapped.at, 8 * PAGE).is_some());
    mapped.protect(libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: the mapping's own byte.
    unsafe { ((mapped.at + 3 * PAGE + 7) as *mut u8).write_volatile(1) };
    mapped.protect(libc::PROT_READ);
    // Before anything else has been asked, and after.
    for _ in 0..2 {
        assert!(files.source(mapped.at + 3 * PAGE, 8).is_none());
        assert!(files.source(mapped.at, 8 * PAGE).is_none());
        assert!(files.source(mapped.at, 3 * PAGE).is_some() && files.source(mapped.at + 4 * PAGE, 4 * PAGE).is_some());
    }
}

#[test]
fn a_changed_file_is_not_read_and_a_new_mapping_of_it_is_what_it_is_now() {
    let files = Files::new();
    let mapped = MappedFile::new("changing", 4 * PAGE, libc::MAP_SHARED, libc::PROT_READ);
    let Some(before) = files.source(mapped.at, PAGE) else { return assert!(!asks()) };
    let file = std::fs::File::options().write(true).open(&mapped.path).expect("ours");
    file.set_len(PAGE).expect("ours");
    assert!(!before.is_unchanged());
    assert!(files.source(mapped.at, PAGE).is_none(), "it has just been written");
    file.set_modified(std::time::SystemTime::now() - Duration::from_secs(60)).expect("ours");
    files.refused.lock().expect("nobody failed").clear();
    let now = files.source(mapped.at, PAGE).expect("it has settled");
    assert!(now.is_unchanged() && !before.is_unchanged());
    assert!(files.source(mapped.at, 2 * PAGE).is_none(), "behind its end");
}

#[test]
fn a_change_between_question_and_note_leaves_nothing_known() {
    let files = Files::new();
    const AT: u64 = 1 << 50;
    let range = Range { start: AT, end: AT + PAGE, file: 0, offset: 0, is_private: false };
    let find = || files.known(|ranges| ranges.find(AT, 1)).flatten();
    files.note(range, files.changes.load(SeqCst));
    assert_eq!(find(), Some(Range { end: AT + 1, ..range }));
    files.changing(AT + 100, 1);
    assert_eq!(find(), None, "its page has changed");
    let seen = files.changes.load(SeqCst);
    files.changing(0, 0);
    files.note(range, seen);
    assert_eq!(find(), None);
    // A change that nobody could note: the lock was held by the very thread that it interrupted.
    files.note(range, files.changes.load(SeqCst));
    files.known(|_| files.changing(AT, PAGE));
    assert_eq!(find(), None);
}

#[test]
fn an_address_is_congruent_with_an_offset_of_the_same_place_in_a_page() {
    let page = page();
    assert!(is_congruent(7 * page + 32, 32) && is_congruent(0, 5 * page) && !is_congruent(page + 32, 64));
}
