//! See `properties/profile.rs`.
#![no_main]

#[path = "../properties/profile.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
