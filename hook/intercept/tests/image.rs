//! Objects made by hand, and damaged: what the reader of loaded objects makes of them.

use greenboost_intercept::inject::entries;
use greenboost_intercept::inject::image::Image;
use std::time::{Duration, Instant};

const LOAD: u64 = 1;
const DYNAMIC: u64 = 2;
const READ_WRITE: u64 = 6 << 32;
const HEADER: usize = 8;
const SEGMENT: usize = 7;
// Words from which on things lie: program headers, dynamic section, strings, symbols, hash table, relocation, its entry.
const PHDR: usize = HEADER;
const DYN: usize = 24;
const STR: usize = 48;
const SYM: usize = 51;
const HASH: usize = 60;
const RELA: usize = 61;
const GOT: usize = 64;
const END: usize = 65;

/// An object that calls `callee` through its PLT and defines `here` at 0x40; its sysv hash table has `count` symbols.
fn object(count: u32) -> Vec<u64> {
    let mut words = vec![0u64; END];
    words[0] = u64::from_le_bytes(*b"\x7fELF\x02\x01\x01\0");
    // e_phoff, then e_phentsize and e_phnum behind e_ehsize.
    words[4] = 8 * PHDR as u64;
    words[6] = (8 * SEGMENT as u64) << 48;
    words[6] |= 64 << 32;
    words[7] = 2;
    let segments = [(LOAD, 0, END), (DYNAMIC, DYN, STR - DYN)];
    for (at, (kind, first, length)) in segments.into_iter().enumerate() {
        let place = &mut words[PHDR + at * SEGMENT..][..SEGMENT];
        (place[0], place[2], place[5]) = (kind | READ_WRITE, 8 * first as u64, 8 * length as u64);
    }
    let at = |word: usize| 8 * word as u64;
    // DT_STRTAB, DT_STRSZ, DT_SYMTAB, DT_HASH, DT_JMPREL, DT_PLTRELSZ
    let tags = [(5, at(STR)), (10, 24), (6, at(SYM)), (4, at(HASH)), (23, at(RELA)), (2, 24)];
    for (entry, (tag, value)) in tags.into_iter().enumerate() {
        words[DYN + 2 * entry..][..2].copy_from_slice(&[tag, value]);
    }
    let text = *b"\0callee\0here\0\0\0\0\0\0\0\0\0\0\0\0";
    for (word, bytes) in text.chunks(8).enumerate() {
        words[STR + word] = u64::from_le_bytes(bytes.try_into().expect("eight"));
    }
    // Symbols 1 (undefined) and 2 (a function in section 1).
    words[SYM + 3] = 1 | 2 << 32;
    words[SYM + 6] = 8 | 2 << 32 | 1 << 48;
    words[SYM + 7] = 0x40;
    words[HASH] = 1 | u64::from(count) << 32;
    // R_X86_64_JUMP_SLOT or R_AARCH64_JUMP_SLOT of symbol 1.
    let kind = if cfg!(target_arch = "x86_64") { 7 } else { 1026 };
    words[RELA..][..2].copy_from_slice(&[at(GOT), 1 << 32 | kind]);
    words
}

#[test]
fn functions_and_the_entries_that_call_them_are_found() {
    let copy = object(3);
    let base = copy.as_ptr() as usize;
    let image = Image::of_copy(&copy).expect("an object");
    assert_eq!(image.find(b"here"), Some(base + 0x40));
    assert_eq!((image.find(b"callee"), image.find(b"absent")), (None, None));
    let found: Vec<_> = entries::of(&image).map(|entry| (entry.address - base, entry.jump, entry.name)).collect();
    assert_eq!(found, [(8 * GOT, true, &b"callee"[..])]);
}

/// Found by the fuzzer: four billion symbols were looked for because the table said so.
#[test]
fn a_hash_table_that_says_too_much_is_not_believed() {
    let copy = object(u32::MAX);
    let image = Image::of_copy(&copy).expect("an object");
    let start = Instant::now();
    assert_eq!(image.find(b"absent"), None);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(image.find(b"here").is_some());
}

#[test]
fn segments_that_are_not_in_the_copy_are_refused() {
    assert!(Image::of_copy(&[]).is_none());
    let mut longer = object(3);
    longer[PHDR + 5] += 1;
    assert!(Image::of_copy(&longer).is_none());
    let mut far = object(3);
    far[PHDR + 2] = u64::MAX - 7;
    assert!(Image::of_copy(&far).is_none());
    let mut other = object(3);
    other[0] ^= 1;
    assert!(Image::of_copy(&other).is_none());
}

#[test]
fn an_entry_that_is_not_in_the_object_or_not_a_word_is_none() {
    for wrong in [8 * END as u64, 8 * GOT as u64 + 4, u64::MAX - 7, 8 * END as u64 - 4] {
        let mut copy = object(3);
        copy[RELA] = wrong;
        let image = Image::of_copy(&copy).expect("an object");
        assert_eq!(entries::of(&image).count(), 0, "{wrong:#x}");
    }
}
