//! What the fuzzer of `fuzz/properties/profile.rs` has kept, run as an ordinary test.

#[path = "../../fuzz/properties/kept.rs"]
mod kept;
#[path = "../../fuzz/properties/profile.rs"]
mod property;

#[test]
fn what_the_fuzzer_has_kept_still_holds() {
    kept::holds("profile", property::check);
}
