//! The hook itself, in front of a program on the simulated GPU: its memory comes from the pool, and what the module says
//! is heeded.

use crate::machine::{Marks, Setting, eventually, value};
use crate::test::Test;
use greenboost_contract::record::{self, Mapped};
use greenboost_kmod::Device;
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("hook: a model four times the GPU answers the same out of the pool", same_answer),
    ("hook: kill -9 at any time of a run gives all back", killed),
    ("hook: a model that is started at critical is refused, one that runs is not touched", critical_start),
    ("hook: at critical a running program gets no RAM and nothing moves, and then it works again", critical_growth),
    ("hook: low has what is idle returned, though nobody calls", low_idle),
    ("hook: at low no RAM is reported as free, and what must be had still is", low_growth),
    ("hook: where the pool ends, another backing goes on", full_pool),
    ("hook: who may not open the device gets another backing and the reason", denied),
    ("hook: doctor tries the pool with a kernel", doctor),
    ("hook: what loading costs out of the pool, and out of the other backings", load_times),
];

const MIB: u64 = 1 << 20;
/// At least this much of the model must lie in the pool: its GPU holds 8 MiB of 32.
const SPILLED: u64 = 20 * MIB;

const MODEL: [&str; 5] = ["/gb/toy-llm", "-m", "/tmp/model.gguf", "-n", "4"];

/// A program on a simulated GPU with this much VRAM.
pub fn on_gpu(vram: &str, program: &[&str]) -> Command {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("PATH", "/gb").env("LD_LIBRARY_PATH", "/gb/driver").env("SIMGPU_VRAM", vram);
    command
}

/// The same under gb-launch, on a GPU of 8 MiB.
fn hooked(program: &[&str]) -> Command {
    let mut command = on_gpu("8MiB", &[&["/gb/gb-launch", "--ram", "512MiB", "--"], program].concat());
    // In proportion to so small a GPU.
    command.env("GREENBOOST_CHUNK", "2MiB").env("GREENBOOST_VRAM_RESERVE", "0").env("GREENBOOST_THRESHOLD", "4MiB");
    command
}

/// Runs to the end: whether it succeeded, and all it said.
pub fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// What the model answers on a GPU that holds it, without us. The model is made when it is first asked.
fn answer() -> String {
    if !Path::new(MODEL[2]).exists() {
        let (ok, said) = run(&mut on_gpu("256MiB", &["/gb/toy-llm", "make", "--size", "32MiB", "--out", MODEL[2]]));
        assert!(ok, "{said}");
    }
    let (ok, said) = run(&mut on_gpu("256MiB", &MODEL));
    assert!(ok && said.contains("checksum"), "{said}");
    said
}

/// A hooked program that stays until it is told to end; killed when dropped.
struct Held {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    said: String,
}

impl Held {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("gb-launch starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines, said: String::new() }
    }

    /// Waits until it prints this line.
    #[track_caller]
    fn until(command: &mut Command, line: &str) -> Self {
        let mut held = Self::start(command);
        loop {
            match held.line() {
                next if next == line => return held,
                next => held.said += &(next + "\n"),
            }
        }
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let said = &self.said;
        self.lines.next().unwrap_or_else(|| panic!("it ended after {said:?}")).expect("a line")
    }

    /// A program that does what it is told, one line at a time.
    fn steps() -> Self {
        Self::start(&mut hooked(&["/gb/steps"]))
    }

    /// Has it do a step: what it answers.
    #[track_caller]
    fn step(&mut self, step: &str) -> String {
        writeln!(self.child.stdin.as_ref().expect("a pipe"), "{step}").expect("it listens");
        self.line()
    }

    fn model() -> Self {
        Self::until(&mut hooked(&[&MODEL[..], &["--hold"]].concat()), "ready")
    }

