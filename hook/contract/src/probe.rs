//! The kernels that show whether a GPU can use a piece of memory: `gb_probe(u64 src, u64 dst, u32 n)`, on 32-bit words,
//! and the same for memory that it can only read. The hook decides by them, `greenboost doctor` explains by the first.

use std::ffi::CStr;

/// The kernels as PTX for any GPU since Volta, to be loaded with `cuModuleLoadData`.
pub const PTX: &CStr = match CStr::from_bytes_with_nul(concat!(include_str!("probe.ptx"), "\0").as_bytes()) {
    Ok(text) => text,
    Err(_) => panic!("probe.ptx holds no NUL"),
};

/// The entry that reads `src` and writes to both.
pub const ENTRY: &CStr = c"gb_probe";

/// The entry that reads `src` and writes to `dst` alone.
pub const READ_ENTRY: &CStr = c"gb_probe_read";

/// What the kernels write to `dst` for a word that it reads at `src`.
pub const fn copied(word: u32) -> u32 {
    word ^ 0x5bd1_e995
}

/// What the first leaves at `src` for a word that it found there.
pub const fn left(word: u32) -> u32 {
    word.wrapping_add(1)
}
