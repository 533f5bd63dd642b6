//! A kernel with every checker on: KASAN, lockdep, kmemleak, UBSAN, the DMA API's own, and fault injection. Built once
//! from the distribution's source, upon tinyconfig, in some minutes.

use super::needs::{Kernel, Provided, apt, install};
use crate::process::{self, quietly};
use crate::workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The distribution's package of the kernel's source.
pub const SOURCE: &str = "linux-source-6.1";
const FRAGMENT: &str = "integration-tests/kernel/debug.config";
const TOOLS: &[(&str, &str)] = &[
    ("flex", "/usr/bin/flex"),
    ("bison", "/usr/bin/bison"),
    ("bc", "/usr/bin/bc"),
    ("libelf-dev", "/usr/include/libelf.h"),
    ("xz-utils", "/usr/bin/xz"),
];

/// Builds the kernel, unless it is there with this configuration.
///
/// # Errors
/// When the source cannot be had or does not build.
pub fn provide() -> Result<Provided> {
    let missing: Vec<_> = TOOLS.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(name, _)| *name).collect();
    if let Some(why) = install(&missing)? {
        return Ok(Provided::Missing(why));
    }
    let source = source();
    let image = source.join("arch/x86/boot/bzImage");
    let fragment = fs::read_to_string(workspace::root().join(FRAGMENT)).context(FRAGMENT)?;
    if !image.is_file() || fs::read_to_string(source.join(".fragment")).unwrap_or_default() != fragment {
        if !source.join("Makefile").is_file() {
            unpack(&[])?;
        }
        configure(&source, &fragment)?;
        eprintln!("building a debug kernel: some minutes");
        let jobs = std::thread::available_parallelism().map_or(2, usize::from);
        quietly(make(&source).args([&format!("-j{jobs}"), "bzImage", "modules"]))?;
        fs::write(source.join(".fragment"), fragment)?;
    }
    Ok(Provided::Kernel(Kernel { image, headers: source }))
}

fn make(source: &Path) -> Command {
    let mut make = process::program("make", &["-s", "-C"]);
    make.arg(source);
    make
}

/// Where the source is unpacked.
pub fn source() -> PathBuf {
    workspace::target().join("kernel/debug").join(SOURCE)
}

/// Downloads the source and unpacks these files of it, or all.
///
/// # Errors
/// When it cannot be had.
pub fn unpack(files: &[&str]) -> Result<()> {
    let folder = &workspace::target().join("kernel/debug");
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    eprintln!("downloading: {SOURCE}");
    quietly(apt(&["download", "-q", SOURCE]).current_dir(folder))?;
    let package =
        fs::read_dir(folder)?.flatten().map(|entry| entry.path()).find(|path| path.extension() == Some("deb".as_ref()));
    let Some(package) = package else { bail!("apt-get downloaded nothing") };
    // The package holds one file, an archive: no need for either to lie about in full.
    let inner = format!("./usr/src/{SOURCE}.tar.xz");
    let script = "dpkg-deb --fsys-tarfile \"$1\" | tar -xO \"$2\" | (cd \"$3\" && shift 3 && tar -xJ \"$@\")";
    let mut pipe = process::program("sh", &["-c", script, "sh"]);
    pipe.arg(&package).arg(inner).arg(folder).args(files.iter().map(|file| format!("{SOURCE}/{file}")));
    quietly(pipe.stdin(Stdio::null()))?;
    fs::remove_file(package)?;
    Ok(())
}

/// Whatever the fragment asks for and does not get would silently not be checked.
fn configure(source: &Path, fragment: &str) -> Result<()> {
    quietly(make(source).arg("tinyconfig"))?;
    let config = source.join(".config");
    let text = fs::read_to_string(&config)? + fragment;
    fs::write(&config, text)?;
    quietly(make(source).arg("olddefconfig"))?;
    let got = fs::read_to_string(&config)?;
    let lost: Vec<_> =
        fragment.lines().filter(|line| line.ends_with("=y") && !got.lines().any(|have| have == *line)).collect();
    if !lost.is_empty() {
        bail!("the debug kernel does not get {}", lost.join(", "));
    }
    Ok(())
}