    /// gb-launch has become the program: it has its process.
    fn record(&self) -> Mapped {
        record::of_process(self.child.id()).expect("a status record")
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("its end").success());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes in a backing, by its name.
fn bytes_in(record: &Mapped, backing: &str) -> u64 {
    let cells = record.backings.iter().zip(&record.devices[0].ram);
    cells.filter(|(name, _)| name.get() == backing).map(|(_, bytes)| bytes.load(Relaxed)).sum()
}

fn same_answer() {
    let expected = answer();
    assert!(!run(&mut on_gpu("8MiB", &MODEL)).0, "it fits, and proves nothing");
    let (allocations, held) = (value("allocations"), Held::model());
    let record = held.record();
    assert_eq!(held.said, expected);
    let used = value("pool_used_bytes");
    assert!(used >= SPILLED, "{} MiB of the pool are used", used / MIB);
    assert_eq!(bytes_in(&record, "kmod"), used, "the record says where the bytes are");
    assert_eq!((bytes_in(&record, "memfd"), bytes_in(&record, "host-numa")), (0, 0));
    let reason = record.backing_reason.get();
    assert!(reason.starts_with("kmod: a kernel reads and writes it (the driver does not import DMA-BUFs"), "{reason}");
    assert_eq!(record.pressure(), "ok");
    assert!(value("allocations") > allocations + 8, "a buffer for each chunk");
    let (ok, status) = run(&mut on_gpu("8MiB", &["/gb/greenboost", "status"]));
    assert!(ok && status.contains("kmod ") && status.contains("memory pressure ok"), "{status}");
    held.end();
    assert_eq!(value("pool_used_bytes"), 0, "the end of the program gives it back");
    // And out of pages that were ready.
    let reserve = Setting::new("reserve_bytes", 48 * MIB);
    eventually("the reserve is full", || value("reserve_ready_bytes") == 48 * MIB);
    let hits = value("reserve_hits");
    assert_eq!(run(&mut hooked(&MODEL)), (true, expected));
    assert!(value("reserve_hits") > hits, "the reserve served nobody");
    drop(reserve);
}

fn killed() {
    answer();
    let long = ["/gb/toy-llm", "-m", "/tmp/model.gguf", "-n", "400"];
    for wait in [0, 300, 1500] {
        let mut child = hooked(&long).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("gb-launch starts");
        let enough = if wait == 0 { 1 } else { SPILLED };
        eventually("it is loading", || value("pool_used_bytes") >= enough);
        std::thread::sleep(Duration::from_millis(wait));
        assert!(child.try_wait().expect("its state").is_none(), "it ended before it could be killed");
        assert!(value("pool_used_bytes") >= enough);
        child.kill().expect("killed");
        child.wait().expect("its end");
        eventually("all came back", || value("pool_used_bytes") == 0 && value("frees") == value("allocations"));
    }
}

/// A level for as long as this lives. The machine has memory enough all the time: only the marks move.
fn level(critical: bool) -> Marks {
    let above = value("available_bytes") * 2;
    let marks = Marks::new(above, if critical { above } else { value("critical_mark_bytes") });
    let level = if critical { "critical" } else { "low" };
    eventually(level, || crate::machine::shown("ram_level") == level);
    marks
}

fn critical_start() {
    let expected = answer();
    let held = Held::model();
    let (record, used) = (held.record(), value("pool_used_bytes"));
    let marks = level(true);
    // It makes no call: what shows the level is its thread that listens.
    eventually("the record shows it", || record.pressure() == "critical");
    let (ok, said) = run(&mut hooked(&MODEL));
    assert!(!ok && said.contains("out of memory"), "{said}");
    assert_eq!(value("pool_used_bytes"), used, "in use, so untouched");
    let (_, status) = run(&mut on_gpu("8MiB", &["/gb/greenboost", "status"]));
    assert!(status.contains("memory pressure critical"), "{status}");
    drop(marks);
    eventually("the record shows it", || record.pressure() == "ok");
    assert_eq!(run(&mut hooked(&MODEL)), (true, expected), "it works again");
    held.end();
}

fn critical_growth() {
    let mut program = Held::steps();
    // More than the VRAM, so that what comes next is RAM, or has to push something there.
    assert_eq!(program.step("alloc 16777216"), "allocated");
    let (record, used) = (program.record(), value("pool_used_bytes"));
    assert!(used >= 8 * MIB, "{} MiB of the pool are used", used / MIB);
    let moved = || record.devices[0].moved_out.load(Relaxed);
    let marks = level(true);
    assert_eq!(program.step("alloc 16777216"), "out of memory");
    assert_eq!(program.step("alloc 1048576"), "out of memory", "it would be VRAM, if something made way");
    assert_eq!((moved(), value("pool_used_bytes")), (0, used));
    let ram: u64 = record.devices[0].ram.iter().map(|bytes| bytes.load(Relaxed)).sum();
    assert_eq!(ram, used, "no other backing serves either");
    assert!(record.backing_reason.get().starts_with("kmod: "), "{}", record.backing_reason.get());
    drop(marks);
    eventually("the record shows it", || record.pressure() == "ok");
    assert_eq!(program.step("alloc 16777216"), "allocated");
    assert_eq!(program.step("alloc 1048576"), "allocated");
    assert!(moved() > 0 && value("pool_used_bytes") >= used + 16 * MIB);
    program.end();
}

fn low_idle() {
    // The stream is busy for seconds after the program has freed: 24 MiB lie beyond a slow link.
    let mut program = Held::start(hooked(&["/gb/steps"]).env("SIMGPU_LINK_GBPS", "0.01"));
    assert_eq!(program.step("leave 33554432"), "freed");
    let used = value("pool_used_bytes");
    assert!(used >= SPILLED, "{} MiB of the pool are used", used / MIB);
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(value("pool_used_bytes"), used, "somebody returns it anyhow, and this test proves nothing");
    let marks = level(false);
    eventually("what is idle came back", || value("pool_used_bytes") == 0);
    drop(marks);
    program.end();
}

fn low_growth() {
    let mut program = Held::steps();
    assert_eq!(program.step("alloc 16777216"), "allocated");
    let record = program.record();
    let free = |program: &mut Held| program.step("free").trim_start_matches("free ").parse::<u64>().expect("bytes");
    // The profile for unknown programs reports no more than the GPU has.
    assert!(free(&mut program) >= 6 * MIB);
    let marks = level(false);
    assert!(free(&mut program) < 2 * MIB, "VRAM is full, and RAM is not to be counted on");
    assert_eq!(program.step("alloc 16777216"), "allocated", "what a program must have it still gets");
    assert_eq!(record.pressure(), "low");
    assert_eq!(run(&mut hooked(&MODEL)), (true, answer()));
    drop(marks);
    eventually("the record shows it", || record.pressure() == "ok");
    assert!(free(&mut program) >= 6 * MIB);
    program.end();
}

fn full_pool() {
    let expected = answer();
    let limit = Setting::new("pool_limit_bytes", 12 * MIB);
    let held = Held::model();
    let record = held.record();
    assert_eq!(held.said, expected);
    assert_eq!(bytes_in(&record, "kmod"), value("pool_used_bytes"));
    assert!(bytes_in(&record, "kmod") >= 8 * MIB && bytes_in(&record, "host-numa") >= 8 * MIB);
    let reason = record.backing_reason.get();
    assert!(
        reason.starts_with(
            "host-numa too, since kmod: the pool's limit is reached, or no whole 2 MiB pages are left; kmod: "
        ),
        "{reason}"
    );
    held.end();
    drop(limit);
}

fn denied() {
    let expected = answer();
    assert_eq!(std::fs::metadata(Device::PATH).expect("the device").uid(), 0);
    let as_user = || {
        let mut command = hooked(&[&MODEL[..], &["--hold"]].concat());
        Held::until(command.uid(1000).gid(1000), "ready")
    };
    let held = as_user();
    let record = held.record();
    assert_eq!((held.said.as_str(), value("pool_used_bytes")), (expected.as_str(), 0));
    assert!(bytes_in(&record, "host-numa") >= SPILLED);
    let reason = record.backing_reason.get();
    assert!(reason.contains("not kmod: no access to /dev/greenboost"), "{reason}");
    assert_eq!(record.pressure(), "", "nobody tells it");
    held.end();
    // The rule that is shipped gives the device to a group.
    chown(Device::PATH, None, Some(1000)).expect("the device's group");
    let held = as_user();
    assert!(bytes_in(&held.record(), "kmod") >= SPILLED);
    held.end();
    chown(Device::PATH, None, Some(0)).expect("the device's group");
}

fn doctor() {
    let (_, said) = run(&mut on_gpu("64MiB", &["/gb/greenboost", "doctor", "--json"]));
    assert!(said.contains("kmod works (fresh 2 MiB pages); host-numa works; memfd works"), "{said}");
    assert_eq!(value("pool_used_bytes"), 0);
}

/// From the start of the program to its first answer, by backing, in turns. The figures say whether the pool pays for
/// itself; that each backing did serve is what can fail.
fn load_times() {
    const MODEL_BYTES: u64 = 128 * MIB;
    let model = "/tmp/large.gguf";
    let (ok, said) = run(&mut on_gpu("256MiB", &["/gb/toy-llm", "make", "--size", "128MiB", "--out", model]));
    assert!(ok, "{said}");
    let mut kinds = [
        ("pool_ready", "kmod", MODEL_BYTES, String::new()),
        ("pool_fresh", "kmod", 0, String::new()),
        ("host_numa", "host-numa", 0, String::new()),
        ("memfd", "memfd", 0, String::new()),
    ];
    for _ in 0..5 {
        for (_, backing, reserve, times) in &mut kinds {
            let (backing, reserve) = (*backing, *reserve);
            let _reserve = Setting::new("reserve_bytes", reserve);
            eventually("the reserve is full", || value("reserve_ready_bytes") == reserve);
            let mut command = hooked(&["/gb/toy-llm", "-m", model, "-n", "1", "--hold"]);
            command.env("GREENBOOST_BACKINGS", backing);
            let start = Instant::now();
            let held = Held::until(&mut command, "ready");
            *times += &format!(" {:.1}", start.elapsed().as_secs_f64() * 1e3);
            assert!(bytes_in(&held.record(), backing) > MODEL_BYTES / 4 * 3, "{backing} did not serve");
            held.end();
        }
    }
    kinds.iter().for_each(|(name, _, _, times)| println!("gb-figure load.{name}_ms{times}"));
    std::fs::remove_file(model).expect("removed");
}
