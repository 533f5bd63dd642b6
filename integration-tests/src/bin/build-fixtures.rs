//! `build-fixtures DIRECTORY`: compiles the C fixtures for use outside the tests, for example on a machine with a GPU.

use anyhow::{Context, Result};
use std::path::Path;

fn main() -> Result<()> {
    let directory = std::env::args_os().nth(1).context("usage: build-fixtures DIRECTORY")?;
    integration_tests::fixtures::build_all(Path::new(&directory))
}
