//! What the hook learns of a model from llama.cpp's own libraries, against the model's own table.
#![cfg(target_arch = "x86_64")]

use greenboost_contract::settings::{PAGE_CACHE, TENSORS};
use greenboost_gguf::write::Writer;
use greenboost_gguf::{Model, TensorType};
use integration_tests::{World, artefacts};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const EMBEDDING: u64 = 256;
const LAYERS: u32 = 3;

/// A small model that llama.cpp accepts: right in shape, zeroes in content. Some of its types are repacked for this CPU
/// (Q4_0), others are read in the mapped file.
fn model(file: &Path, ff: u64) {
    let (vocabulary, half) = (64, EMBEDDING / 2);
    let mut writer = Writer::default()
        .text("general.architecture", "llama")
        .number("llama.context_length", 128)
        .number("llama.embedding_length", EMBEDDING as u32)
        .number("llama.block_count", LAYERS)
        .number("llama.feed_forward_length", ff as u32)
        .number("llama.attention.head_count", 4)
        .number("llama.attention.head_count_kv", 2)
        .number("llama.vocab_size", vocabulary as u32)
        .raw("llama.attention.layer_norm_rms_epsilon", 6, &1e-5f32.to_le_bytes())
        .text("tokenizer.ggml.model", "none")
        .tensor("token_embd.weight", &[EMBEDDING, vocabulary], "Q6_K")
        .tensor("output_norm.weight", &[EMBEDDING], "F32")
        .tensor("output.weight", &[EMBEDDING, vocabulary], "Q8_0");
    for layer in 0..LAYERS {
        let kind = ["Q4_0", "Q4_K", "F16"][layer as usize];
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        writer = writer
            .tensor(&name("attn_norm"), &[EMBEDDING], "F32")
            .tensor(&name("attn_q"), &[EMBEDDING, EMBEDDING], kind)
            .tensor(&name("attn_k"), &[EMBEDDING, half], kind)
            .tensor(&name("attn_v"), &[EMBEDDING, half], "Q5_K")
            .tensor(&name("attn_output"), &[EMBEDDING, EMBEDDING], kind)
            .tensor(&name("ffn_norm"), &[EMBEDDING], "F32")
            .tensor(&name("ffn_gate"), &[EMBEDDING, ff], kind)
            .tensor(&name("ffn_up"), &[EMBEDDING, ff], "IQ4_XS")
            .tensor(&name("ffn_down"), &[ff, EMBEDDING], "Q6_K");
    }
    writer.save(file).expect("the model");
    // What was just written is not believed to stay as it is.
    let written = SystemTime::now() - Duration::from_secs(60);
    let file = fs::File::options().write(true).open(file).expect("our own");
    file.set_modified(written).expect("our own");
}

/// A line of the hook's list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    name: String,
    /// Bytes, bytes that arrived, place in the file: what the model's own table tells.
    told: Told,
    at: u64,
    device: String,
    file: String,
}

type Told = (u64, u64, u64);

impl Known {
    fn of(line: &str) -> Self {
        let parts: Vec<_> = line.split('\t').collect();
        let [name, at, bytes, device, arrived, offset, file] = parts[..] else { panic!("a line: {line:?}") };
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("a number: {text:?} in {line:?}"));
        Self {
            name: name.to_owned(),
            told: (number(bytes), number(arrived), number(offset)),
            at: number(at),
            device: device.to_owned(),
            file: file.to_owned(),
        }
    }
}

/// Loads a model in this world with these options. Answers its file, and what the hook knew of it at the end.
fn load(world: World, libraries: &Path, options: &[&str]) -> (World, PathBuf, Vec<Known>) {
    load_with(512, world, libraries, options)
}

/// The same, of a model with so wide feed-forward layers.
fn load_with(ff: u64, world: World, libraries: &Path, options: &[&str]) -> (World, PathBuf, Vec<Known>) {
    let (file, list) = (world.file("model.gguf"), world.file("tensors"));
    let world = world.env(TENSORS, &list);
    model(&file, ff);
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let (folder, path) = (text(libraries), text(&file));
    let arguments = [&[folder.as_str(), &path], options].concat();
    let outcome = world.run_with("llama-real", &arguments).ok();
    assert!(outcome.stdout.contains("loaded"), "{}", outcome.report());
    let list = fs::read_to_string(list).unwrap_or_else(|error| panic!("no list: {error}\n{}", outcome.report()));
    (world, file, list.lines().map(Known::of).collect())
}

