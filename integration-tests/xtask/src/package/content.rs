//! What is in the packages.

use super::deb::{Content, Entry, Package, VERSION, glibc_of};
use crate::artefacts::Artefacts;
use crate::workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// The programs, and the library where gb-launch finds it: in ../lib/greenboost.
///
/// # Errors
/// When a program or a text cannot be read.
pub fn programs(built: &Artefacts) -> Result<Package> {
    let mut entries = Vec::new();
    let mut glibc = Vec::new();
    for (name, to, mode) in [
        ("gb-launch", "usr/bin", 0o755),
        ("greenboost", "usr/bin", 0o755),
        ("libgreenboost_hook.so", "usr/lib/greenboost", 0o644),
    ] {
        let file = built.file(name)?;
        glibc.push(glibc_of(&file)?);
        entries.push(Entry { path: format!("{to}/{name}"), content: Content::Program(file), mode });
    }
    let glibc = glibc.into_iter().max().context("no program asks for a libc")?;
    entries.extend(documentation("greenboost", "MIT OR Apache-2.0", &["LICENSE-MIT", "LICENSE-APACHE"])?);
    Ok(Package {
        name: "greenboost",
        architecture: "amd64",
        fields: vec![
            ("Depends", format!("libc6 (>= {}.{}), libgcc-s1", glibc.0, glibc.1)),
            ("Recommends", "greenboost-dkms".to_owned()),
        ],
        summary: "runs models larger than the GPU's memory, with unmodified programs",
        text: "gb-launch wraps llama.cpp, Ollama or another CUDA program and adds system RAM below its VRAM. greenboost \
               shows what runs, what the machine can do, and sets the kernel module's pool.",
        entries,
        conffiles: vec![],
        scripts: vec![],
    })
}

/// The module's source, for DKMS; the udev rule; the options, which the administrator may edit.
///
/// # Errors
/// When a file cannot be read.
pub fn module() -> Result<Package> {
    let kmod = workspace::root().join("kmod");
    let mut entries = Vec::new();
    sources(&kmod, &kmod, &mut entries)?;
    for (from, to) in [
        ("60-greenboost.rules", "usr/lib/udev/rules.d/60-greenboost.rules"),
        ("modprobe.conf", "etc/modprobe.d/greenboost.conf"),
    ] {
        entries.push(Entry::file(to, fs::read(kmod.join("install").join(from)).context(from)?));
    }
    entries.extend(documentation("greenboost-dkms", "GPL-2.0-only", &[])?);
    let script = |name: &str| -> Result<String> {
        let text = fs::read_to_string(kmod.join("install/debian").join(name)).with_context(|| name.to_owned())?;
        Ok(text.replace("@VERSION@", VERSION))
    };
    Ok(Package {
        name: "greenboost-dkms",
        architecture: "all",
        fields: vec![("Depends", "dkms (>= 2.8)".to_owned()), ("Enhances", "greenboost".to_owned())],
        summary: "GreenBoost's kernel module, built by DKMS",
        text: "A pool of 2 MiB pages that are ready before they are needed, with budgets and a watchdog. It is optional: \
               without it GreenBoost takes RAM from the driver.",
        entries,
        conffiles: vec!["/etc/modprobe.d/greenboost.conf"],
        scripts: vec![("postinst", script("postinst")?), ("prerm", script("prerm")?)],
    })
}

/// What the module is built from: neither what a build has left there, nor the Rust crate, nor what goes elsewhere.
fn sources(root: &Path, folder: &Path, entries: &mut Vec<Entry>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "uapi" && name != "install" && !file.starts_with('.') {
                sources(root, &path, entries)?;
            }
        } else if matches!(&*file, "Kbuild" | "Makefile" | "dkms.conf")
            || (file.ends_with(".c") || file.ends_with(".h")) && !file.ends_with(".mod.c") && !file.starts_with('.')
        {
            let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            entries.push(Entry::file(&format!("usr/src/greenboost-{VERSION}/{name}"), content));
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(())
}

fn documentation(package: &str, license: &str, texts: &[&str]) -> Result<Vec<Entry>> {
    let mut copyright = format!("GreenBoost, https://github.com/greenboost/greenboost\nLicense: {license}\n");
    if texts.is_empty() {
        copyright += "On Debian systems the text is in /usr/share/common-licenses/GPL-2.\n";
    }
    for text in texts {
        let text = fs::read_to_string(workspace::root().join(text)).with_context(|| (*text).to_owned())?;
        copyright += &format!("\n{text}");
    }
    Ok(vec![Entry::file(&format!("usr/share/doc/{package}/copyright"), copyright.into_bytes())])
}
