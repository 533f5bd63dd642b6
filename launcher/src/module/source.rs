//! The module's source: where it lies, and which of its files DKMS needs.

use super::{Problem, System};
use std::fs;
use std::path::{Path, PathBuf};

/// The source, read.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its folder.
    pub folder: PathBuf,
    /// What dkms.conf calls its version.
    pub version: String,
    /// Paths within the folder, and contents.
    pub files: Vec<(String, Vec<u8>)>,
    /// The udev rule that is shipped with it.
    pub udev_rule: Vec<u8>,
    /// The modprobe options that are shipped with it: explained, none set.
    pub modprobe: String,
}

impl Source {
    /// Finds and reads it.
    ///
    /// # Errors
    /// [`Problem::NoSource`], [`Problem::NotSource`].
    pub fn find(system: &System, given: Option<&Path>) -> Result<Self, Problem> {
        if let Some(folder) = given {
            return Self::read(folder);
        }
        let places = places(system);
        match places.iter().find(|folder| folder.join("dkms.conf").is_file()) {
            Some(folder) => Self::read(folder),
            None => {
                Err(Problem::NoSource { looked: places.iter().map(|folder| folder.display().to_string()).collect() })
            }
        }
    }

    fn read(folder: &Path) -> Result<Self, Problem> {
        let not = |reason: String| Problem::NotSource { path: folder.to_owned(), reason };
        let read = |name: &str| fs::read(folder.join(name)).map_err(|error| not(format!("{name}: {error}")));
        let config = String::from_utf8_lossy(&read("dkms.conf")?).into_owned();
        let value = |key: &str| config.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        if value("PACKAGE_NAME").map(unquoted) != Some("greenboost") {
            return Err(not("its dkms.conf is another module's".to_owned()));
        }
        let version = value("PACKAGE_VERSION").map(unquoted).unwrap_or_default().to_owned();
        // It becomes part of paths.
        if version.is_empty() || !version.chars().all(|c| c.is_ascii_alphanumeric() || ".-+~".contains(c)) {
            return Err(not(format!("its dkms.conf gives no usable PACKAGE_VERSION ('{version}')")));
        }
        read("Kbuild")?;
        let mut files = Vec::new();
        collect(folder, Path::new(""), &mut files).map_err(|error| not(error.to_string()))?;
        files.sort();
        let modprobe = String::from_utf8_lossy(&read("install/modprobe.conf")?).into_owned();
        Ok(Self {
            folder: folder.to_owned(),
            version,
            files,
            udev_rule: read("install/60-greenboost.rules")?,
            modprobe,
        })
    }
}

/// Beside the program as it is installed or unpacked, in the system, and where the program was built.
fn places(system: &System) -> Vec<PathBuf> {
    let own = system.own_program.parent().unwrap_or(Path::new("/"));
    vec![
        own.join("share/greenboost/kmod"),
        own.join("../share/greenboost/kmod"),
        system.at("/usr/share/greenboost/kmod"),
        own.join("../../kmod"),
    ]
}

fn unquoted(value: &str) -> &str {
    value.trim().trim_matches('"')
}

/// What the module is built from; not what a build has left there, and not the Rust crate beside it.
fn collect(folder: &Path, within: &Path, files: &mut Vec<(String, Vec<u8>)>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder.join(within))? {
        let name = within.join(entry?.file_name());
        let path = folder.join(&name);
        if path.is_dir() {
            if name != Path::new("uapi") && name != Path::new("install") && !is_hidden(&name) {
                collect(folder, &name, files)?;
            }
        } else if belongs(&name) {
            files.push((name.to_string_lossy().into_owned(), fs::read(path)?));
        }
    }
    Ok(())
}

fn is_hidden(name: &Path) -> bool {
    name.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

fn belongs(name: &Path) -> bool {
    let file = name.file_name().unwrap_or_default().to_string_lossy();
    let is_code = file.ends_with(".c") || file.ends_with(".h");
    !is_hidden(name) && (matches!(&*file, "Kbuild" | "Makefile" | "dkms.conf") || is_code && !file.ends_with(".mod.c"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_of_this_tree_has_this_version_and_all_its_files() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kmod");
        let source = Source::read(&folder).expect("the source");
        assert_eq!(source.version, env!("CARGO_PKG_VERSION"), "kmod/dkms.conf");
        let has = |name: &str| source.files.iter().any(|(path, _)| path == name);
        let kbuild = fs::read_to_string(folder.join("Kbuild")).expect("Kbuild");
        let objects: Vec<_> = kbuild.split_whitespace().filter_map(|word| word.strip_suffix(".o")).collect();
        assert!(objects.len() > 5);
        for object in objects.iter().filter(|name| **name != "greenboost" && **name != "CFLAGS_main") {
            assert!(has(&format!("{object}.c")), "{object}.c");
        }
        for name in ["Kbuild", "Makefile", "dkms.conf", "greenboost.h", "include/uapi/greenboost.h"] {
            assert!(has(name), "{name}");
        }
        assert!(source.files.iter().all(|(path, _)| !path.ends_with(".rs") && !path.ends_with(".mod.c")));
    }
}