#[test]
fn every_tensor_of_a_model_is_known_as_the_models_own_table_has_it() {
    let Some(libraries) = artefacts::artefacts().llama_libraries() else { return };
    for world in [World::new(), World::new().no_driver()] {
        let (_world, file, known) = load(world.hooked(), &libraries, &[]);
        let table = Model::open(&file).expect("the model's own table");
        let wanted: BTreeMap<_, Told> =
            table.tensors.iter().map(|it| (it.name.clone(), (it.bytes, it.bytes, it.offset))).collect();
        assert!(known.iter().all(|it| Path::new(&it.file) == file), "another file: {known:?}");
        let by_name: BTreeMap<_, _> = known.iter().map(|it| (it.name.clone(), it.told)).collect();
        assert_eq!(known.len(), by_name.len(), "a tensor is known twice: {known:?}");
        assert_eq!(by_name, wanted);
        // Both ways of loading were seen: tensors where the file is mapped, one behind the other as it has them, and
        // tensors that were copied elsewhere: how a processor likes them best, and each kind has its own name for that.
        let (mapped, copied): (Vec<_>, Vec<_>) = known.iter().partition(|it| it.device == "CPU_Mapped");
        assert!(
            !copied.is_empty() && copied.iter().all(|it| ["CPU", "AMX"].iter().any(|cpu| it.device.starts_with(cpu))),
            "{copied:?}"
        );
        let base = |it: &&Known| it.at - it.told.2;
        assert!(mapped.len() > 5 && mapped.iter().all(|it| base(it) == base(&mapped[0])), "{mapped:?}");
        assert!(copied.iter().all(|it| base(it) != base(&mapped[0])), "{copied:?}");
    }
}

#[test]
fn a_page_more_for_large_weights_is_counted_and_taken_by_ggml_itself() {
    let Some(libraries) = artefacts::artefacts().llama_libraries() else { return };
    // Behind a large weight of those that are copied to where a processor likes them best.
    let behind = |page_cache: &str| {
        let world = World::new().hooked().env(PAGE_CACHE, page_cache);
        let (_world, _, known) = load_with(1 << 16, world, &libraries, &[]);
        let mut copied: Vec<_> = known.into_iter().filter(|it| it.device != "CPU_Mapped").collect();
        copied.sort_by_key(|it| it.at);
        let pairs = copied.windows(2).filter(|pair| pair[0].told.0 >= 8 << 20 && pair[0].device == pair[1].device);
        let gaps: Vec<_> = pairs.map(|pair| pair[1].at - pair[0].at - pair[0].told.0).collect();
        // Another buffer is further away.
        let gaps: Vec<_> = gaps.into_iter().filter(|gap| *gap < 1 << 20).collect();
        assert!(!gaps.is_empty(), "{copied:?}");
        gaps
    };
    let more: Vec<_> = behind("off").iter().map(|gap| gap + 4096).collect();
    assert_eq!(behind("on"), more);
}

#[test]
fn without_the_layer_that_stands_between_libraries_no_tensor_is_known() {
    let Some(libraries) = artefacts::artefacts().llama_libraries() else { return };
    let (_world, _, known) = load(World::new().layers("inline,preload").hooked(), &libraries, &[]);
    assert_eq!(known, []);
}

#[test]
fn a_model_that_was_freed_leaves_nothing_behind() {
    let Some(libraries) = artefacts::artefacts().llama_libraries() else { return };
    let (_world, _, known) = load(World::new().hooked(), &libraries, &["free"]);
    assert_eq!(known, []);
}

#[test]
fn every_type_of_ggml_has_the_size_that_ggml_says() {
    let Some(libraries) = artefacts::artefacts().llama_libraries() else { return };
    let path = CString::new(libraries.join("libggml-base.so").into_os_string().into_encoded_bytes()).expect("a path");
    // SAFETY: the library initialises tables of its own and nothing else.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!library.is_null(), "{path:?} cannot be opened");
    let find = |name: &CStr| {
        // SAFETY: the library stays open.
        let found = unsafe { libc::dlsym(library, name.as_ptr()) };
        assert!(!found.is_null(), "{name:?}");
        found
    };
    // SAFETY: as ggml.h declares them; an enum is an int.
    let (name, size, block) = unsafe {
        (
            std::mem::transmute::<*mut libc::c_void, extern "C" fn(c_int) -> *const c_char>(find(c"ggml_type_name")),
            std::mem::transmute::<*mut libc::c_void, extern "C" fn(c_int) -> usize>(find(c"ggml_type_size")),
            std::mem::transmute::<*mut libc::c_void, extern "C" fn(c_int) -> i64>(find(c"ggml_blck_size")),
        )
    };
    let mut known = Vec::new();
    // Of numbers behind its last type ggml must not be asked.
    let last = TensorType::ALL.iter().map(|it| it.id).max().expect("types");
    for id in 0..=last as c_int {
        let text = name(id);
        // Those that were types once have blocks of nothing.
        if text.is_null() || block(id) == 0 {
            continue;
        }
        // SAFETY: a constant of the library's.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy().to_uppercase();
        known.push((id as u32, text, block(id) as u64, size(id) as u64));
    }
    let ours: Vec<_> = TensorType::ALL.iter().map(|it| (it.id, it.name.to_owned(), it.block, it.bytes)).collect();
    assert_eq!(ours, known);
}
