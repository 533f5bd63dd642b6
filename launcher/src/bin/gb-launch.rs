//! gb-launch.
fn main() {}
