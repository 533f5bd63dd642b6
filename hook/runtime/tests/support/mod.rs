//! Compiles tiny C programs and runs them with the hook preloaded.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// The injected library, as this test run built it.
pub fn hook() -> PathBuf {
    let here = std::env::current_exe().expect("a test has a path");
    let deps = here.parent().expect("in deps/");
    let built = [deps.join("libgreenboost_hook.so"), deps.join("../libgreenboost_hook.so")];
    let newest = built
        .into_iter()
        .filter(|path| path.exists())
        .max_by_key(|path| path.metadata().and_then(|it| it.modified()).ok());
    newest.expect("cargo builds the library before its tests").canonicalize().expect("it exists")
}

/// A folder with a fake driver in `lib/`, and what tests compile into it.
pub struct Bench {
    dir: TempDir,
}

impl Bench {
    /// With the fake driver.
    pub fn new() -> Self {
        let bench = Self::without_driver();
        std::fs::create_dir(bench.path("lib")).expect("new");
        std::fs::write(bench.path("versions"), "DRIVER_1 { global: *; };").expect("new");
        let versions = format!("-Wl,--version-script={}", bench.path("versions").display());
        bench.library("lib/libcuda.so.1", "driver.c", &["-Wl,-soname,libcuda.so.1", "-Wl,-Bsymbolic", &versions]);
        std::os::unix::fs::symlink("libcuda.so.1", bench.path("lib/libcuda.so")).expect("new");
        bench
    }

    /// Without.
    pub fn without_driver() -> Self {
        Self { dir: TempDir::new().expect("a temporary folder") }
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn compile(&self, out: &str, source: &str, args: &[&str], last: &[&str]) -> PathBuf {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c");
        let out = self.path(out);
        let output = Command::new("cc")
            .args(["-O1", "-g", "-Wall", "-Wextra", "-o"])
            .arg(&out)
            .arg(sources.join(source))
            .arg("-I")
            .arg(&sources)
            .arg(format!("-L{}", self.path("lib").display()))
            .args(args)
            .args(last)
            .output()
            .expect("cc is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        out
    }

    /// Compiles a program.
    pub fn program(&self, out: &str, source: &str, args: &[&str]) -> PathBuf {
        self.compile(out, source, args, &["-ldl", "-lpthread", "-lm"])
    }

    /// Compiles a library.
    pub fn library(&self, out: &str, source: &str, args: &[&str]) -> PathBuf {
        self.compile(out, source, &[&["-shared", "-fPIC"], args].concat(), &["-ldl"])
    }

    /// A command with the hook preloaded and these layers on.
    pub fn hooked(&self, program: &Path, layers: &str) -> Command {
        let mut command = self.plain(program);
        command
            .env("LD_PRELOAD", hook())
            .env("GREENBOOST_ACTIVE", "1")
            .env("GREENBOOST_LAYERS", layers)
            .env("GREENBOOST_LOG", self.path("log"))
            .env("GREENBOOST_LOG_LEVEL", "debug");
        command
    }

    /// The same command without the hook.
    pub fn plain(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GREENBOOST_") || name.starts_with("LD_"))
        {
            command.env_remove(name);
        }
        command.env("LD_LIBRARY_PATH", self.path("lib")).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// The last of what was logged.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Runs to success; the output.
    pub fn run(&self, command: &mut Command) -> String {
        let output = command.output().expect("it starts");
        self.accept(&output)
    }

    /// The output of a run that must have succeeded and have said nothing on stderr.
    pub fn accept(&self, output: &Output) -> String {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && error.is_empty(), "{}\n{text}\n{error}\n{}", output.status, self.log());
        text
    }
}

/// The routes a program says were caught, and those that were missed, in order.
pub fn routes(output: &str) -> (Vec<&str>, Vec<&str>) {
    let with = |word: &str| output.lines().filter_map(|line| line.strip_suffix(word)).collect();
    (with(" caught"), with(" missed"))
}
