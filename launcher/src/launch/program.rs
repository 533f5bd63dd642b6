//! From the word a user typed to the file the kernel will run, and whether LD_PRELOAD can work on it.

use super::refusal::Refusal;
use crate::elf::{Elf, Kind, kind_of};
use greenboost_contract::loader::is_loader;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, Metadata};
use std::io::{self, BufRead, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where the kernel itself stops following `#!`.
const MAX_INTERPRETERS: usize = 5;
/// What `execvp` searches when PATH is not set.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A command that was found.
#[derive(Debug, Clone)]
pub struct Program {
    /// The file that was found.
    pub path: PathBuf,
    /// Every file that runs in the course of starting it: itself, and for a script its interpreters.
    pub runs: Vec<PathBuf>,
}

impl Program {
    /// Finds `command` as a shell does, and follows `#!` lines.
    ///
    /// # Errors
    /// When it does not exist, may not be executed, or is not a program at all.
    pub fn find(command: &OsStr, search: Option<&OsStr>) -> Result<Self, Refusal> {
        let path = locate(command, search)?;
        let mut runs = vec![path.clone()];
        // A script can name another script; `env` in a #! line names the program to look for.
        while let Some(next) = interpreter(&runs[runs.len() - 1], search)? {
            if runs.len() > MAX_INTERPRETERS {
                return Err(Refusal::cannot_start(format!("{}: its #! lines lead in a circle", path.display())));
            }
            runs.extend(next);
        }
        Ok(Self { path, runs })
    }

    /// The base names the command goes by: as typed, and as the file is called that links lead to; of an AppDir also the
    /// program that it says it is. Profiles match on these.
    pub fn names(&self) -> Vec<String> {
        let mut names = names_of(&self.path);
        names.extend(app_program(&self.path));
        names
    }

    /// The base names of everything that runs: the command's own and its interpreters'.
    pub fn all_names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.runs.iter().flat_map(|path| names_of(path)).collect();
        let mut seen = Vec::new();
        names.retain(|name| {
            !seen.contains(name) && {
                seen.push(name.clone());
                true
            }
        });
        names
    }

    /// Why GreenBoost would have no effect on it, if that is so.
    pub fn obstacle(&self) -> Option<Refusal> {
        self.runs.iter().find_map(|path| {
            let problem = ignores_preload(path)?;
            let which =
                if *path == self.path { String::new() } else { format!(", which runs {}", self.path.display()) };
            Some(Refusal::cannot_start(format!("{}{which}: {problem}", path.display())).unless_forced())
        })
    }
}

fn names_of(path: &Path) -> Vec<String> {
    let base = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let mut names: Vec<_> =
        [base(path), fs::canonicalize(path).ok().as_deref().and_then(base)].into_iter().flatten().collect();
    names.dedup();
    names
}

/// What an AppDir's `AppRun` starts, by the .desktop file beside it.
fn app_program(path: &Path) -> Option<String> {
    if path.file_name()? != "AppRun" {
        return None;
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let desktop = entries.filter(|path| path.extension() == Some(OsStr::new("desktop"))).find(|path| path.is_file())?;
    let text = fs::read_to_string(desktop).ok()?;
    let program = text.lines().find_map(|line| line.strip_prefix("Exec="))?.split_whitespace().next()?;
    Some(Path::new(program.trim_matches('"')).file_name()?.to_string_lossy().into_owned())
}

fn locate(command: &OsStr, search: Option<&OsStr>) -> Result<PathBuf, Refusal> {
    let shown = command.to_string_lossy();
    if command.is_empty() {
        return Err(Refusal::not_found("the command is empty: write the program to start after the options"));
    }
    if command.as_bytes().contains(&b'/') {
        let path = PathBuf::from(command);
        return match fs::metadata(&path) {
            Ok(meta) => check_executable(&path, &meta).map(|()| path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Refusal::not_found(format!("{shown}: there is no such file: check the path")))
            }
            Err(error) => Err(Refusal::cannot_start(format!("{shown}: {error}: check the path and its permissions"))),
        };
    }
    let search = search.unwrap_or(OsStr::new(DEFAULT_PATH));
    let mut refused = None;
    for folder in search.as_bytes().split(|byte| *byte == b':') {
        // An empty entry is the current folder; the dot keeps the path from being searched again.
        let folder = if folder.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(folder)) };
        let path = folder.join(command);
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => match check_executable(&path, &meta) {
                Ok(()) => return Ok(path),
                Err(refusal) => refused = refused.or(Some(refusal)),
            },
            _ => {}
        }
    }
    Err(refused.unwrap_or_else(|| {
        let here = if Path::new(command).is_file() {
            format!("; there is one in this folder: write ./{shown}")
        } else {
            String::new()
        };
        Refusal::not_found(format!("{shown}: not found in PATH: check the name, or write its full path{here}"))
    }))
}

