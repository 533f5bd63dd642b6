//! greenboost.
fn main() {}
