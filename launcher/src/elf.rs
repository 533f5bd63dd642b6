//! The few bytes of an ELF file that decide whether LD_PRELOAD can work on it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const PT_INTERP: u32 = 3;
const LONGEST_PATH: usize = 4096;
const ET_DYN: u16 = 3;

/// What kind of file something that should be started is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// An ELF file.
    Elf(Elf),
    /// A text file whose first line begins with `#!`.
    Script,
    /// Anything else.
    Other,
}

/// An ELF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// `e_machine`.
    pub machine: u16,
    /// 64-bit and little-endian, as every machine with an NVIDIA driver of today is.
    pub little_64: bool,
    /// The dynamic loader it names, the one part of a program that reads LD_PRELOAD.
    pub loader: Option<PathBuf>,
    /// Position-independent: a shared library or a modern executable.
    pub shared: bool,
}

impl Elf {
    /// `e_machine` of the programs this build can be preloaded into.
    pub const OUR_MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

    /// Whether the hook, built as this program is, can be loaded into it.
    pub fn is_ours(&self) -> bool {
        self.little_64 && self.machine == Self::OUR_MACHINE
    }

    /// The architecture, for messages.
    pub fn architecture(&self) -> String {
        match (self.machine, self.little_64) {
            (3, _) => "32-bit x86".to_owned(),
            (40, _) => "32-bit ARM".to_owned(),
            (62, true) => "x86-64".to_owned(),
            (62, false) => "x32".to_owned(),
            (183, _) => "aarch64".to_owned(),
            (243, _) => "RISC-V".to_owned(),
            (machine, _) => format!("ELF machine {machine}"),
        }
    }
}

/// Looks at a file's header.
///
/// # Errors
/// When the file cannot be opened or read.
pub fn kind_of(path: &Path) -> io::Result<Kind> {
    let file = File::open(path)?;
    let mut head = [0u8; 64];
    let read = read_some(&file, &mut head)?;
    if head[..read].starts_with(b"#!") {
        return Ok(Kind::Script);
    }
    if read < 20 || !head.starts_with(b"\x7fELF") {
        return Ok(Kind::Other);
    }
    let half = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let little_64 = head[4] == 2 && head[5] == 1;
    // The machine is a big-endian number in a big-endian file.
    let machine = if head[5] == 2 { half(&head, 18).swap_bytes() } else { half(&head, 18) };
    let mut elf = Elf { machine, little_64, loader: None, shared: half(&head, 16) == ET_DYN };
    if little_64 && read == head.len() {
        let headers = u64::from_le_bytes(head[32..40].try_into().unwrap_or_default());
        let (size, count) = (half(&head, 54), half(&head, 56));
        let mut entries = (0..u64::from(count)).map(|index| headers.saturating_add(index * u64::from(size)));
        elf.loader = entries.find_map(|at| loader(&file, at));
    }
    Ok(Kind::Elf(elf))
}

/// The loader that the program header at this place names, if it is of that kind.
fn loader(file: &File, at: u64) -> Option<PathBuf> {
    let mut entry = [0u8; 40];
    file.read_exact_at(&mut entry, at).ok()?;
    if u32::from_le_bytes(entry[..4].try_into().ok()?) != PT_INTERP {
        return None;
    }
    let number = |at: usize| Some(u64::from_le_bytes(entry[at..at + 8].try_into().ok()?));
    let (offset, length) = (number(8)?, number(32)?);
    // A name that cannot be read is a loader all the same.
    let mut name = vec![0u8; usize::try_from(length).ok().filter(|length| *length <= LONGEST_PATH).unwrap_or(0)];
    if file.read_exact_at(&mut name, offset).is_err() {
        name.clear();
    }
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    name.truncate(end);
    Some(PathBuf::from(OsString::from_vec(name)))
}

fn read_some(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_a_dynamic_program_of_our_architecture() {
        let Ok(Kind::Elf(elf)) = kind_of(Path::new("/proc/self/exe")) else { panic!("not ELF") };
        assert!(elf.is_ours(), "{elf:?}");
        let loader = elf.loader.expect("a loader");
        assert!(
            loader.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld")),
            "{}",
            loader.display()
        );
    }

    #[test]
    fn files_that_are_not_programs_are_told_apart() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        for (content, expected) in [(&b""[..], Kind::Other), (b"#!/bin/sh\n", Kind::Script), (b"\x7fELF", Kind::Other)]
        {
            std::fs::write(&path, content).expect("write");
            assert_eq!(kind_of(&path).expect("read"), expected);
        }
    }

    #[test]
    fn a_cut_or_lying_header_is_no_panic() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        let mut header = [0xffu8; 64];
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        for length in 0..=64 {
            std::fs::write(&path, &header[..length]).expect("write");
            kind_of(&path).expect("read");
        }
    }
}
