//! A Debian package: a list of files and a control file, packed by dpkg-deb.

use crate::process;
use anyhow::{Context, Result, bail};
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The version of every crate, and of the module.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A package to be.
pub struct Package {
    pub name: &'static str,
    pub architecture: &'static str,
    /// Relations to other packages.
    pub fields: Vec<(&'static str, String)>,
    pub summary: &'static str,
    pub text: &'static str,
    pub entries: Vec<Entry>,
    /// Files that keep the administrator's changes.
    pub conffiles: Vec<&'static str>,
    pub scripts: Vec<(&'static str, String)>,
}

/// A file of it.
pub struct Entry {
    /// Without a slash at its beginning.
    pub path: String,
    pub content: Content,
    pub mode: u32,
}

/// Where its bytes come from.
pub enum Content {
    Bytes(Vec<u8>),
    /// Copied, without the names that only a debugger reads.
    Program(PathBuf),
}

impl Entry {
    /// A file that is only read.
    pub fn file(path: &str, content: Vec<u8>) -> Self {
        Self { path: path.to_owned(), content: Content::Bytes(content), mode: 0o644 }
    }
}

impl Package {
    /// Makes the .deb in a folder.
    ///
    /// # Errors
    /// When a file cannot be had, or dpkg-deb does not like the package.
    pub fn pack(&self, out: &Path) -> Result<PathBuf> {
        fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
        let tree = out.join(format!("{}.tree", self.name));
        let _ = fs::remove_dir_all(&tree);
        let mut bytes = 0;
        for entry in &self.entries {
            let path = tree.join(&entry.path);
            make_folders(&tree, path.parent().expect("below the tree"))?;
            match &entry.content {
                Content::Bytes(content) => write(&path, content, entry.mode)?,
                Content::Program(file) => {
                    let mut strip = process::program("strip", &["--strip-unneeded", "-o"]);
                    process::succeed(strip.arg(&path).arg(file))?;
                    fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode))?;
                }
            }
            bytes += fs::metadata(&path)?.len();
        }
        let control = tree.join("DEBIAN");
        make_folders(&tree, &control)?;
        write(&control.join("control"), self.control(bytes).as_bytes(), 0o644)?;
        if !self.conffiles.is_empty() {
            write(&control.join("conffiles"), (self.conffiles.join("\n") + "\n").as_bytes(), 0o644)?;
        }
        for (name, script) in &self.scripts {
            write(&control.join(name), script.as_bytes(), 0o755)?;
        }
        let package = out.join(format!("{}_{}_{}.deb", self.name, VERSION, self.architecture));
        let mut build = process::program("dpkg-deb", &["--root-owner-group", "--build"]);
        let output = build.arg(&tree).arg(&package).output().context("cannot run dpkg-deb")?;
        if !output.status.success() {
            bail!("{}: {}", process::typed(&build), String::from_utf8_lossy(&output.stderr).trim());
        }
        fs::remove_dir_all(&tree)?;
        Ok(package)
    }

    fn control(&self, bytes: u64) -> String {
        let mut text = format!(
            "Package: {}\nVersion: {}\nArchitecture: {}\nMaintainer: The GreenBoost authors\nSection: utils\nPriority: \
             optional\nHomepage: https://github.com/greenboost/greenboost\nInstalled-Size: {}\n",
            self.name,
            VERSION,
            self.architecture,
            bytes.div_ceil(1024)
        );
        for (name, value) in &self.fields {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name}: {value}");
        }
        let _ = writeln!(text, "Description: {}\n {}", self.summary, self.text);
        text
    }
}

/// Whatever the umask of who packs is.
fn make_folders(tree: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for folder in folder.ancestors().take_while(|above| above.starts_with(tree)) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// The newest version of glibc's functions that a program asks for.
///
/// # Errors
/// Where objdump (binutils) does not run, or finds none.
pub fn glibc_of(file: &Path) -> Result<(u32, u32)> {
    let mut objdump = process::program("objdump", &["-T"]);
    let output = objdump.arg(file).output().context("cannot run objdump (package binutils)")?;
    newest_glibc(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("{} asks for no version of glibc", file.display()))
}

fn newest_glibc(symbols: &str) -> Option<(u32, u32)> {
    let versions = symbols.split("GLIBC_").skip(1).filter_map(|rest| {
        let number = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut parts = number.split('.').map_while(|part| part.parse().ok());
        Some((parts.next()?, parts.next()?))
    });
    versions.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_glibc_is_found_by_number_not_by_text() {
        let symbols =
            "DF *UND* (GLIBC_2.2.5) malloc\nDF *UND* (GLIBC_2.34) pthread_create\n(GLIBC_2.4) x (GLIBC_PRIVATE)";
        assert_eq!(newest_glibc(symbols), Some((2, 34)));
        assert_eq!(newest_glibc("nothing"), None);
    }
}
