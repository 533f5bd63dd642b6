//! The list of what `install` has done: what `remove` undoes.
//!
//! It is written before each step, so that whatever ends an installation halfway, what was done is on the list. What is
//! on the list and was not done yet is nothing to undo.

use super::{Problem, System};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Where it lies.
pub const PATH: &str = "/var/lib/greenboost/module.json";

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The module's version.
    pub version: String,
    /// All steps were done.
    pub complete: bool,
    /// DKMS was told of the module.
    pub dkms: bool,
    /// Folders that were not there before, outermost first.
    pub folders: Vec<String>,
    /// Files that were not there before.
    pub files: Vec<File>,
}

/// A file as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its path on the machine.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// [`hash`] of its content.
    pub hash: u64,
}

impl File {
    /// A file with this content.
    pub fn new(path: &str, content: &[u8]) -> Self {
        Self { path: path.to_owned(), bytes: content.len() as u64, hash: hash(content) }
    }

    /// Whether the machine's file is as it was written; `None` where there is none.
    pub fn is_unchanged(&self, system: &System) -> Option<bool> {
        let content = fs::read(system.at(&self.path)).ok()?;
        Some(content.len() as u64 == self.bytes && hash(&content) == self.hash)
    }
}

impl Manifest {
    /// The list of a machine, if it has one.
    ///
    /// # Errors
    /// [`Problem::Manifest`] where it cannot be read.
    pub fn load(system: &System) -> Result<Option<Self>, Problem> {
        let path = system.at(PATH);
        let problem = |reason: String| Problem::Manifest { path: path.clone(), reason };
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| problem(error.to_string())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(problem(error.to_string())),
        }
    }

    /// Writes the list. A crash leaves the old or the new one, never a part.
    ///
    /// # Errors
    /// [`Problem::File`].
    pub fn save(&self, system: &System) -> Result<(), Problem> {
        let path = system.at(PATH);
        let fresh = path.with_extension("new");
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Problem::Manifest { path: path.clone(), reason: error.to_string() })?;
        fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &path)).map_err(Problem::file(path))
    }
}

/// The folders that have to be made before a file can lie there, outermost first.
pub fn missing_folders(system: &System, path: &str) -> Vec<String> {
    let above = Path::new(path).ancestors().skip(1).map(PathBuf::from);
    let mut missing: Vec<_> =
        above.take_while(|folder| !system.at(folder).exists()).map(|folder| folder.display().to_string()).collect();
    missing.reverse();
    missing
}

/// FNV-1a: tells an edited file from one as it was written. Nobody is kept out by it.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
