//! The virtual machine: its parts, and a run of it.

use super::console::{Console, Meaning};
use super::cpio::Archive;
use super::needs::{Kernel, all_headers};
use super::userland;
use crate::process::{self, quietly};
use crate::workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

const TARGET: &str = "x86_64-unknown-linux-gnu";
const MEMORY_MIB: u32 = 3072;
/// How much of it is another NUMA node's.
const SECOND_NODE_MIB: u32 = 512;
const DISK: u64 = 192 << 20;
/// The longest a run of the tests may take, and the longest its console may be silent: several times what an idle
/// machine needs, since a busy one tests nothing less.
const PATIENCE: Duration = Duration::from_secs(1200);
const SILENCE: Duration = Duration::from_secs(240);
/// What a machine was stopped for that says nothing.
pub const SILENT: &str = "the machine is silent";

/// How the kernel is started. Where this machine is busy the processors of that one stand still, for which its kernel
/// is not to blame: it waits long before it calls something stuck.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=5 panic=-1 oops=panic rcupdate.rcu_cpu_stall_timeout=300 \
     watchdog_thresh=60 workqueue.watchdog_thresh=300 sysctl.kernel.hung_task_timeout_secs=300";
/// How much slower a kernel is that checks everything, and how much more it is asked.
const DEBUG_FACTOR: u32 = 20;

/// A machine ready to boot.
pub struct Guest {
    image: PathBuf,
    initramfs: PathBuf,
    disk: PathBuf,
    /// What is on the disk at the start.
    files: PathBuf,
    /// Its memory.
    pub memory_mib: u32,
    /// The longest a run of it may take.
    pub patience: Duration,
    /// The longest it may be silent.
    pub silence: Duration,
    /// Its kernel checks everything, which takes time.
    pub debug: bool,
    /// Its console is shown as it comes.
    pub verbose: bool,
}