fn check_executable(path: &Path, meta: &Metadata) -> Result<(), Refusal> {
    let shown = path.display();
    if meta.is_dir() {
        return Err(Refusal::cannot_start(format!("{shown}: is a folder: name the program inside it")));
    }
    let name = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Refusal::not_found("the command contains a zero byte"))?;
    // SAFETY: the path is a C string; access only reads it.
    if unsafe { libc::access(name.as_ptr(), libc::X_OK) } != 0 {
        let hint = if meta.mode() & 0o111 == 0 {
            format!("make it executable with chmod +x {shown}")
        } else {
            "check its owner, and whether its file system is mounted noexec".to_owned()
        };
        return Err(Refusal::cannot_start(format!("{shown}: may not be executed: {hint}")));
    }
    Ok(())
}

/// What a script's `#!` line runs: the interpreter and, after `env`, the program it looks for. `None` for a binary.
fn interpreter(path: &Path, search: Option<&OsStr>) -> Result<Option<Vec<PathBuf>>, Refusal> {
    let shown = path.display();
    match kind_of(path) {
        // A program that may be executed but not read is left to the kernel.
        Ok(Kind::Elf(_)) | Err(_) => return Ok(None),
        Ok(Kind::Script) => {}
        Ok(Kind::Other) => {
            return Err(Refusal::cannot_start(format!(
                "{shown}: is neither a program (ELF) nor a script with a #! line: run it with its interpreter, such as `gb-launch sh {shown}`"
            )));
        }
    }
    let line = first_line(path).map_err(|error| Refusal::cannot_start(format!("{shown}: cannot be read: {error}")))?;
    let mut words = line[2..].split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
    let Some(first) = words.next() else {
        return Err(Refusal::cannot_start(format!(
            "{shown}: its #! line names no interpreter: correct its first line"
        )));
    };
    let first = PathBuf::from(OsString::from_vec(first.to_vec()));
    let explain =
        |refusal: Refusal| Refusal::cannot_start(format!("{shown}: its #! line cannot be followed: {refusal}"));
    locate(first.as_os_str(), search).map_err(explain)?;
    let mut runs = vec![first.clone()];
    if first.file_name() == Some(OsStr::new("env")) {
        let is_option = |word: &&[u8]| !word.starts_with(b"-") && !word.contains(&b'=');
        if let Some(program) = words.find(is_option) {
            runs.push(locate(OsStr::from_bytes(program), search).map_err(explain)?);
        }
    }
    Ok(Some(runs))
}

fn first_line(path: &Path) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    // The kernel reads no more than this either.
    io::BufReader::new(fs::File::open(path)?.take(256)).read_until(b'\n', &mut line)?;
    Ok(line)
}

/// Why the dynamic loader would not load the hook into this file.
fn ignores_preload(path: &Path) -> Option<String> {
    if let Ok(Kind::Elf(elf)) = kind_of(path) {
        if !elf.is_ours() {
            let ours = Elf { machine: Elf::OUR_MACHINE, little_64: true, ..elf.clone() };
            return Some(
                format!(
                    "is a {} program, and this GreenBoost is built for {}: use a build of the program for {} ",
                    elf.architecture(),
                    ours.architecture(),
                    ours.architecture()
                )
                .trim_end()
                .to_owned(),
            );
        }
        let is_name = |name: &str| is_loader(name);
        let own = path.file_name().and_then(OsStr::to_str);
        match &elf.loader {
            // The loader itself is statically linked, and reads LD_PRELOAD.
            None if own.is_some_and(is_name) => {}
            None if own.is_some_and(|name| name.starts_with("ld-musl")) => return Some(other_library("itself")),
            None => {
                return Some("is statically linked, so no library can be loaded into it: use a dynamically linked build (for llama.cpp: without -static; for Go programs: CGO_ENABLED=1)".to_owned());
            }
            Some(loader) if loader.file_name().and_then(OsStr::to_str).is_some_and(is_name) => {}
            Some(loader) => return Some(other_library(&loader.display().to_string())),
        }
    }
    let meta = fs::metadata(path).ok()?;
    // SAFETY: these calls have no arguments and cannot fail.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let changes_user = meta.mode() & libc::S_ISUID != 0 && meta.uid() != user;
    let changes_group =
        meta.mode() & (libc::S_ISGID | libc::S_IXGRP) == (libc::S_ISGID | libc::S_IXGRP) && meta.gid() != group;
    if changes_user || changes_group {
        return Some("is setuid or setgid, so the system ignores LD_PRELOAD for it: put gb-launch behind it (such as `sudo gb-launch COMMAND`), or remove the bit with chmod ug-s".to_owned());
    }
    if user != 0 && has_capabilities(path) {
        return Some("carries file capabilities, so the system ignores LD_PRELOAD for it: remove them with `sudo setcap -r FILE`, and raise limits with ulimit or the service file instead".to_owned());
    }
    None
}

/// What is said of a program for another C library than the hook's.
fn other_library(loader: &str) -> String {
    format!(
        "is built for another C library than glibc (its loader is {loader}, as on Alpine), and GreenBoost's library needs glibc: use a glibc build of the program, such as one of Debian or Ubuntu, or of a container image based on them"
    )
}

fn has_capabilities(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: both names are C strings; a null buffer of size 0 only asks for the length.
    unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) > 0 }
}
