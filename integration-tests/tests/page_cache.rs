//! The page cache of the model file as the home of weights outside VRAM: the same bytes as in RAM, once, whatever the
//! program does to its mapping, to the weights, or somebody else to the file.

use greenboost_contract::record::{self, Mapped};
use greenboost_contract::settings::{self, GRANULE};
use greenboost_gguf::write::Writer;
use integration_tests::tier_map::TierMap;
use integration_tests::{Running, World};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

/// The name of such homes in the tier map.
const HOME: &str = "page-cache";

/// A model on disk in the parts that it is split into.
struct Model {
    _folder: tempfile::TempDir,
    parts: Vec<PathBuf>,
    list: PathBuf,
    /// Name and bytes.
    tensors: Vec<(String, u64)>,
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
    fn new(parts: usize) -> Self {
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

    fn bytes(&self) -> u64 {
        self.tensors.iter().map(|(_, bytes)| bytes).sum()
    }

    fn arguments<'a>(&'a self, options: &[&'a str]) -> Vec<&'a str> {
        std::iter::once(self.list.to_str().expect("UTF-8")).chain(options.iter().copied()).collect()
    }

    /// The sums without GreenBoost and with all the VRAM one could want.
    #[track_caller]
    fn expected(&self, options: &[&str]) -> Vec<String> {
        let outcome = World::new().vram("512MiB").run_with("mapped-like", &self.arguments(options)).ok();
        let sums = sums(outcome.stdout.lines());
        assert!(sums.len() >= self.tensors.len(), "{}", outcome.report());
        sums
    }

    /// What the files hold.
    fn files(&self) -> Vec<Vec<u8>> {
        self.parts.iter().map(|path| fs::read(path).expect("our own")).collect()
    }
}

/// Writes a part, a minute ago.
fn write(path: &Path, number: usize) {
    let (header, data) = part(number as u64).header();
    let mut file = File::create(path).expect("a file");
    file.write_all(&header).and_then(|()| file.write_all(&content(number, data as usize))).expect("room for it");
    file.set_modified(SystemTime::now() - Duration::from_secs(60)).expect("our own");
}

fn sums<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    lines.into_iter().filter(|line| line.starts_with("sum ")).map(str::to_owned).collect()
}

/// Little VRAM, and a home for the rest in the page cache or not.
fn world(vram: &str, page_cache: &str) -> World {
    let world = World::new().vram("512MiB").hooked().env(settings::VRAM, vram).env(settings::THRESHOLD, "2MiB");
    let map = world.file("map.json");
    world.env(settings::MAP, map).env(settings::PAGE_CACHE, page_cache)
}

/// Bytes of all chunks with a home of this name.
fn bytes_in(map: &TierMap, home: &str) -> u64 {
    map.allocations.iter().flat_map(|it| &it.granules).filter(|it| *it == home).count() as u64 * GRANULE
}

/// A program that has loaded its model.
struct Loaded<'a> {
    world: &'a World,
    target: Running,
    lines: Vec<String>,
}

impl<'a> Loaded<'a> {
    #[track_caller]
    fn start(world: &'a World, program: &str, model: &Model, options: &[&str]) -> Self {
        let options: Vec<_> = options.iter().copied().chain(["step"]).collect();
        let mut target = world.start(program, &model.arguments(&options));
        let lines = target.until("loaded");
        Self { world, target, lines }
    }

    fn map(&self) -> TierMap {
        TierMap::read(&self.world.file("map.json"))
    }

    fn record(&self) -> Mapped {
        record::of_process(self.target.pid()).expect("a status record")
    }

    /// What `greenboost status` says of it.
    #[track_caller]
    fn status(&self) -> Value {
        let all = self.world.run_outside("greenboost", &["status", "--json"]).ok().json();
        let ours = all.as_array().and_then(|all| all.iter().find(|it| it["pid"] == self.target.pid()));
        ours.expect("the process").clone()
    }

    /// Lets it go on to a word.
    #[track_caller]
    fn until(&mut self, word: &str) {
        self.target.go_on();
        self.lines.extend(self.target.until(word));
    }

