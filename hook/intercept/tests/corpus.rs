//! What the fuzzer of `fuzz/properties/elf.rs` has kept, run as an ordinary test.

#[path = "../../../fuzz/properties/kept.rs"]
mod kept;
#[path = "../../../fuzz/properties/elf.rs"]
mod property;

#[test]
fn what_the_fuzzer_has_kept_still_holds() {
    kept::holds("elf", property::check);
}
