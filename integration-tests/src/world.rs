//! A machine as a target program sees it: a driver (or none), an environment, and GreenBoost in front (or not).

use crate::artefacts::{Artefacts, artefacts};
use crate::fixtures;
use crate::outcome::{Outcome, Running};
use greenboost_contract::settings;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How GreenBoost gets in front of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Injection {
    None,
    /// LD_PRELOAD and the contract's environment, as the launcher would set them.
    Preload,
    /// Through gb-launch, with these flags.
    Launcher(Vec<String>),
}

/// A world to run programs in. Starts as a machine with a simulated GPU of 16 MiB and no GreenBoost.
#[derive(Debug)]
pub struct World {
    artefacts: &'static Artefacts,
    env: BTreeMap<String, OsString>,
    injection: Injection,
    hook: PathBuf,
    /// Libraries preloaded before and after the hook.
    around: [Vec<PathBuf>; 2],
    scratch: TempDir,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// The plain world.
    pub fn new() -> Self {
        let artefacts = artefacts();
        let scratch = tempfile::Builder::new().prefix("gb-world-").tempdir().expect("a temporary directory");
        let world = Self {
            artefacts,
            env: BTreeMap::new(),
            injection: Injection::None,
            hook: artefacts.hook.clone(),
            around: [Vec::new(), Vec::new()],
            scratch,
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Processes of one world, and NVML in them, see the same GPU.
        let usage = world.file("gpu-usage");
        world
            .env("PATH", path)
            .env("HOME", "/nonexistent")
            .env("LC_ALL", "C.UTF-8")
            .env("LD_LIBRARY_PATH", &artefacts.driver)
            .env("SIMGPU_SHM", usage)
            .vram("16MiB")
    }

    /// The simulated GPU's memory; one size per device, separated by commas.
    #[must_use]
    pub fn vram(self, size: &str) -> Self {
        self.env("SIMGPU_DEVICES", size.split(',').count().to_string()).env("SIMGPU_VRAM", size)
    }

    /// No driver on this machine.
    #[must_use]
    pub fn no_driver(mut self) -> Self {
        self.env.remove("LD_LIBRARY_PATH");
        self
    }

    /// Random delays on the simulated GPU, from a seed that a failure shows.
    #[must_use]
    pub fn delays(self, seed: u64) -> Self {
        self.env("SIMGPU_SEED", seed.to_string()).env("SIMGPU_DELAY_US", "300")
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// Injects the hook with the default layers.
    #[must_use]
    pub fn hooked(mut self) -> Self {
        self.injection = Injection::Preload;
        // A chunk of the default size is larger than these GPUs; a driver that keeps nothing for itself needs no
        // reserve; and no test may take the machine's memory.
        for (name, value) in [
            (settings::ACTIVE, "1"),
            (settings::CHUNK, "2MiB"),
            (settings::VRAM_RESERVE, "0"),
            (settings::RAM, "1GiB"),
            (settings::LOG_LEVEL, "debug"),
        ] {
            if !self.env.contains_key(name) {
                self = self.env(name, value);
            }
        }
        let log = self.log_path();
        self.env(settings::LOG, log)
    }

    /// Injects the hook with these layers only.
    #[must_use]
    pub fn layers(self, layers: &str) -> Self {
        self.hooked().env(settings::LAYERS, layers)
    }

    /// Runs programs through gb-launch with these flags.
    #[must_use]
    pub fn launched(mut self, flags: &[&str]) -> Self {
        self.injection = Injection::Launcher(flags.iter().map(|flag| (*flag).to_owned()).collect());
        self
    }

    /// Preloads a fixture library before the hook.
    #[must_use]
    pub fn preload_before(mut self, library: &str) -> Self {
        self.around[0].push(self.artefacts.fixtures.join(library));
        self
    }

    /// Preloads a fixture library after the hook.
    #[must_use]
    pub fn preload_after(mut self, library: &str) -> Self {
        self.around[1].push(self.artefacts.fixtures.join(library));
        self
    }

    /// A file of this world, gone with it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn log_path(&self) -> PathBuf {
        self.file("hook.log")
    }

    /// Runs a fixture without arguments.
    pub fn run(&self, program: &str) -> Outcome {
        self.run_with(program, &[])
    }

    /// Runs a fixture, a program that cargo built, or an absolute path.
    pub fn run_with(&self, program: &str, arguments: &[&str]) -> Outcome {
        self.wait_for(self.command(program, arguments, &self.injection))
    }

    /// Runs a program on the same GPU that GreenBoost is not in front of: an observer, or a competitor.
    pub fn run_outside(&self, program: &str, arguments: &[&str]) -> Outcome {
        self.wait_for(self.command(program, arguments, &Injection::None))
    }

    fn wait_for(&self, mut command: Command) -> Outcome {
        let (mut stdout, mut stderr) = (self.capture(), self.capture());
        command.stdin(Stdio::null());
        command.stdout(stdout.try_clone().expect("a file")).stderr(stderr.try_clone().expect("a file"));
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", describe(&command)));
        let (status, timed_out) = wait(&mut child);
        Outcome {
            command: describe(&command),
            status,
            stdout: contents(&mut stdout),
            stderr: contents(&mut stderr),
            log: fs::read_to_string(self.log_path()).unwrap_or_default(),
            timed_out,
        }
    }

    /// Starts a program and leaves it running, with a pipe to its stdin and from its stdout.
    pub fn start(&self, program: &str, arguments: &[&str]) -> Running {
        self.leave_running(self.command(program, arguments, &self.injection))
    }

    /// The same, with GreenBoost not in front of it.
    pub fn start_outside(&self, program: &str, arguments: &[&str]) -> Running {
        self.leave_running(self.command(program, arguments, &Injection::None))
    }

    fn leave_running(&self, mut command: Command) -> Running {
        let stderr = File::create(self.file("stderr")).expect("a file");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", describe(&command)));
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        Running { child, stdout, log: Some(self.log_path()) }
    }

    fn command(&self, program: &str, arguments: &[&str], injection: &Injection) -> Command {
        let (path, mut words) = self.locate(program);
        words.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let mut command = match injection {
            Injection::Launcher(flags) => {
                let mut command = Command::new(self.artefacts.program("gb-launch"));
                command.args(flags).arg("--").arg(path);
                command
            }
            _ => Command::new(path),
        };
        command.args(words).env_clear().envs(&self.env).current_dir(self.scratch.path());
        let [before, after] = &self.around;
        let ours = (*injection == Injection::Preload).then_some(&self.hook);
        let preload: Vec<_> = before.iter().chain(ours).chain(after).map(|path| path.as_os_str()).collect();
        if !preload.is_empty() {
            command.env("LD_PRELOAD", preload.join(":".as_ref()));
        }
        command
    }

    /// The path of a program, and arguments that come with it.
    fn locate(&self, program: &str) -> (PathBuf, Vec<String>) {
        if Path::new(program).is_absolute() {
            return (program.into(), Vec::new());
        }
        if let Some(script) = program.strip_suffix(".py") {
            let script = fixtures::sources().join(format!("{script}.py")).display().to_string();
            return (find("python3"), vec![script, fixtures::kernels().display().to_string()]);
        }
        let fixture = self.artefacts.fixtures.join(program);
        let path = if fixture.exists() { fixture } else { self.artefacts.program(program) };
        (path, Vec::new())
    }

    fn capture(&self) -> File {
        tempfile::tempfile_in(self.scratch.path()).expect("a temporary file")
    }
}

/// A program on the PATH, through any shim that is a shell script: the test's environment is not the shim's.
fn find(program: &str) -> PathBuf {
    let known = [format!("/usr/bin/{program}"), format!("/usr/local/bin/{program}")].map(PathBuf::from);
    if let Some(path) = known.into_iter().find(|path| path.exists()) {
        return path;
    }
    let asked = Command::new(program).args(["-c", "import sys; print(sys.executable)"]).output();
    let asked = asked.unwrap_or_else(|error| panic!("{program}: {error}"));
    PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim())
}

fn wait(child: &mut Child) -> (std::process::ExitStatus, bool) {
    let start = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait().expect("waiting for the program") {
            return (status, false);
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            return (child.wait().expect("waiting for the program"), true);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

fn contents(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("reading what the program printed");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The command as a shell would take it.
fn describe(command: &Command) -> String {
    let quote = |text: &std::ffi::OsStr| {
        let text = text.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:,+@".contains(c);
        if !text.is_empty() && text.chars().all(plain) { text.into_owned() } else { format!("'{text}'") }
    };
    let env =
        command.get_envs().filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quote(value?))));
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quote);
    env.chain(words).collect::<Vec<_>>().join(" ")
}
