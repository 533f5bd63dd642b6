//! `cargo xtask package`: Debian packages of the programs, and of the module's source for DKMS.
//!
//! Made with dpkg-deb from a staged tree: all there is to it are two lists of files (`content`) and a control file.
//! Dependencies on libc are read from what the programs really ask of it.

mod check;
mod content;
mod deb;

pub use check::stage;

use crate::artefacts::Artefacts;
use crate::workspace;
use anyhow::Result;
use clap::Args;
use content::{module, programs};
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `cargo xtask package`.
#[derive(Args)]
pub struct Options {
    /// Where the packages go [default: package in the build folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Builds the programs and packs them.
///
/// # Errors
/// When something cannot be built or packed.
pub fn run(options: &Options) -> Result<ExitCode> {
    let built = Artefacts::release(&["greenboost-hook", "greenboost-launcher"])?;
    let out = options.out.clone().unwrap_or_else(|| workspace::target().join("package"));
    for package in [programs(&built)?, module()?] {
        println!("{}", workspace::shown(&package.pack(&out)?));
    }
    Ok(ExitCode::SUCCESS)
}
