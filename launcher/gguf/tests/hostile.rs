//! Whatever the bytes are: no panic, no large allocation.

use greenboost_gguf::read;
use greenboost_gguf::write::Writer;
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Cursor;

/// The system's allocator, which remembers what each thread has at most held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that ends has no counters any more, and needs none.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

// SAFETY: everything is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: handed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: handed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MOST_BYTES: isize = 4 << 20;

/// Reads, also with a length that is not the file's, and says how much memory that took.
fn memory(file: &[u8], len: u64) -> isize {
    let before = HELD.get();
    MOST.set(before);
    let _ = read(Cursor::new(file), len).map_err(|error| error.to_string());
    MOST.get() - before
}

fn model() -> Vec<u8> {
    let mut writer = Writer::default()
        .text("general.architecture", "qwen3moe")
        .number("general.alignment", 32)
        .numbers("heads", &[8; 16])
        .texts("tokens", 50);
    for layer in 0..8 {
        writer = writer.tensor(&format!("blk.{layer}.attn_q.weight"), &[256, 4], "Q4_K");
    }
    writer.header().0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(mut file in proptest::collection::vec(any::<u8>(), 0..2000), magic: bool, len: u64) {
        if magic && file.len() > 24 {
            file[..8].copy_from_slice(b"GGUF\x03\0\0\0");
            file[10..16].fill(0);
            file[18..24].fill(0);
        }
        prop_assert!(memory(&file, file.len() as u64) < MOST_BYTES);
        prop_assert!(memory(&file, len) < MOST_BYTES);
    }

    #[test]
    fn mutations(
        bytes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        words in proptest::collection::vec((any::<prop::sample::Index>(), prop::sample::select(
            vec![0u64, 1, 31, 1 << 20, 1 << 31, 1 << 32, 1 << 40, 1 << 63, u64::MAX - 7, u64::MAX])), 0..3),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        hole in prop::sample::select(vec![0u64, 1 << 16, 1 << 40, u64::MAX / 2]),
    ) {
        let mut file = model();
        for (at, byte) in bytes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        for (at, word) in words {
            let at = at.index(file.len() - 8);
            file[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        prop_assert!(memory(&file, file.len() as u64 + hole) < MOST_BYTES);
    }
}

#[test]
fn the_counter_counts() {
    let (header, data) = Writer::default().text("k", &"x".repeat(60_000)).header();
    let took = memory(&header, header.len() as u64 + data);
    assert!((60_000..MOST_BYTES).contains(&took), "{took}");
}