    /// Lets it read everything and end; it must have read this, and nothing may be left.
    #[track_caller]
    fn finish(mut self, expected: &[String]) -> String {
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
        assert!(!log.contains("ERROR"), "{log}");
        assert!(self.target.finish().success(), "{log}");
        log
    }
}

#[test]
fn weights_outside_vram_stay_in_the_page_cache_and_are_the_same() {
    let model = Model::new(2);
    let expected = model.expected(&[]);
    for (backing, program) in [("host-numa", "mapped-like"), ("memfd", "mapped-now")] {
        let ram = ["off", "on"].map(|page_cache| {
            let world = world("32MiB", page_cache).env(settings::BACKINGS, backing);
            let loaded = Loaded::start(&world, program, &model, &[]);
            let (map, record) = (loaded.map(), loaded.record());
            let in_files = record.devices[0].page_cache.load(Relaxed);
            assert_eq!(in_files, bytes_in(&map, HOME), "{map:?}");
            let ram = record.ram_used.load(Relaxed);
            assert_eq!(bytes_in(&map, backing), ram);
            match page_cache {
                "on" => assert!(in_files > model.bytes() / 2, "{map:?}\n{}", loaded.target.log()),
                _ => assert_eq!(in_files, 0),
            }
            assert_eq!(loaded.status()["devices"][0]["page_cache_bytes"], in_files);
            loaded.finish(&expected);
            (ram, in_files)
        });
        let [(copied, _), (ram, in_files)] = ram;
        // One copy: what is in the page cache is not in RAM as well. A page for each tensor may be one granule more.
        assert!(
            copied.abs_diff(ram + in_files) <= GRANULE,
            "{copied} bytes of RAM, then {ram} and {in_files} in files"
        );
    }
}

/// Runs a program with page-cache homes; what it printed, and its log. It must end well.
#[track_caller]
fn run(world: &World, program: &str, model: &Model, options: &[&str]) -> (String, String) {
    let outcome = world.run_with(program, &model.arguments(options)).ok();
    (outcome.stdout, outcome.log)
}

#[test]
fn a_write_to_such_a_weight_is_right_and_the_file_stays_as_it_is() {
    let model = Model::new(1);
    let (expected, files) = (model.expected(&["write"]), model.files());
    assert_ne!(expected, model.expected(&[]));
    for (backing, stream) in [("host-numa", "off"), ("memfd", "off"), ("memfd", "on")] {
        let world = world("40MiB", "on").env(settings::BACKINGS, backing).env(settings::STREAM, stream);
        let world = world.env(settings::PLACE, "").env(settings::RING, "32MiB").delays(7);
        let mut loaded = Loaded::start(&world, "mapped-like", &model, &["write"]);
        let before = bytes_in(&loaded.map(), HOME);
        loaded.until("ready");
        let after = bytes_in(&loaded.map(), HOME);
        assert!(after > 0 && after < before, "{before}, then {after} bytes: {}", loaded.target.log());
        assert_eq!(sums(loaded.lines.iter().map(String::as_str)), expected, "{}", loaded.target.log());
        assert!(model.files() == files, "the file was written");
    }
}

#[test]
fn streamed_weights_are_copied_out_of_the_page_cache() {
    let model = Model::new(2);
    let world = world("64MiB", "on").env(settings::STREAM, "on").env(settings::RING, "32MiB");
    let mut loaded = Loaded::start(&world, "mapped-like", &model, &["again"]);
    assert!(bytes_in(&loaded.map(), HOME) > 32 << 20, "{:?}", loaded.map());
    loaded.until("again");
    let streamed = loaded.record().devices[0].streamed.load(Relaxed);
    assert!(streamed > bytes_in(&loaded.map(), HOME), "{streamed} bytes streamed: {}", loaded.target.log());
    loaded.finish(&[model.expected(&[]), model.expected(&[])].concat());
}

#[test]
fn a_captured_write_is_refused_since_it_would_fault_later() {
    let model = Model::new(1);
    let (printed, log) = run(&world("8MiB", "on"), "mapped-like", &model, &["captured"]);
    assert!(printed.contains("captured 801\n"), "{printed}");
    assert!(log.contains("cannot be written"), "{log}");
    assert_eq!(sums(printed.lines()), model.expected(&[]));
    let (printed, _) = run(&world("8MiB", "off"), "mapped-like", &model, &["captured"]);
    assert!(printed.contains("captured 0\n"), "{printed}");
}

