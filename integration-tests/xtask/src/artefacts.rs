//! The programs and libraries of the workspace as built, and the simulated GPU made ready for use.

use crate::{process, workspace};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Packages whose programs or shared libraries other parts use as files.
pub const PACKAGES: &[&str] = &["greenboost-hook", "greenboost-launcher", "simgpu", "simnvml", "toy-llm", "fixtures"];

/// A build of the workspace.
pub struct Artefacts {
    dir: PathBuf,
    /// The folder of the simulated driver, where somebody has prepared it.
    driver: Option<PathBuf>,
}

impl Artefacts {
    /// What somebody else has built and laid out, with the simulated driver in the folder `driver`.
    pub fn prepared(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), driver: Some(dir.join("driver")) }
    }

    /// Builds what the demo and the benchmarks need, optimised.
    ///
    /// # Errors
    /// When the build fails; cargo has said why.
    pub fn release(packages: &[&str]) -> Result<Self> {
        Self::build(&["build", "--release"], packages, "release")
    }

    /// Builds what tests need, as the tests' own stages do.
    ///
    /// # Errors
    /// As [`Artefacts::release`].
    pub fn debug(packages: &[&str]) -> Result<Self> {
        Self::build(&["build"], packages, "debug")
    }

    fn build(words: &[&str], packages: &[&str], folder: &str) -> Result<Self> {
        let mut command = process::cargo(words);
        command.args(packages.iter().flat_map(|package| ["-p", package]));
        if packages.contains(&"greenboost-hook") {
            command.args(integration_tests::artefacts::engine());
        }
        eprintln!("building: {}", process::typed(&command));
        process::succeed(&mut command)?;
        Ok(Self { dir: workspace::target().join(folder), driver: None })
    }

    /// A file of the build.
    ///
    /// # Errors
    /// When the build did not make it.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        if !path.is_file() {
            bail!("the build made no {}", workspace::shown(&path));
        }
        Ok(path)
    }

    /// A folder with the simulated driver under the names programs look for, for LD_LIBRARY_PATH.
    ///
    /// # Errors
    /// When a library is missing or cannot be copied.
    pub fn simulated_driver(&self) -> Result<PathBuf> {
        if let Some(folder) = &self.driver {
            return Ok(folder.clone());
        }
        let folder = self.dir.join("simgpu-driver");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for (built, name) in [("libcuda.so", "libcuda.so.1"), ("libnvidia_ml.so", "libnvidia-ml.so.1")] {
            replace(&self.file(built)?, &folder.join(name))?;
        }
        Ok(folder)
    }
}

/// Copies a file over another in one step, so that a program that has the old one mapped is not disturbed.
///
/// # Errors
/// Of the copy or the rename.
pub fn replace(from: &Path, to: &Path) -> Result<()> {
    let fresh = to.with_extension(format!("new-{}", std::process::id()));
    fs::copy(from, &fresh)
        .and_then(|_| fs::rename(&fresh, to))
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}
