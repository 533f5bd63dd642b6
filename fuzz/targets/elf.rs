//! See `properties/elf.rs`.
#![no_main]

#[path = "../properties/elf.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
