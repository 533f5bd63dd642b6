//! A model on disk, a program that has loaded it, and what is known of both.

use greenboost_contract::record::{self, Mapped};
use greenboost_contract::settings::{self, GRANULE};
use greenboost_gguf::write::Writer;
use integration_tests::tier_map::TierMap;
use integration_tests::{Running, World};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

/// The name of this tier in the tier map.
pub const PAGE_CACHE: &str = "page-cache";

/// A model on disk in the parts that it is split into.
pub struct Model {
    _folder: tempfile::TempDir,
    pub parts: Vec<PathBuf>,
    list: PathBuf,
    /// Name and bytes.
    pub tensors: Vec<(String, u64)>,
}

/// Bytes that tell every place of every file apart.
fn content(part: usize, bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ part as u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(bytes).collect()
}

/// Small tensors between the large ones bring these to odd places; rows of some are padded by the backend.
fn part(number: u64) -> Writer {
    let name = |what: &str, layer: u64| format!("blk.{}.{what}.weight", 2 * number + layer);
    let mut part = Writer::default().text("general.architecture", "llama");
    for layer in 0..2 {
        part = part
            .tensor(&name("attn_norm", layer), &[40 + 8 * layer], "F32")
            .tensor(&name("ffn_up", layer), &[4096 + 256, 3000], "Q6_K")
            .tensor(&name("attn_q", layer), &[1024, 900 + layer], "F16")
            .tensor(&name("ffn_down", layer), &[4000, 2900 + layer], "Q8_0")
            .tensor(&name("ffn_gate", layer), &[4096, 6100], "Q4_K");
    }
    part
}

impl Model {
    pub fn new(parts: usize) -> Self {
        let folder = tempfile::Builder::new().prefix("gb-model-").tempdir().expect("a directory");
        let list = folder.path().join("model.list");
        let mut model = Self { parts: Vec::new(), list, tensors: Vec::new(), _folder: folder };
        let mut lines = String::new();
        for number in 0..parts {
            let path = model.list.with_file_name(format!("model-{:05}-of-{parts:05}.gguf", number + 1));
            write(&path, number);
            lines += &format!("file {}\n", path.display());
            model.parts.push(path);
        }
        for (number, path) in model.parts.iter().enumerate() {
            let file = File::open(path).expect("our own");
            let bytes = file.metadata().expect("our own").len();
            let header = greenboost_gguf::read(BufReader::new(file), bytes).expect("a model");
            for tensor in header.tensors {
                let padding = if tensor.shape[0] % 512 == 0 { 0 } else { 144 };
                let (name, offset, bytes) = (&tensor.name, tensor.offset, tensor.bytes);
                lines += &format!("tensor {name} {number} {offset} {bytes} {padding}\n");
                model.tensors.push((tensor.name, tensor.bytes));
            }
        }
        fs::write(&model.list, lines).expect("room for it");
        model
    }

    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|(_, bytes)| bytes).sum()
    }

    pub fn arguments<'a>(&'a self, options: &[&'a str]) -> Vec<&'a str> {
        std::iter::once(self.list.to_str().expect("UTF-8")).chain(options.iter().copied()).collect()
    }

    /// The sums without GreenBoost and with all the VRAM one could want.
    #[track_caller]
    pub fn expected(&self, options: &[&str]) -> Vec<String> {
        let outcome = World::new().vram("512MiB").run_with("mapped-like", &self.arguments(options)).ok();
        let sums = sums(outcome.stdout.lines());
        assert!(sums.len() >= self.tensors.len(), "{}", outcome.report());
        sums
    }

    /// What the files hold.
    pub fn files(&self) -> Vec<Vec<u8>> {
        self.parts.iter().map(|path| fs::read(path).expect("our own")).collect()
    }
}

/// Writes a part, a minute ago.
pub fn write(path: &Path, number: usize) {
    let (header, data) = part(number as u64).header();
    let mut file = File::create(path).expect("a file");
    file.write_all(&header).and_then(|()| file.write_all(&content(number, data as usize))).expect("room for it");
    file.set_modified(SystemTime::now() - Duration::from_secs(60)).expect("our own");
}

pub fn sums<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    lines.into_iter().filter(|line| line.starts_with("sum ")).map(str::to_owned).collect()
}

/// Little VRAM, and the rest in the page cache or not.
pub fn world(vram: &str, page_cache: &str) -> World {
    let world = World::new().vram("512MiB").hooked().env(settings::VRAM, vram).env(settings::THRESHOLD, "2MiB");
    let map = world.file("map.json");
    world.env(settings::MAP, map).env(settings::PAGE_CACHE, page_cache)
}

/// Bytes of all chunks in the tier of this name.
pub fn bytes_in(map: &TierMap, tier: &str) -> u64 {
    map.allocations.iter().flat_map(|it| &it.granules).filter(|it| *it == tier).count() as u64 * GRANULE
}

/// A program that has loaded its model.
pub struct Loaded<'a> {
    world: &'a World,
    pub target: Running,
    pub lines: Vec<String>,
}

impl<'a> Loaded<'a> {
    #[track_caller]
    pub fn start(world: &'a World, program: &str, model: &Model, options: &[&str]) -> Self {
        let options: Vec<_> = options.iter().copied().chain(["step"]).collect();
        let mut target = world.start(program, &model.arguments(&options));
        let lines = target.until("loaded");
        Self { world, target, lines }
    }

    pub fn map(&self) -> TierMap {
        TierMap::read(&self.world.file("map.json"))
    }

    pub fn record(&self) -> Mapped {
        record::of_process(self.target.pid()).expect("a status record")
    }

    /// What `greenboost status` says of it.
    #[track_caller]
    pub fn status(&self) -> Value {
        let all = self.world.run_outside("greenboost", &["status", "--json"]).ok().json();
        let ours = all.as_array().and_then(|all| all.iter().find(|it| it["pid"] == self.target.pid()));
        ours.expect("the process").clone()
    }

    /// Bytes of the process's memory that do not belong to a file on disk; the simulated GPU's are among them.
    pub fn own_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.target.pid())).expect("the process");
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a kernel of our time");
            line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).expect("a number")
        };
        (kib("RssAnon:") + kib("RssShmem:")) << 10
    }

    /// Lets it go on to a word.
    #[track_caller]
    pub fn until(&mut self, word: &str) {
        self.target.go_on();
        self.lines.extend(self.target.until(word));
    }

    /// Lets it read everything and end; it must have read this, and nothing may be left.
    #[track_caller]
    pub fn finish(mut self, expected: &[String]) -> String {
        self.until("ready");
        assert_eq!(sums(self.lines.iter().map(String::as_str)), expected, "{}", self.target.log());
        self.until("freed");
        let record = self.record();
        let device = &record.devices[0];
        let ram: u64 = device.ram.iter().map(|bytes| bytes.load(Relaxed)).sum();
        let left = [&device.vram_chunks, &device.page_cache, &record.ram_used, &record.file_bytes];
        assert_eq!((left.map(|bytes| bytes.load(Relaxed)), ram), ([0; 4], 0), "{}", self.target.log());
        assert!(self.map().allocations.is_empty());
        let log = self.target.log();
        assert!(!log.contains(" ERROR "), "{log}");
        assert!(self.target.finish().success(), "{log}");
        log
    }
}

/// Runs a program whose weights stay in the page cache; what it printed, and its log. It must end well.
#[track_caller]
pub fn run(world: &World, program: &str, model: &Model, options: &[&str]) -> (String, String) {
    let outcome = world.run_with(program, &model.arguments(options)).ok();
    (outcome.stdout, outcome.log)
}
