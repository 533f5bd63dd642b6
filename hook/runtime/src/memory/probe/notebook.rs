//! Where answers of probes are kept from one process to the next: small files in a folder of the user's own.
//!
//! ```text
//!   $XDG_RUNTIME_DIR/greenboost/            else $XDG_CACHE_HOME/greenboost/, ~/.cache/greenboost/
//!       probe-GPU-6e1c...-host-numa         one for each GPU and backing: a new answer takes the old one's place
//! ```
//!
//! Kernels will run on memory that nobody has tried because of what is written here. So nothing is believed that another
//! user could have written: the folder and the file belong to the effective user, and nobody else may write to them. The
//! folder is held open while it is looked at and used, so that it cannot become another one in between. And nothing here
//! is worth an error: without a folder, a file, or room for one, there is no answer.

use greenboost_contract::settings::PROBE_CACHE;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// Longer than any answer: paths are what takes room in it.
const MOST_BYTES: u64 = 64 << 10;
/// After so long nobody is writing a file any more: whoever did has died.
const ABANDONED: Duration = Duration::from_secs(60);

/// A folder that must be there, and what may be made below it.
type Place = (PathBuf, &'static str);
static PLACES: OnceLock<Vec<Place>> = OnceLock::new();

/// Reads where the folder can be, once, before the program has threads that change the environment.
pub fn settle(get: impl Fn(&str) -> Option<String>) {
    let _ = PLACES.set(places(get));
}

/// Whether anything is to be kept.
pub fn is_wanted() -> bool {
    PLACES.get().is_some_and(|places| !places.is_empty())
}

fn places(get: impl Fn(&str) -> Option<String>) -> Vec<Place> {
    // A misspelt "off" is meant as that.
    if get(PROBE_CACHE).is_some_and(|value| !matches!(&*value, "" | "on")) {
        return Vec::new();
    }
    let known = [
        ("XDG_RUNTIME_DIR", "greenboost"),
        ("XDG_CACHE_HOME", "greenboost"),
        // A service's home is often bare.
        ("HOME", ".cache/greenboost"),
    ];
    let place = |(name, below)| Some((get(name).map(PathBuf::from).filter(|path| path.is_absolute())?, below));
    known.into_iter().filter_map(place).collect()
}

/// The folder, open.
#[derive(Debug)]
pub struct Notebook(File);

impl Notebook {
    /// The first folder that there is and that can be believed; it is made where `write` says so. `None`: nothing can be
    /// kept.
    pub fn open(write: bool) -> Option<Self> {
        PLACES.get()?.iter().find_map(|(base, below)| Self::open_at(base, below, write))
    }

    fn open_at(base: &Path, below: &str, write: bool) -> Option<Self> {
        // In another user's folder (`sudo` keeps the environment) ours would be in that user's way.
        fs::metadata(base).ok().filter(|it| it.is_dir() && is_own(it))?;
        let path = base.join(below);
        if write {
            let _ = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        }
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let folder = OpenOptions::new().read(true).custom_flags(flags).open(&path).ok()?;
        let safe = folder.metadata().is_ok_and(|it| is_own(&it) && is_only_own(&it));
        if !safe {
            log::debug!("{}: others may write to it: no answers are kept there", path.display());
        }
        safe.then_some(Self(folder))
    }

    /// A name in this very folder.
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }

    /// What is written under a name, if it can be believed.
    pub fn read(&self, name: &str) -> Option<String> {
        // Whatever else it is must not hold us up.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(self.path(name)).ok()?;
        file.metadata().ok().filter(|it| it.is_file() && is_own(it) && is_only_own(it))?;
        let mut text = String::new();
        file.take(MOST_BYTES).read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// Writes it, whole or not at all: others may read it meanwhile. Of two that write at once one does.
    ///
    /// # Errors
    /// What the system says; nothing is changed then.
    pub fn write(&self, name: &str, text: &str) -> io::Result<()> {
        if text.len() as u64 > MOST_BYTES.min(longest_file()) {
            return Err(ErrorKind::FileTooLarge.into());
        }
        let part = self.path(&format!("{name}.part"));
        let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let age = fs::symlink_metadata(&part)?.modified()?.elapsed();
                if age.is_ok_and(|age| age > ABANDONED) {
                    // For the next one that has an answer.
                    fs::remove_file(&part)?;
                }
                return Err(error);
            }
            opened => opened?,
        };
        let written = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&part, self.path(name)));
        written.inspect_err(|_| {
            let _ = fs::remove_file(&part);
        })
    }

    /// One in a folder that goes with what it comes with.
    #[cfg(test)]
    pub fn for_tests() -> (tempfile::TempDir, Self) {
        let base = tempfile::tempdir().expect("a folder");
        let notebook = Self::open_at(base.path(), "it", true).expect("made");
        (base, notebook)
    }

    /// Takes away what is written under a name.
    pub fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.path(name));
    }
}