/// Builds the modules for every kernel whose headers are installed, warnings being errors, with sparse for the one that
/// is going to boot.
///
/// # Errors
/// Shows the warning.
pub fn build_matrix(kernel: &Kernel) -> Result<()> {
    let others = all_headers().into_iter().filter(|headers| *headers != kernel.headers);
    for headers in others.chain([kernel.headers.clone()]) {
        let release = headers.file_name().expect("a folder").to_string_lossy().into_owned();
        let checked = headers == kernel.headers;
        let start = Instant::now();
        for (source, name) in MODULES {
            build_module(&headers, source, &folder(&headers).join(name), checked)?;
        }
        let how = if checked { "W=1, sparse" } else { "W=1" };
        println!("build ok {:.1} {release} ({how})", start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Where the sources of the modules lie, and what they make.
const MODULES: &[(&str, &str)] = &[("kmod", "greenboost"), ("integration-tests/kernel/peer", "gb_peer")];

fn folder(headers: &Path) -> PathBuf {
    workspace::target().join("kernel").join(headers.file_name().expect("a folder"))
}

/// In a copy, so that nothing is built among the sources.
fn build_module(headers: &Path, source: &str, to: &Path, check: bool) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    quietly(process::program("cp", &["-ru", "--preserve=timestamps"]).arg(format!("{source}/.")).arg(to))?;
    let mut make = process::program("make", &["-s", "W=1", "KCFLAGS=-Werror"]);
    make.arg("-C").arg(headers).arg(format!("M={}", to.display()));
    if check {
        // C=1 looks at what is compiled: all of it, then.
        let _ = quietly(
            process::program("make", &["-s", "clean"]).arg("-C").arg(headers).arg(format!("M={}", to.display())),
        );
        make.arg("C=1");
    }
    let said = quietly(make.arg("modules"))?;
    // Headers without vmlinux leave out the types of BPF, which nothing here needs.
    let said: Vec<_> = said.lines().filter(|line| !line.contains("BTF") && !line.trim().is_empty()).collect();
    let ours = |line: &&&str| line.contains(&*to.to_string_lossy());
    if let Some(warning) = said.iter().find(ours) {
        bail!("{}: {warning}", headers.display());
    }
    Ok(())
}

impl Guest {
    /// Puts the machine together.
    ///
    /// # Errors
    /// When a part cannot be built.
    pub fn build(kernel: &Kernel) -> Result<Self> {
        let folder = folder(&kernel.headers);
        let init = build_init(&folder)?;
        let mut archive = Archive::default();
        for name in ["dev", "proc", "sys", "tmp", "spill", "cgroup"] {
            archive.folder(name);
        }
        archive.file("init", &fs::read(&init).with_context(|| format!("cannot read {}", init.display()))?);
        for (_, name) in MODULES {
            let module = folder.join(name).join(format!("{name}.ko"));
            let stripped = folder.join(format!("{name}.ko"));
            quietly(process::program("strip", &["--strip-debug", "-o"]).arg(&stripped).arg(&module))?;
            archive.file(&format!("{name}.ko"), &fs::read(stripped)?);
        }
        let files = folder.join("files");
        userland::pack(&mut archive, &files)?;
        let initramfs = folder.join("initramfs");
        fs::write(&initramfs, archive.finish())?;
        Ok(Self {
            image: kernel.image.clone(),
            initramfs,
            disk: folder.join("disk"),
            files,
            memory_mib: MEMORY_MIB,
            patience: PATIENCE,
            silence: SILENCE,
            debug: false,
            verbose: false,
        })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When QEMU does not start. How the tests went is in the answer.
    pub fn boot(&self, words: &str) -> Result<Console> {
        let factor = if self.debug { DEBUG_FACTOR } else { 1 };
        let (patience, silence) = (self.patience * factor, self.silence * factor.min(8));
        self.fresh_disk()?;
        let start = Instant::now();
        let mut qemu = self.qemu(words);
        let mut child = Kill(qemu.spawn().with_context(|| format!("cannot run `{}`", process::typed(&qemu)))?);
        let output = BufReader::new(child.0.stdout.take().expect("it was asked for"));
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        let mut console = Console::default();
        let log_path = self.initramfs.with_file_name("console.log");
        let mut log = String::new();
        let mut noise = Vec::new();
        loop {
            match lines.recv_timeout(silence.min(patience.saturating_sub(start.elapsed()))) {
                Ok(line) => {
                    let meaning = console.line(&line);
                    if self.verbose || meaning != Meaning::Noise {
                        // What a failed test or the kernel had to say comes before its line.
                        if meaning == Meaning::Complaint || line.contains("gb-test FAILED") {
                            noise.iter().for_each(|line| println!("    {line}"));
                        }
                        println!("{}", line.trim_end());
                        noise.clear();
                    } else {
                        noise.push(line.trim_end().to_owned());
                    }
                    log += &line;
                    log.push('\n');
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let late = start.elapsed() >= patience;
                    console.stopped(if late {
                        format!("it takes more than {} s", patience.as_secs())
                    } else {
                        format!("{SILENT} for {} s", silence.as_secs())
                    });
                    break;
                }
            }
        }
        fs::write(&log_path, log)?;
        println!("the guest ran {:.1} s; its console: {}", start.elapsed().as_secs_f64(), workspace::shown(&log_path));
        Ok(console)
    }

    fn qemu(&self, words: &str) -> Command {
        let mut qemu = process::program("qemu-system-x86_64", &["-accel", "tcg,thread=multi", "-cpu", "max"]);
        qemu.args(["-smp", "2", "-nographic", "-nodefaults", "-no-reboot", "-serial", "stdio"]);
        qemu.args(["-m", &self.memory_mib.to_string()]);
        // Two nodes, of which the second has no processor: what a cpuset or a GPU far away asks for.
        for (node, mib, processors) in [(0, self.memory_mib - SECOND_NODE_MIB, ",cpus=0-1"), (1, SECOND_NODE_MIB, "")] {
            qemu.arg("-object").arg(format!("memory-backend-ram,id=node{node},size={mib}M"));
            qemu.arg("-numa").arg(format!("node,nodeid={node},memdev=node{node}{processors}"));
        }
        qemu.arg("-kernel").arg(&self.image).arg("-initrd").arg(&self.initramfs);
        qemu.arg("-append").arg(format!("{COMMAND_LINE}{words}"));
        qemu.arg("-drive").arg(format!("file={},format=raw,if=none,id=disk", self.disk.display()));
        qemu.args(["-device", "nvme,drive=disk,serial=greenboost"]);
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        qemu
    }

    fn fresh_disk(&self) -> Result<()> {
        let file = fs::File::create(&self.disk).with_context(|| format!("cannot make {}", self.disk.display()))?;
        file.set_len(DISK)?;
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let mut mkfs = process::program("mkfs.ext4", &["-q", "-F", "-m", "0", "-d"]);
        quietly(mkfs.arg(&self.files).arg(&self.disk).env("PATH", path))?;
        Ok(())
    }
}

/// The program that is the whole userspace, linked statically.
fn build_init(folder: &Path) -> Result<PathBuf> {
    let target = folder.join("cargo");
    let mut cargo = process::cargo(&["build", "--quiet", "--release", "-p", "kernel-tests", "--target", TARGET]);
    cargo.arg("--target-dir").arg(&target);
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static -C debuginfo=0");
    process::succeed(&mut cargo)?;
    Ok(target.join(TARGET).join("release/kernel-tests"))
}

/// A QEMU that outlives its test would compute for ever.
struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
