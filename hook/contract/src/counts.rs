//! How often each expert of a model was asked for, kept from one session to the next.
//!
//! One small file for each model, in the cache folder. Counts say what to copy first and what a plan expects, never what is
//! right, so a file that is wrong in any way counts for nothing, and one that cannot be written is not written: no caller fails over
//! it. The file says how it is laid out, which model it is of, and its checksum; it is replaced whole or not at all. A folder
//! that others can write is neither believed nor written to.
//!
//! All numbers are little-endian: `GBCOUNTS`, u32 version, u32 length of the key and the key, u32 number of layers; for each
//! layer u32 number of its block, u32 number of experts, and as many u32 counts; u32 CRC-32 of all before it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"GBCOUNTS";
/// Raised when the layout changes.
const VERSION: u32 = 1;

/// The most of everything that is believed or written: several times what the largest model has.
const MOST_BYTES: usize = 4 << 20;
const MOST_KEY: usize = 4 << 10;
/// Models whose counts are kept; the ones used longest ago go.
const MOST_FILES: usize = 64;
const EXTENSION: &str = "counts";

/// Counts of each expert, for each layer by the number of its block.
pub type Counts = BTreeMap<u32, Vec<u32>>;

/// What is kept of a model, which `key` tells from all others; empty where nothing is, or nothing that can be believed.
#[must_use]
pub fn load(folder: &Path, key: &str) -> Counts {
    read(folder, key).unwrap_or_default()
}

/// Keeps a model's counts in place of those before. Whether they are kept.
pub fn keep(folder: &Path, key: &str, counts: &Counts) -> bool {
    write(folder, key, counts).is_ok()
}

