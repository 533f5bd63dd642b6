//! See `properties/gguf.rs`.
#![no_main]

#[path = "../properties/gguf.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
