//! What the virtual machine needs of this one: QEMU, the distribution's kernel and its headers, a compiler.

use crate::process::{self, quietly};
use crate::workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kernel to boot, and the headers to build modules for it.
pub struct Kernel {
    /// The bootable image.
    pub image: PathBuf,
    /// The headers to build with.
    pub headers: PathBuf,
}

/// Whether all is there.
pub enum Provided {
    /// It is.
    Kernel(Kernel),
    /// This is not, and why.
    Missing(String),
}

/// Debian's kernel for virtual machines: small, with NVMe, ext4 and the serial console built in.
const HEADERS: &str = "linux-headers-cloud-amd64";

const PROGRAMS: &[(&str, &str)] = &[
    ("qemu-system-x86", "qemu-system-x86_64"),
    ("gcc", "gcc"),
    ("make", "make"),
    ("e2fsprogs", "mkfs.ext4"),
    ("sparse", "sparse"),
    ("udev", "udevadm"),
];

/// Installs what is missing, where that is possible. The kernel is the distribution's own, unless a release is asked for
/// whose headers are installed.
///
/// # Errors
/// When installing fails, or the release is not there.
pub fn provide(release: Option<&str>) -> Result<Provided> {
    let mut missing: Vec<_> =
        PROGRAMS.iter().filter(|(_, program)| !exists(program)).map(|(package, _)| *package).collect();
    if headers().is_none() {
        missing.push(HEADERS);
    }
    if let Some(why) = install(&missing)? {
        return Ok(Provided::Missing(why));
    }
    install_newer();
    let asked = release.map(|release| all_headers().into_iter().find(|path| release_of(path) == release));
    if asked == Some(None) {
        let there: Vec<_> = all_headers().iter().map(|path| release_of(path)).collect();
        bail!("there are no headers of {}, but of {}", release.unwrap_or_default(), there.join(", "));
    }
    let Some(headers) = asked.flatten().or_else(headers) else {
        return Ok(Provided::Missing(format!("{HEADERS} brings no headers for a kernel that QEMU boots")));
    };
    let release = release_of(&headers);
    match image(&release)? {
        Some(image) => Ok(Provided::Kernel(Kernel { image, headers })),
        None => Ok(Provided::Missing(format!(
            "there is no kernel image; please run: apt-get install linux-image-{release}"
        ))),
    }
}

fn release_of(headers: &Path) -> String {
    headers.file_name().expect("a folder").to_string_lossy().replacen("linux-headers-", "", 1)
}

/// Installs packages, or says why that cannot be.
///
/// # Errors
/// When installing fails.
pub fn install(missing: &[&str]) -> Result<Option<String>> {
    if missing.is_empty() {
        return Ok(None);
    }
    if let Some(why) = cannot(missing, process::exists("apt-get"), is_root()) {
        return Ok(Some(why));
    }
    eprintln!("installing: {}", missing.join(" "));
    quietly(&mut apt(&["update", "-q"])).context("refreshing the package lists")?;
    let mut install = vec!["install", "-y", "-q", "--no-install-recommends"];
    install.extend(missing);
    quietly(&mut apt(&install)).context("installing packages")?;
    Ok(None)
}

/// Why packages cannot be installed here, and which they are.
pub fn cannot(missing: &[&str], has_apt: bool, root: bool) -> Option<String> {
    if !has_apt {
        Some(format!("not a Debian system; needed: {}", missing.join(", ")))
    } else if !root {
        let names = missing.join(" ");
        Some(format!("not root; please run: sudo apt-get install -y --no-install-recommends {names}"))
    } else {
        None
    }
}

/// Headers of a newer kernel as well, where the release offers some: what it changes is met here before a user meets it.
fn install_newer() {
    if all_headers().len() > 1 || !is_root() || !process::exists("apt-cache") {
        return;
    }
    let search = ["search", "--names-only", r"^linux-headers-[0-9]+\.[0-9]+-cloud-amd64$"];
    let found = quietly(&mut process::program("apt-cache", &search)).unwrap_or_default();
    let names: Vec<_> = found.lines().filter_map(|line| line.split_whitespace().next()).collect();
    if let Err(error) = install(&names) {
        println!("no headers of a newer kernel: {error:#}");
    }
}

/// All kernel headers on this machine that modules can be built with.
pub fn all_headers() -> Vec<PathBuf> {
    let entries = fs::read_dir("/usr/src").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<_> = entries.filter(|path| path.join("Module.symvers").is_file()).collect();
    found.sort();
    found
}

/// Those of the release's own kernel, in the newest version. Backported kernels need a newer QEMU than the release has.
fn headers() -> Option<PathBuf> {
    let stock = quietly(Command::new("dpkg-query").args(["-W", "-f", "${Depends}", HEADERS])).ok()?;
    let name = stock.split([',', ' ']).find(|word| word.starts_with("linux-headers-"))?.to_owned();
    let path = Path::new("/usr/src").join(name);
    path.join("Module.symvers").is_file().then_some(path)
}

/// The kernel of exactly these headers: installed, or else unpacked from its package into the build folder, since
/// installing a kernel on the build machine would make it boot that.
fn image(release: &str) -> Result<Option<PathBuf>> {
    let name = format!("boot/vmlinuz-{release}");
    let folder = workspace::target().join("kernel").join(format!("image-{release}"));
    for root in [Path::new("/"), &folder] {
        if root.join(&name).is_file() {
            return Ok(Some(root.join(name)));
        }
    }
    if !process::exists("apt-get") {
        return Ok(None);
    }
    let download = folder.join("download");
    fs::create_dir_all(&download).with_context(|| format!("cannot make {}", download.display()))?;
    let package = format!("linux-image-{release}");
    eprintln!("downloading: {package}");
    let mut get = apt(&["download", "-q", &package]);
    if quietly(get.current_dir(&download)).is_err() {
        return Ok(None);
    }
    for file in fs::read_dir(&download)?.flatten() {
        quietly(Command::new("dpkg-deb").arg("-x").arg(file.path()).arg(&folder))?;
    }
    fs::remove_dir_all(&download)?;
    Ok(folder.join(&name).is_file().then(|| folder.join(name)))
}

/// Asks no questions.
pub fn apt(arguments: &[&str]) -> Command {
    let mut command = process::program("apt-get", arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn exists(program: &str) -> bool {
    process::exists(program)
        || Path::new("/usr/sbin").join(program).is_file()
        || Path::new("/sbin").join(program).is_file()
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
