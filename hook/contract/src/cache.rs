//! The folder in which this user's programs keep what they can find out again.

use std::path::{Path, PathBuf};

/// `greenboost` in the user's cache folder; none where neither `XDG_CACHE_HOME` nor `HOME` says where that is. It may not exist yet.
pub fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let folder = folder.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    folder.map(|folder| folder.join("greenboost"))
}
