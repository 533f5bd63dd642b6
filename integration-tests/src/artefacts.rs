//! What the tests run: built once, found in the target directory of the test binary itself.

use anyhow::{Context, Result, ensure};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The packages that the files below come from.
const PACKAGES: &[&str] = &["greenboost-hook", "simgpu", "simnvml", "greenboost-launcher", "toy-llm", "fixtures"];

/// Set by `cargo xtask test`, which has just built everything.
pub const PREBUILT: &str = "GB_TEST_PREBUILT";

/// Names the inline engine that the hook is built with, for everything that builds it; see [`engine`].
pub const ENGINE: &str = "GB_ENGINE";

/// What cargo is told about the inline engine: nothing for the default one.
///
/// # Panics
/// For an engine that does not exist.
pub fn engine() -> &'static [&'static str] {
    match env::var(ENGINE).as_deref() {
        Err(_) | Ok("" | "detour") => &[],
        Ok("frida") => &["--features", "greenboost-hook/frida"],
        Ok(other) => panic!("{ENGINE}={other}: the engines are detour and frida"),
    }
}

/// Set in CI, where nothing may be left out: a test that lacks something fails instead of skipping.
pub const CI: &str = "CI";

/// llama.cpp's own libraries for the CPU, as an npm package; its version, since theirs follows from it (v0.5.0).
pub const LLAMA_PACKAGE: &str = "@node-llama-cpp/linux-x64@3.22.1";
/// Where `cargo xtask test` unpacks it, below the target folder.
pub const LLAMA_FOLDER: &str = "llama-package/3.22.1";

/// Paths of everything that is built.
#[derive(Debug)]
pub struct Artefacts {
    /// Where cargo puts programs: `target/debug` or `target/release`.
    pub bin: PathBuf,
    /// libgreenboost_hook.so
    pub hook: PathBuf,
    /// A directory with the simulated libcuda.so.1 and libnvidia-ml.so.1 and nothing else.
    pub driver: PathBuf,
    /// A directory with the C fixtures.
    pub fixtures: PathBuf,
}

/// Builds what is missing, once in this process.
///
/// # Panics
/// When something cannot be built: no test could go on.
pub fn artefacts() -> &'static Artefacts {
    // The failure is kept as well: every test would only fail in the same way, minutes later.
    static ARTEFACTS: OnceLock<Result<Artefacts>> = OnceLock::new();
    ARTEFACTS.get_or_init(Artefacts::build).as_ref().unwrap_or_else(|error| panic!("{error:#}"))
}

impl Artefacts {
    fn build() -> Result<Self> {
        let own = env::current_exe()?;
        // target/debug/deps/test-hash, or target/debug/program
        let bin = own.ancestors().skip(1).find(|path| !path.ends_with("deps")).context("no target directory")?;
        if env::var_os(PREBUILT).is_none() {
            cargo_build(bin)?;
        }
        let work = bin.join("gb-tests");
        let driver = work.join("driver");
        fs::create_dir_all(&driver)?;
        install(&bin.join("libcuda.so"), &driver.join("libcuda.so.1"))?;
        install(&bin.join("libnvidia_ml.so"), &driver.join("libnvidia-ml.so.1"))?;
        let fixtures = work.join("fixtures");
        crate::fixtures::build_all(&fixtures)?;
        Ok(Self { bin: bin.to_owned(), hook: bin.join("libgreenboost_hook.so"), driver, fixtures })
    }

    /// The folder with llama.cpp's own libraries. `None`, said aloud, where they were not downloaded and need not be.
    ///
    /// # Panics
    /// When they must be there and are not.
    pub fn llama_libraries(&self) -> Option<PathBuf> {
        let folder = self.bin.parent()?.join(LLAMA_FOLDER).join("package/bins/linux-x64");
        if folder.join("libggml-base.so").exists() {
            return Some(folder);
        }
        let missing =
            format!("npm package {LLAMA_PACKAGE} is not in {}: cargo xtask test --only llama", folder.display());
        assert!(env::var_os(CI).is_none(), "{missing}");
        eprintln!("SKIPPED: {missing}");
        None
    }

    /// A program that cargo built.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

fn cargo_build(bin: &Path) -> Result<()> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg("build").arg("--quiet").current_dir(workspace());
    command.args(PACKAGES.iter().flat_map(|package| ["-p", package])).args(engine());
    if bin.ends_with("release") {
        command.arg("--release");
    }
    command.env("CARGO_TARGET_DIR", bin.parent().context("no target directory")?);
    let status = command.status().context("cargo cannot be started")?;
    ensure!(status.success(), "building {PACKAGES:?} failed");
    Ok(())
}

/// A Python that has numpy, which the generator of models needs: the first one found, else the system's.
pub fn python_with_numpy() -> Option<&'static str> {
    let has_it = |python: &&str| {
        let mut command = Command::new(python);
        command.args(["-c", "import numpy"]).stderr(std::process::Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    ["python3", "/usr/bin/python3"].into_iter().find(has_it)
}

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Copies a file unless the copy is the same, replacing it in one step: a running test may have the old one mapped.
fn install(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("{} was not built", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let aside = to.with_extension(std::process::id().to_string());
    fs::write(&aside, new)?;
    fs::rename(&aside, to)?;
    Ok(())
}
