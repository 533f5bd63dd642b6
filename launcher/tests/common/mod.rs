//! What the tests of the two programs share: a folder to work in, a hook that does nothing, and running a command.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod gpu;
pub mod planned;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use tempfile::TempDir;

/// A folder for one test, with an empty home folder so that the machine's own profiles do not matter.
pub struct Place {
    folder: TempDir,
}

/// Copies what is to be started, by another process: a fork of another test would hold the file open for writing, and it
/// could not be started ("Text file busy").
pub fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().expect("cp").success());
}

impl Place {
    pub fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().expect("temporary folder") };
        fs::create_dir(place.path("home")).expect("home");
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file with this content, executable.
    pub fn program(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        let text = tempfile::NamedTempFile::new().expect("a file");
        fs::write(text.path(), content).expect("write");
        copy(text.path(), &path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        path
    }

    /// gb-launch in a folder of its own.
    pub fn launcher_at(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        copy(Path::new(env!("CARGO_BIN_EXE_gb-launch")), &path);
        path
    }

    /// `/bin/sh`'s file under another name: a dynamic program that can do anything a test needs.
    pub fn shell_named(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        copy(Path::new("/bin/sh"), &path);
        path
    }

    /// A program compiled from C, or nothing where there is no compiler or not the libraries it needs.
    pub fn compiled(&self, name: &str, flags: &[&str]) -> Option<PathBuf> {
        let path = self.path(name);
        compile("int main(void){return 0;}", &path, flags).then_some(path)
    }

    /// A user's profile.
    pub fn profile(&self, file: &str, text: &str) -> PathBuf {
        let folder = self.path("home/.config/greenboost/profiles");
        fs::create_dir_all(&folder).expect("folder");
        fs::write(folder.join(file), text).expect("write");
        folder.join(file)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GREENBOOST_")) {
            command.env_remove(name);
        }
        command.current_dir(self.folder.path()).env("HOME", self.path("home")).env_remove("XDG_CONFIG_HOME");
        command.env_remove("LD_PRELOAD").env_remove("OLLAMA_HOST").env_remove("CUDA_VISIBLE_DEVICES");
        command.stdin(Stdio::null());
        command
    }

    /// gb-launch with a hook that does nothing.
    pub fn launch(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_gb-launch"));
        command.args(arguments).env("GREENBOOST_HOOK", hook());
        command
    }

    /// greenboost.
    pub fn greenboost(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_greenboost"));
        command.args(arguments).env("GREENBOOST_HOOK", hook());
        command
    }
}

fn compile(source: &str, to: &Path, flags: &[&str]) -> bool {
    let from = to.with_extension("c");
    fs::write(&from, source).expect("write");
    let output = Command::new("cc").args(flags).arg(&from).arg("-o").arg(to).output();
    output.is_ok_and(|output| output.status.success())
}

/// A folder that all tests of this process share; it goes when the process ends.
pub fn kept_folder() -> PathBuf {
    static KEPT: Mutex<Vec<TempDir>> = Mutex::new(Vec::new());
    extern "C" fn remove() {
        KEPT.lock().map(|mut kept| kept.clear()).unwrap_or_default();
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().to_owned();
    let mut kept = KEPT.lock().expect("folders");
    if kept.is_empty() {
        // SAFETY: the function stays, and does nothing that cannot be done at the end of a process.
        unsafe { libc::atexit(remove) };
    }
    kept.push(folder);
    path
}

/// A shared library that does nothing.
pub fn hook() -> &'static Path {
    static HOOK: OnceLock<PathBuf> = OnceLock::new();
    HOOK.get_or_init(|| {
        let folder = kept_folder();
        let path = folder.join("libgreenboost_hook.so");
        assert!(compile("void x(void){}", &path, &["-shared", "-fPIC"]), "a C compiler is needed: install gcc");
        fs::canonicalize(path).expect("path")
    })
}

/// What a command wrote and how it ended.
pub fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the command runs");
    (status.code(), String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned())
}

/// Expects a refusal: this exit code, nothing on stdout, and a message with all these parts.
#[track_caller]
pub fn refused(command: &mut Command, code: i32, parts: &[&str]) {
    let (status, stdout, stderr) = run(command);
    assert_eq!((status, stdout.as_str()), (Some(code), ""), "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is not in: {stderr}");
    }
}