fn is_own(it: &Metadata) -> bool {
    // SAFETY: a question to the kernel that cannot fail.
    it.uid() == unsafe { libc::geteuid() }
}

fn is_only_own(it: &Metadata) -> bool {
    it.mode() & 0o022 == 0
}

/// Writing more than this is not an error but a signal, which would end the program.
fn longest_file() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes to a live local.
    if unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) } == 0 { limit.rlim_cur } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("our own");
    }

    #[test]
    fn what_is_written_is_read_again_and_nothing_else_is_left() {
        let base = tempfile::tempdir().expect("a folder");
        assert!(Notebook::open_at(base.path(), "a/b", false).is_none(), "reading makes no folder");
        let notebook = Notebook::open_at(base.path(), "a/b", true).expect("made");
        for text in ["one", "another"] {
            notebook.write("page", text).expect("written");
            assert_eq!(notebook.read("page").as_deref(), Some(text));
        }
        let names: Vec<_> = fs::read_dir(base.path().join("a/b")).expect("it").flatten().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        assert_eq!(fs::metadata(base.path().join("a/b/page")).expect("it").mode() & 0o777, 0o600);
        notebook.remove("page");
        assert_eq!(notebook.read("page"), None);
        assert!(Notebook::open_at(&base.path().join("missing"), "a", true).is_none());
        assert!(!base.path().join("missing").exists(), "the folder's folder is not ours to make");
    }

    #[test]
    fn what_others_could_have_written_is_not_believed() {
        let base = tempfile::tempdir().expect("a folder");
        let (folder, page) = (base.path().join("it"), base.path().join("it/page"));
        let read = || Notebook::open_at(base.path(), "it", false)?.read("page");
        Notebook::open_at(base.path(), "it", true).expect("made").write("page", "text").expect("written");
        for (path, modes) in [(&folder, [0o720, 0o702, 0o700]), (&page, [0o620, 0o602, 0o600])] {
            let believed = modes.map(|mode| {
                chmod(path, mode);
                read().is_some()
            });
            assert_eq!(believed, [false, false, true], "{}", path.display());
        }
        let real = base.path().join("real");
        fs::rename(&folder, &real).expect("renamed");
        symlink(&real, &folder).expect("a link");
        assert_eq!(read(), None, "a folder by a link");
        fs::remove_file(&folder).and_then(|()| fs::rename(&real, &folder)).expect("as before");
        fs::rename(&page, base.path().join("other")).expect("renamed");
        symlink(base.path().join("other"), &page).expect("a link");
        assert_eq!(read(), None, "a file by a link");
    }

    #[test]
    fn a_write_that_was_never_finished_is_in_the_way_for_a_minute() {
        let base = tempfile::tempdir().expect("a folder");
        let notebook = Notebook::open_at(base.path(), "it", true).expect("made");
        let part = base.path().join("it/page.part");
        let left = File::create(&part).expect("made");
        assert!(notebook.write("page", "text").is_err() && part.exists());
        left.set_modified(std::time::SystemTime::now() - 2 * ABANDONED).expect("our own");
        assert!(notebook.write("page", "text").is_err(), "the next one writes");
        notebook.write("page", "text").expect("written");
        assert_eq!(notebook.read("page").as_deref(), Some("text"));
    }

    #[test]
    fn the_environment_says_where_and_whether() {
        let set = |pairs: &'static [(&str, &str)]| {
            let get = move |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
            places(get).into_iter().map(|(base, below)| base.join(below).display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(set(&[]), [""; 0]);
        assert_eq!(set(&[("HOME", "relative"), ("XDG_RUNTIME_DIR", "")]), [""; 0]);
        let all = &[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r"), ("XDG_CACHE_HOME", "/c"), (PROBE_CACHE, "on")];
        assert_eq!(set(all), ["/r/greenboost", "/c/greenboost", "/h/.cache/greenboost"]);
        for off in [&[("HOME", "/h"), (PROBE_CACHE, "off")], &[("HOME", "/h"), (PROBE_CACHE, "Off")]] {
            assert_eq!(set(off), [""; 0]);
        }
    }
}
