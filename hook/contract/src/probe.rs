//! The kernel that shows whether a GPU can use a piece of memory: `gb_probe(u64 src, u64 dst, u32 n)`, on 32-bit
//! words. The hook decides by it, `greenboost doctor` explains by it.

use std::ffi::CStr;

/// The kernel as PTX for any GPU since Volta, to be loaded with `cuModuleLoadData`.
pub const PTX: &CStr = match CStr::from_bytes_with_nul(concat!(include_str!("probe.ptx"), "\0").as_bytes()) {
    Ok(text) => text,
    Err(_) => panic!("probe.ptx holds no NUL"),
};

/// Its entry.
pub const ENTRY: &CStr = c"gb_probe";

/// What the kernel writes to `dst` for a word that it reads at `src`.
pub const fn copied(word: u32) -> u32 {
    word ^ 0x5bd1_e995
}

/// What the kernel leaves at `src` for a word that it found there.
pub const fn left(word: u32) -> u32 {
    word.wrapping_add(1)
}
