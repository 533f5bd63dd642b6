//! Where the module is found.

use clap::Args;
use greenboost_kmod::Device;
use std::path::PathBuf;

/// Where the module's files are.
#[derive(Debug, Clone, Args)]
pub struct Paths {
    /// The module's folder in sysfs.
    #[arg(long, global = true, hide = true, value_name = "DIR", default_value = "/sys/class/misc/greenboost")]
    pub sysfs: PathBuf,
    /// The module's device.
    #[arg(long, global = true, hide = true, value_name = "FILE", default_value = Device::PATH)]
    pub device: PathBuf,
}