/// What tells a model from others wherever its file is: its size, and checksums of its begin, where names and shapes are, and of its
/// end, where weights are.
///
/// # Errors
/// The system's, or that the model is not a regular file.
pub fn key(model: &Path) -> io::Result<String> {
    const PART: u64 = 64 << 10;
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(model)?;
    let facts = file.metadata()?;
    if !facts.is_file() {
        return Err(wrong("not a regular file"));
    }
    let mut part = vec![0; PART.min(facts.len()) as usize];
    let mut sum_at = |at| file.read_exact_at(&mut part, at).map(|()| crc32fast::hash(&part));
    let (begin, end) = (sum_at(0)?, sum_at(facts.len().saturating_sub(PART))?);
    Ok(format!("{}-{begin:08x}-{end:08x}", facts.len()))
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Where the counts of a model are. Two keys of one name take turns: the key is in the file as well.
fn path(folder: &Path, key: &str) -> PathBuf {
    folder.join(format!("experts-{:08x}.{EXTENSION}", crc32fast::hash(key.as_bytes())))
}

/// Nobody else's to write.
fn check(folder: &Path) -> io::Result<()> {
    let facts = fs::metadata(folder)?;
    // SAFETY: always succeeds, and takes nothing.
    let user = unsafe { libc::geteuid() };
    if !facts.is_dir() || facts.uid() != user || facts.mode() & 0o022 != 0 {
        return Err(wrong("others can write to the folder"));
    }
    Ok(())
}

fn read(folder: &Path, key: &str) -> io::Result<Counts> {
    check(folder)?;
    // Neither followed nor waited for: a link or a pipe is not our file.
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path(folder, key))?;
    if !file.metadata()?.is_file() {
        return Err(wrong("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    decode(&bytes, key).ok_or_else(|| wrong("not the counts of this model"))
}

fn write(folder: &Path, key: &str, counts: &Counts) -> io::Result<()> {
    let bytes = encode(key, counts).ok_or_else(|| wrong("more than is kept of a model"))?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    check(folder)?;
    let path = path(folder, key);
    if fs::symlink_metadata(&path).is_ok_and(|facts| !facts.is_file()) {
        return Err(wrong("something that is not a file is in the way"));
    }
    let aside = path.with_extension(format!("{}.part", std::process::id()));
    // Of a process that had this number and ended in the middle.
    let _ = fs::remove_file(&aside);
    let written = create(&aside, &bytes).and_then(|()| fs::rename(&aside, &path));
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written?;
    // Those that stay are not worth more than what was kept.
    let _ = forget_oldest(folder);
    Ok(())
}

fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

/// Leaves as many files as are kept.
fn forget_oldest(folder: &Path) -> io::Result<()> {
    let mut ours = Vec::new();
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        let is_ours = path.extension().is_some_and(|extension| extension == EXTENSION);
        if is_ours && let Ok(facts) = entry.metadata().and_then(|facts| Ok((facts.is_file(), facts.modified()?))) {
            ours.extend(facts.0.then_some((facts.1, path)));
        }
    }
    ours.sort();
    let gone = ours.len().saturating_sub(MOST_FILES);
    ours.iter().take(gone).try_for_each(|(_, path)| fs::remove_file(path))
}

/// None where it is too much.
fn encode(key: &str, counts: &Counts) -> Option<Vec<u8>> {
    let count = |of: usize| u32::try_from(of).ok().map(u32::to_le_bytes);
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(count(key.len())?);
    bytes.extend(key.as_bytes());
    bytes.extend(count(counts.len())?);
    for (layer, experts) in counts {
        bytes.extend(layer.to_le_bytes());
        bytes.extend(count(experts.len())?);
        bytes.extend(experts.iter().flat_map(|uses| uses.to_le_bytes()));
    }
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    (key.len() <= MOST_KEY && bytes.len() <= MOST_BYTES).then_some(bytes)
}

/// None where it is anything but what `encode` makes for this key.
fn decode(bytes: &[u8], key: &str) -> Option<Counts> {
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    if bytes.len() > MOST_BYTES || u32::from_le_bytes(*sum) != crc32fast::hash(body) {
        return None;
    }
    let mut rest = Rest(body.strip_prefix(MAGIC)?);
    if rest.number()? != VERSION || rest.number()? as usize != key.len() {
        return None;
    }
    rest.0 = rest.0.strip_prefix(key.as_bytes())?;
    let mut counts = Counts::new();
    for _ in 0..rest.number()? {
        let (layer, experts) = (rest.number()?, rest.number()?);
        // Nothing is made room for that the file does not hold.
        let uses = rest.0.split_at_checked((experts as usize).checked_mul(4)?);
        let (uses, after) = uses?;
        rest.0 = after;
        let uses = uses.as_chunks::<4>().0.iter().map(|uses| u32::from_le_bytes(*uses)).collect();
        if counts.insert(layer, uses).is_some() {
            return None;
        }
    }
    rest.0.is_empty().then_some(counts)
}

/// What of a file has not been read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn counts() -> Counts {
        [(0, vec![1, 2, u32::MAX]), (7, vec![]), (47, (0..128).collect())].into()
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("our own");
        folder
    }

    #[test]
    fn a_models_key_follows_its_content_and_not_its_name() {
        let folder = folder();
        let at = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, content).expect("written");
            key(&path).expect("a key")
        };
        let mut content = vec![7; 200 << 10];
        assert_eq!(at("a", &content), at("b", &content));
        content[0] = 8;
        let (begin, small) = (at("a", &content), at("c", b"x"));
        content[(200 << 10) - 1] = 9;
        assert!(begin != at("a", &content) && begin != at("b", &vec![7; 200 << 10]) && small != begin);
        assert!(key(folder.path()).is_err() && key(Path::new("/nowhere")).is_err());
    }

    /// With a checksum that is right.
    fn sealed(body: &[u8]) -> Vec<u8> {
        [body, &crc32fast::hash(body).to_le_bytes()].concat()
    }

    #[test]
    fn counts_come_back_for_their_model_and_no_other() {
        let folder = folder();
        let at = folder.path().join("a/b");
        assert_eq!(load(&at, "model"), Counts::new());
        assert!(keep(&at, "model", &counts()));
        assert_eq!(load(&at, "model"), counts());
        assert_eq!(load(&at, "other"), Counts::new());
        // Of one name, by whatever accident.
        fs::rename(path(&at, "model"), path(&at, "other")).expect("renamed");
        assert_eq!(load(&at, "other"), Counts::new());

        let less: Counts = [(0, vec![5])].into();
        assert!(keep(&at, "model", &counts()) && keep(&at, "model", &less));
        assert_eq!(load(&at, "model"), less);
        let names: Vec<_> = fs::read_dir(&at).expect("there").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names.len(), 2, "nothing is left over: {names:?}");
    }

    #[test]
    fn a_key_is_not_a_path() {
        let folder = folder();
        for key in ["../../etc/x", "/", "", "a\0b", "\u{1b}[2J"] {
            assert!(keep(folder.path(), key, &counts()) && load(folder.path(), key) == counts(), "{key:?}");
        }
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 5);
    }

    #[test]
    fn a_file_cut_anywhere_or_with_any_byte_changed_counts_nothing() {
        let small: Counts = [(3, vec![9, 8]), (4, vec![7])].into();
        let bytes = encode("m", &small).expect("small");
        assert_eq!(decode(&bytes, "m"), Some(small.clone()));
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length], "m"), None, "cut to {length}");
            // As a program would that knows the checksum.
            if length < bytes.len() - 4 {
                assert_eq!(decode(&sealed(&bytes[..length]), "m"), None, "cut to {length} and sealed");
            }
            let mut changed = bytes.clone();
            changed[length] ^= 0x10;
            assert_eq!(decode(&changed, "m"), None, "byte {length}");
        }
        assert_eq!(decode(&[&bytes[..], &[0]].concat(), "m"), None);
    }

    #[test]
    fn lengths_that_promise_more_than_the_file_has_take_no_memory() {
        let start = [MAGIC, &VERSION.to_le_bytes()[..], &1u32.to_le_bytes(), b"m"].concat();
        let with = |numbers: &[u32]| {
            let numbers: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            decode(&sealed(&[&start[..], &numbers].concat()), "m")
        };
        assert_eq!(with(&[0]), Some(Counts::new()));
        assert_eq!(with(&[1, 0, 1, 5]), Some([(0, vec![5])].into()));
        for hostile in
            [&[u32::MAX][..], &[1, 0, u32::MAX], &[1, 0, 1 << 30, 5], &[2, 0, 1, 5, 0, 1, 6], &[1, 0, 1, 5, 6], &[0, 0]]
        {
            assert_eq!(with(hostile), None, "{hostile:?}");
        }
        let newer = [MAGIC, &(VERSION + 1).to_le_bytes()[..], &1u32.to_le_bytes(), b"m", &[0; 4]].concat();
        assert_eq!(decode(&sealed(&newer), "m"), None, "a layout of later");
    }

    #[test]
    fn what_is_not_our_file_is_neither_read_nor_replaced() {
        let folder = folder();
        let at = path(folder.path(), "m");
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, encode("m", &counts()).expect("small")).expect("written");
        symlink(&elsewhere, &at).expect("a link");
        assert_eq!((load(folder.path(), "m"), keep(folder.path(), "m", &counts())), (Counts::new(), false));
        fs::remove_file(&at).expect("removed");

        let name = std::ffi::CString::new(at.as_os_str().as_encoded_bytes()).expect("a path");
        // SAFETY: a string of C's.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        assert_eq!((load(folder.path(), "m"), keep(folder.path(), "m", &counts())), (Counts::new(), false));
        fs::remove_file(&at).expect("removed");

        fs::create_dir(&at).expect("a folder");
        assert_eq!((load(folder.path(), "m"), keep(folder.path(), "m", &counts())), (Counts::new(), false));
        fs::remove_dir(&at).expect("removed");

        let large = File::create(&at).expect("made");
        large.set_len(1 << 40).expect("a hole");
        assert_eq!(load(folder.path(), "m"), Counts::new());
        assert!(keep(folder.path(), "m", &counts()) && load(folder.path(), "m") == counts(), "a file is replaced");
    }

    #[test]
    fn a_folder_that_others_can_write_is_not_believed() {
        let folder = folder();
        assert!(keep(folder.path(), "m", &counts()));
        for mode in [0o770, 0o702, 0o777] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).expect("our own");
            let (found, kept) = (load(folder.path(), "m"), keep(folder.path(), "m", &counts()));
            assert_eq!((found, kept), (Counts::new(), false), "{mode:o}");
        }
        let file = folder.path().join("file");
        fs::write(&file, "").expect("written");
        assert!(!keep(&file, "m", &counts()) && load(&file, "m").is_empty());
        assert!(!keep(&file.join("under"), "m", &counts()));
    }

    #[test]
    fn no_more_is_kept_than_a_few_megabytes_of_a_few_models() {
        let folder = folder();
        let many: Counts = (0..2).map(|layer| (layer, vec![1; 1 << 20])).collect();
        assert!(!keep(folder.path(), "m", &many) && !keep(folder.path(), &"k".repeat(MOST_KEY + 1), &counts()));
        fs::write(folder.path().join("machine.json"), "{}").expect("written");
        for model in 0..MOST_FILES + 3 {
            assert!(keep(folder.path(), &format!("model {model}"), &counts()));
            let at = path(folder.path(), &format!("model {model}"));
            let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000 + model as u64);
            File::options().write(true).open(at).and_then(|file| file.set_modified(then)).expect("our own");
        }
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), MOST_FILES + 1);
        assert!(load(folder.path(), "model 2").is_empty() && folder.path().join("machine.json").exists());
        assert_eq!(load(folder.path(), "model 3"), counts());
    }
}