#[test]
fn what_becomes_of_the_programs_mapping_changes_nothing() {
    let model = Model::new(2);
    let expected = model.expected(&["reuse"]);
    let world = world("32MiB", "on");
    let loaded = Loaded::start(&world, "mapped-like", &model, &["reuse"]);
    assert!(bytes_in(&loaded.map(), HOME) > 32 << 20);
    loaded.finish(&expected);
}

#[test]
fn a_private_mapping_serves_as_well_and_a_context_that_is_reset_or_a_model_that_is_loaded_anew_leave_nothing() {
    let model = Model::new(2);
    let expected = model.expected(&[]);
    for option in ["private", "reload", "reset"] {
        let world = world("32MiB", "on").env(settings::BACKINGS, "memfd");
        let loaded = Loaded::start(&world, "mapped-like", &model, &[option]);
        let in_files = bytes_in(&loaded.map(), HOME);
        assert!(in_files > 32 << 20, "{option}: {in_files}\n{}", loaded.target.log());
        assert_eq!(loaded.record().devices[0].page_cache.load(Relaxed), in_files);
        loaded.finish(&expected);
    }
}

#[test]
fn what_is_hot_takes_vram_from_weights_and_they_stay_right() {
    let model = Model::new(2);
    let world = world("48MiB", "on");
    let mut loaded = Loaded::start(&world, "mapped-like", &model, &["hot"]);
    let before = loaded.record().devices[0].page_cache.load(Relaxed);
    loaded.until("ready");
    let after = loaded.record();
    assert!(after.devices[0].moved_out.load(Relaxed) > 16 << 20, "{}", loaded.target.log());
    // What leaves VRAM goes where it came from; only granules that tensors share are copied.
    let in_files = after.devices[0].page_cache.load(Relaxed);
    assert!(in_files > before + (8 << 20), "{before}, then {in_files} bytes: {}", loaded.target.log());
    assert_eq!(sums(loaded.lines.iter().map(String::as_str)), model.expected(&["hot"]), "{}", loaded.target.log());
}

#[test]
fn bytes_that_are_not_uploaded_from_the_mapping_are_taken_as_they_come() {
    let model = Model::new(2);
    let expected = model.expected(&["read"]);
    for (option, times) in [("read", 1), ("no-map", 0), ("no-map-again", 1)] {
        let world = world("32MiB", "on");
        let loaded = Loaded::start(&world, "mapped-like", &model, &[option]);
        assert_eq!(bytes_in(&loaded.map(), HOME), 0, "{option}: {}", loaded.target.log());
        let log = loaded.finish(&expected);
        assert_eq!(log.matches("in the page cache of the model file").count(), times, "{option}: {log}");
    }
}

/// Where each tensor is, from the first one on.
fn places(printed: &str) -> Vec<u64> {
    let address = |line: &str| line.strip_prefix("tensor ")?.split(' ').nth(1)?.parse::<u64>().ok();
    let all: Vec<_> = printed.lines().filter_map(address).collect();
    all.iter().map(|at| at - all[0]).collect()
}

#[test]
fn nothing_is_put_elsewhere_with_the_feature_off_or_where_ggmls_calls_are_not_seen() {
    let model = Model::new(2);
    let expected = model.expected(&[]);
    let plain = run(&World::new().vram("512MiB"), "mapped-like", &model, &[]).0;
    let (shifted, _) = run(&world("32MiB", "on"), "mapped-like", &model, &[]);
    assert_ne!(places(&plain), places(&shifted));
    for (program, page_cache, option) in [
        ("mapped-like", "off", "again"),
        ("mapped-sizes", "on", "again"),
        ("mapped-bare", "on", "again"),
        ("mapped-like", "on", "no-map"),
    ] {
        let (printed, log) = run(&world("32MiB", page_cache), program, &model, &[option]);
        assert_eq!(places(&printed), places(&plain), "{program} {page_cache} {option}");
        assert!(!log.contains("in the page cache of the model file"), "{program} {page_cache}: {log}");
        assert_eq!(sums(printed.lines())[..expected.len()], expected);
    }
}

