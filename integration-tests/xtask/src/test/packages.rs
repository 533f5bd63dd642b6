//! The system packages the other stages need: installed where that is possible, else named.

use super::outcome::Outcome;
use crate::process;
use anyhow::{Context, Result, bail};
use integration_tests::artefacts::python_with_numpy;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

struct Need {
    package: &'static str,
    why: &'static str,
    present: fn() -> bool,
}

const NEEDS: &[Need] = &[
    Need { package: "gcc", why: "the C fixture programs", present: || process::exists("cc") },
    Need {
        package: "libc6-dev",
        why: "the C library's headers",
        present: || Path::new("/usr/include/stdio.h").exists(),
    },
    Need { package: "binutils", why: "the static fixture library", present: || process::exists("ar") },
    Need { package: "python3", why: "the ctypes fixture and the GPU scripts", present: || process::exists("python3") },
    Need { package: "python3-numpy", why: "the generator of models", present: || python_with_numpy().is_some() },
    Need { package: "npm", why: "llama.cpp's own libraries, to test with", present: || process::exists("npm") },
    Need { package: "libclang-dev", why: "the type-check of the frida engine", present: has_libclang },
];

/// Makes sure of the packages.
///
/// # Errors
/// When installing fails. Where this user or this system cannot install, the stage answers with the command to
/// type, and the stages that can do without go on.
pub fn run() -> Result<Outcome> {
    let missing: Vec<_> = NEEDS.iter().filter(|need| !(need.present)()).collect();
    if missing.is_empty() {
        eprintln!("nothing is missing");
        return Ok(Outcome::Passed);
    }
    for need in &missing {
        eprintln!("missing: {} (for {})", need.package, need.why);
    }
    let names: Vec<_> = missing.iter().map(|need| need.package).collect();
    let command = format!("apt-get install -y --no-install-recommends {}", names.join(" "));
    if !has_apt() {
        return Ok(Outcome::NotRun(format!(
            "this is neither Debian nor Ubuntu; install what they call {} with your system's package manager",
            names.join(", ")
        )));
    }
    if !is_root() {
        return Ok(Outcome::NotRun(format!("not root; please run: sudo {command}")));
    }
    process::succeed(process::program("apt-get", &["update", "-q"]).env("DEBIAN_FRONTEND", "noninteractive"))
        .context("refreshing the package lists")?;
    let mut install = process::program("apt-get", &["install", "-y", "-q", "--no-install-recommends"]);
    process::succeed(install.args(&names).env("DEBIAN_FRONTEND", "noninteractive")).context("installing packages")?;
    match missing.iter().find(|need| !(need.present)()) {
        Some(need) => bail!("{} was installed but what is needed of it is still not found", need.package),
        None => Ok(Outcome::Passed),
    }
}

fn has_apt() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    process::exists("apt-get") && is_debian(&release)
}

fn is_debian(release: &str) -> bool {
    let words = release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split_whitespace());
    words.into_iter().any(|id| id == "debian" || id == "ubuntu")
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Whether the library that reads C headers is where its users look for it.
pub fn has_libclang() -> bool {
    if std::env::var_os("LIBCLANG_PATH").is_some() {
        return true;
    }
    let mut folders = vec!["/usr/lib".into(), "/usr/lib64".into(), "/usr/local/lib".into()];
    for parent in ["/usr/lib", "/usr/lib/llvm"] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("llvm") || name.ends_with("-linux-gnu") {
                folders.extend([entry.path(), entry.path().join("lib")]);
            }
        }
    }
    folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten()).any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with("libclang") && !name.starts_with("libclang-cpp") && name.contains(".so")
    })
}

/// Whether there is a devkit of frida-gum: its header and its library, in the folders that compiler and linker search.
pub fn has_frida_devkit(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    [("CPATH", "frida-gum.h"), ("LIBRARY_PATH", "libfrida-gum.a")].iter().all(|(name, file)| {
        let folders = variable(name).unwrap_or_default();
        std::env::split_paths(&folders).any(|folder| folder.join(file).is_file())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_what_descends_from_it_is_recognised() {
        assert!(is_debian("NAME=\"Debian GNU/Linux\"\nID=debian\n"));
        assert!(is_debian("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!is_debian("ID=fedora\nVARIANT_ID=debian\n"));
    }
}

#[cfg(test)]
mod devkit {
    use super::*;

    #[test]
    fn a_devkit_is_its_header_and_its_library() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = std::env::join_paths(["/nonexistent".as_ref(), folder.path()]).expect("no colon");
        let found = |name: &str| has_frida_devkit(|asked| (name.is_empty() || asked == name).then(|| paths.clone()));
        fs::write(folder.path().join("frida-gum.h"), "").expect("a file");
        let header_alone = found("");
        fs::write(folder.path().join("libfrida-gum.a"), "").expect("a file");
        let (both, one_path) = (found(""), found("CPATH"));
        assert_eq!((header_alone, both, one_path), (false, true, false));
    }
}
