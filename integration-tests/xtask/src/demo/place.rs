//! The GPUs the demo runs on.

use anyhow::{Context, Result, bail};
use greenboost_contract::format_size;
use std::ffi::{c_int, c_uint};
use std::path::PathBuf;
use std::process::Command;

/// Where a comparison runs.
pub struct Place {
    /// For the heading.
    pub name: String,
    /// What the unlimited run runs on.
    pub large_name: String,
    simulated: Option<Simulated>,
}

struct Simulated {
    driver: PathBuf,
    large: u64,
    small: u64,
}

impl Place {
    /// The simulated GPU, in two sizes.
    pub fn simulated(driver: PathBuf, large: u64, small: u64) -> Self {
        Self {
            name: "The simulated GPU".to_owned(),
            large_name: format!("a GPU of {}", format_size(large)),
            simulated: Some(Simulated { driver, large, small }),
        }
    }

    /// The machine's own GPU.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn real() -> Result<Self> {
        // SAFETY: loading the driver runs its constructors, as in every CUDA program.
        let driver = unsafe { libloading::Library::new("libcuda.so.1") }.context("there is no CUDA driver")?;
        // SAFETY: the driver's documented signature.
        let init = unsafe { driver.get::<unsafe extern "C" fn(c_uint) -> c_int>(b"cuInit\0") }.context("no cuInit")?;
        // SAFETY: as documented: zero is the only allowed flag.
        let status = unsafe { init(0) };
        if status != 0 {
            bail!("the CUDA driver is there, but cuInit answers {status}");
        }
        let name = "The GPU of this machine".to_owned();
        Ok(Self { name, large_name: "all of its memory".to_owned(), simulated: None })
    }

    /// A command on the GPU that is large enough.
    pub fn large(&self, command: Command) -> Command {
        match &self.simulated {
            Some(gpu) => gpu.of_size(command, gpu.large),
            None => command,
        }
    }

    /// A command on the small GPU. A real one cannot be made smaller for a program that is not hooked.
    pub fn small(&self, command: Command) -> Option<Command> {
        self.simulated.as_ref().map(|gpu| gpu.of_size(command, gpu.small))
    }
}

impl Simulated {
    fn of_size(&self, mut command: Command, vram: u64) -> Command {
        command.env("LD_LIBRARY_PATH", &self.driver).env("SIMGPU_VRAM", vram.to_string());
        command
    }
}