#[test]
fn a_driver_that_does_not_register_the_pages_gets_ram() {
    let model = Model::new(2);
    let expected = model.expected(&[]);
    let never = world("32MiB", "on").env("SIMGPU_HOST_REGISTER", "fail");
    let loaded = Loaded::start(&never, "mapped-like", &model, &[]);
    assert_eq!(bytes_in(&loaded.map(), HOME), 0);
    assert!(loaded.finish(&expected).contains("weights are not read in the page cache"));

    let sometimes = "cuMemHostRegister:2:2,cuMemHostRegister:5:999,cuMemHostGetDevicePointer:4:1";
    let sometimes = world("32MiB", "on").env("SIMGPU_FAIL", sometimes);
    let loaded = Loaded::start(&sometimes, "mapped-like", &model, &[]);
    assert!(bytes_in(&loaded.map(), HOME) > 32 << 20);
    assert!(loaded.target.log().contains("was not registered: status 999"), "{}", loaded.target.log());
    loaded.finish(&expected);
}

#[test]
fn a_file_that_was_just_written_is_not_believed() {
    let model = Model::new(1);
    let file = File::options().write(true).open(&model.parts[0]).expect("our own");
    file.set_modified(SystemTime::now() + Duration::from_secs(1)).expect("our own");
    let world = world("32MiB", "on");
    let loaded = Loaded::start(&world, "mapped-like", &model, &[]);
    assert_eq!(bytes_in(&loaded.map(), HOME), 0);
    loaded.finish(&model.expected(&[]));
}

#[test]
fn a_file_that_is_replaced_by_another_name_goes_on_being_read() {
    let model = Model::new(1);
    let expected = [model.expected(&[]), model.expected(&[])].concat();
    let world = world("16MiB", "on");
    let mut loaded = Loaded::start(&world, "mapped-like", &model, &["again"]);
    loaded.until("again");
    let new = model.parts[0].with_extension("new");
    write(&new, 9);
    fs::rename(&new, &model.parts[0]).expect("our own");
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(loaded.record().files_changed.load(Relaxed), 0);
    loaded.finish(&expected);
}

#[test]
fn a_file_that_is_changed_or_cut_off_in_place_is_reported_at_the_next_launches() {
    type Change = (&'static str, fn(&File));
    let changes: [Change; 2] = [
        ("written", |file| file.write_all_at(b"GGUF", 0).expect("our own")),
        // The last granule is not the file's, so that nothing is missing.
        ("cut off", |file| file.set_len(file.metadata().expect("our own").len() - 32).expect("our own")),
    ];
    for (name, change) in changes {
        let model = Model::new(1);
        let expected = model.expected(&[]);
        let world = world("16MiB", "on");
        let mut loaded = Loaded::start(&world, "mapped-like", &model, &["again"]);
        loaded.until("again");
        assert!(!loaded.target.log().contains("changed while weights are read"));
        change(&File::options().write(true).open(&model.parts[0]).expect("our own"));
        std::thread::sleep(Duration::from_millis(1100));
        loaded.until("ready");
        let log = loaded.target.log();
        assert_eq!(log.matches("changed while weights are read").count(), 1, "{name}: {log}");
        assert_eq!(loaded.record().files_changed.load(Relaxed), 1);
        assert_eq!(loaded.status()["model_files_changed"], 1);
        // Neither change is one of bytes that are weights.
        assert_eq!(sums(loaded.lines.iter().map(String::as_str)), [&expected[..], &expected[..]].concat());
    }
}

#[test]
fn gb_launch_turns_it_on() {
    let model = Model::new(1);
    let world = World::new().vram("512MiB").env(settings::THRESHOLD, "2MiB").env(settings::CHUNK, "2MiB");
    let map = world.file("map.json").display().to_string();
    let flags = ["--vram", "16MiB", "--ram", "1GiB", "--stream", "off", "--page-cache", "on", "--map", &map];
    let world = world.launched(&flags);
    let loaded = Loaded::start(&world, "mapped-like", &model, &[]);
    assert!(bytes_in(&loaded.map(), HOME) > 16 << 20);
    loaded.finish(&model.expected(&[]));
}
