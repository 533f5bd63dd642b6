//! What the guest has besides its init: the hook, programs to put it in front of, and what they are linked against.
//!
//! They are built for this machine, so this machine's loader and libraries go along, at the paths where programs look
//! for them. `integration-tests/kernel/src/hook.rs` names the files. It is kept small: what lies in the initramfs is memory
//! of the guest that its kernel can move, and tests of memory in pieces would find room where they want none. What is
//! larger, and needed late, lies on the disk.

use super::cpio::Archive;
use crate::artefacts::Artefacts;
use crate::process::{self, quietly};
use crate::workspace;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What is built, and where it lies in the guest.
const BUILT: &[(&str, &str)] = &[
    ("libgreenboost_hook.so", "gb/libgreenboost_hook.so"),
    ("gb-launch", "gb/gb-launch"),
    ("greenboost", "gb/greenboost"),
    ("toy-llm", "gb/toy-llm"),
    ("libcuda.so", "gb/driver/libcuda.so.1"),
    ("libnvidia_ml.so", "gb/driver/libnvidia-ml.so.1"),
];

/// Builds all of it and puts it into the archive, and into a folder what goes on the disk: this program, for its demo.
///
/// # Errors
/// When something cannot be built, or does not say what it is linked against.
pub fn pack(archive: &mut Archive, disk: &Path) -> Result<()> {
    let built = Artefacts::release(&["greenboost-hook", "greenboost-launcher", "simgpu", "simnvml", "toy-llm"])?;
    let fixtures = workspace::target().join("gpu-fixtures");
    integration_tests::fixtures::build_all(&fixtures)?;
    let folder = workspace::target().join("kernel/userland");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut files = vec![(fixtures.join("steps"), "gb/steps")];
    for (name, place) in BUILT {
        files.push((built.file(name)?, *place));
    }
    let mut libraries = BTreeSet::new();
    for (from, place) in &files {
        libraries.extend(needed(from)?);
        // Without debug information, which would be most of what the guest has to unpack.
        let stripped = folder.join(from.file_name().context("a file")?);
        quietly(process::program("strip", &["--strip-debug", "-o"]).arg(&stripped).arg(from))?;
        archive.file(place, &fs::read(stripped)?);
    }
    let this = std::env::current_exe().context("this program's own file")?;
    libraries.extend(needed(&this)?);
    fs::create_dir_all(disk).with_context(|| format!("cannot make {}", disk.display()))?;
    quietly(process::program("strip", &["--strip-debug", "-o"]).arg(disk.join("xtask")).arg(this))?;
    // What follows the udev rule; with its libraries, that nothing else here needs.
    if let Some(udevadm) = ["/usr/bin/udevadm", "/bin/udevadm"].map(Path::new).into_iter().find(|path| path.is_file()) {
        let tools = disk.join("udev");
        fs::create_dir_all(&tools).with_context(|| format!("cannot make {}", tools.display()))?;
        let own = needed(udevadm)?.into_iter().filter(|library| !libraries.contains(library));
        for file in own.chain([udevadm.to_owned()]) {
            fs::copy(&file, tools.join(file.file_name().context("a file")?))
                .with_context(|| format!("cannot copy {}", file.display()))?;
        }
    }
    for library in libraries {
        let place = library.to_string_lossy().trim_start_matches('/').to_owned();
        archive.file(&place, &fs::read(&library).with_context(|| format!("cannot read {}", library.display()))?);
    }
    Ok(())
}

/// The loader and the libraries that a program of this machine is started with.
fn needed(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let said = quietly(process::program("ldd", &[]).arg(program))?;
    ensure!(!said.contains("not found"), "{} needs what is not there:\n{said}", program.display());
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f...)`, `/lib64/ld-linux-x86-64.so.2 (0x7f...)`
    let paths = said.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}
