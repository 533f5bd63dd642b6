//! What the plan counts for a context, against what llama.cpp's own library allocates: of small models, made of metadata
//! alone, of every architecture whose models can be made so.
#![cfg(target_arch = "x86_64")]

use greenboost_gguf::Model;
use greenboost_gguf::write::Writer;
use greenboost_launcher::plan::facts::{ContextParams, Facts, KvTypes};
use integration_tests::{World, artefacts};
use std::collections::BTreeMap;
use std::path::Path;

const MODELS: &str = include_str!("caches/models.txt");
const SHAPES: &str = include_str!("caches/shapes.txt");
/// llama.cpp says sizes in MiB, with two decimals.
const SAID: f64 = 1024.0 * 1024.0;
/// What all files have.
const COMMON: &str = "attention.layer_norm_rms_epsilon=1e-6 attention.layer_norm_epsilon=1e-6 \
                      attention.group_norm_epsilon=1e-6 attention.group_norm_groups=4";

/// A line of a table.
struct Row {
    name: String,
    writer: Writer,
}

/// A value, as the tables write it.
fn value(writer: Writer, key: &str, text: &str) -> Writer {
    // A list of one number ends with a comma.
    let parts = || text.split(',').filter(|part| !part.is_empty());
    let integers: Result<Vec<u32>, _> = parts().map(str::parse).collect();
    if let Some(longs) = text.strip_prefix("u64:") {
        let longs: Vec<u64> = longs.split(',').map(|number| number.parse().expect("u64")).collect();
        let head = [&10_u32.to_le_bytes()[..], &(longs.len() as u64).to_le_bytes()].concat();
        return writer.raw(key, 9, &[head, longs.iter().flat_map(|long| long.to_le_bytes()).collect()].concat());
    }
    match (text, integers) {
        ("true" | "false", _) => writer.raw(key, 7, &[u8::from(text == "true")]),
        (_, Ok(list)) if text.contains(',') => writer.numbers(key, &list),
        (_, Ok(one)) => writer.number(key, one[0]),
        _ => {
            let floats: Vec<f32> = parts().map(|number| number.parse().expect("a number")).collect();
            let bytes: Vec<u8> = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
            if floats.len() == 1 {
                return writer.raw(key, 6, &bytes);
            }
            let head = [&6_u32.to_le_bytes()[..], &(floats.len() as u64).to_le_bytes()].concat();
            writer.raw(key, 9, &[head, bytes].concat())
        }
    }
}

fn rows(table: &str) -> Vec<Row> {
    let mut groups = BTreeMap::new();
    let mut rows = Vec::new();
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        if let Some((name, keys)) = line.strip_prefix('@').and_then(|line| line.split_once(' ')) {
            groups.insert(name, keys);
            continue;
        }
        let parts: Vec<_> = line.split('|').map(str::trim).collect();
        let [name, architecture, layers, keys, tensors] = parts[..] else { panic!("five parts: {line}") };
        let mut writer = Writer::default()
            .text("general.architecture", architecture)
            .text("tokenizer.ggml.model", "none")
            .number(&format!("{architecture}.block_count"), layers.parse().expect("layers"));
        for key in ["alpha_n", "alpha_p", "beta", "eps"] {
            writer = value(writer, &format!("xielu.{key}"), "1e-6");
        }
        // What a row says itself counts more than what it shares, and later groups more than earlier ones.
        let words = COMMON.split(' ').chain(keys.split(' ').flat_map(|word| match word.strip_prefix('@') {
            Some(group) => groups.get(group).expect("a group").split(' ').collect(),
            None => vec![word],
        }));
        let values: BTreeMap<_, _> = words.filter_map(|word| word.split_once('=')).collect();
        for (key, text) in &values {
            writer = value(writer, &format!("{architecture}.{key}"), text);
        }
        let vocabulary = values.get("vocab_size").expect("a vocabulary").parse().expect("a number");
        writer =
            writer.tensor("token_embd.weight", &[32, vocabulary], "F32").tensor("blk.0.attn_norm.weight", &[32], "F32");
        for (layers, names) in tensors.split(';').filter_map(|part| part.split_once(':')) {
            for (layer, name) in
                layers.trim().split(',').flat_map(|layer| names.split_whitespace().map(move |name| (layer, name)))
            {
                let kind = if name.ends_with(".bias") { "" } else { ".weight" };
                writer = writer.tensor(&format!("blk.{layer}.{name}{kind}"), &[32], "F32");
            }
        }
        rows.push(Row { name: name.to_owned(), writer });
    }
    rows
}

fn context(tokens: u64, slots: u64, ubatch: u64, unified: bool) -> ContextParams {
    ContextParams::new(tokens, ubatch, KvTypes::both("f16").expect("F16")).with_slots(slots, unified)
}

/// As the fixture takes it.
fn spelled(context: &ContextParams) -> String {
    let ContextParams { tokens, slots, ubatch, unified, full_windows, flash_attention, .. } = context;
    let word = |is_there: bool, word: &'static str| if is_there { word } else { "" };
    format!(
        "{tokens}:{slots}:{ubatch}:{}{}{}",
        if *unified { "unified" } else { "apart" },
        word(*full_windows, ":swa-full"),
        word(!flash_attention, ":no-fa")
    )
}

/// What llama.cpp says of its buffers for each context: caches and states, each a number of MiB, and the compute buffer.
fn allocated(world: &World, libraries: &Path, file: &Path, contexts: &[ContextParams]) -> Vec<(Vec<f64>, f64)> {
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let words: Vec<_> = [text(libraries), text(file)].into_iter().chain(contexts.iter().map(spelled)).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let said = world.run_with("llama-cache", &words).ok();
    let sizes = |part: &str, of: &[&str]| {
        let lines = part.lines().filter(|line| of.iter().any(|of| line.contains(of)));
        let number = |line: &str| line.split('=').nth(1)?.split_whitespace().next()?.parse().ok();
        lines.filter_map(number).collect::<Vec<f64>>()
    };
    let of_context = |part: &str| {
        let compute = sizes(part, &["compute buffer size"]);
        assert_eq!(compute.len(), 1, "{}", said.report());
        (sizes(part, &["KV buffer size", "RS buffer size", "state buffer size"]), compute[0])
    };
    said.stdout.split("context\n").skip(1).map(of_context).collect()
}

#[test]
fn a_context_takes_what_llama_cpp_allocates_for_it() {
    let Some(libraries) = artefacts::artefacts().llama_libraries() else { return };
    let world = World::new();
    let plain = context(4096, 1, 512, true);
    let contexts = [
        plain,
        context(4096, 4, 512, true),
        context(4096, 4, 512, false),
        ContextParams { full_windows: true, ..context(3000, 2, 128, true) },
        ContextParams { flash_attention: false, ..context(2048, 1, 512, true) },
    ];
    let mut wrong = Vec::new();
    let rows = rows(MODELS);
    for Row { name, writer } in &rows {
        let file = world.file("model.gguf");
        writer.save(&file).expect("written");
        let cache = Facts::new(&Model::open(&file).expect("a model")).cache;
        assert!(!cache.is_upper_bound, "{name}");
        for (context, (sizes, _)) in contexts.iter().zip(allocated(&world, &libraries, &file, &contexts)) {
            let (ours, theirs) = (cache.bytes(context) as f64 / SAID, sizes.iter().sum::<f64>());
            if (ours - theirs).abs() > 0.01 * sizes.len().max(1) as f64 {
                wrong.push(format!(
                    "{name}: {ours:.2} MiB, and llama.cpp allocates {theirs:.2} ({sizes:?}) for {}",
                    spelled(context)
                ));
            }
        }
    }
    assert!(rows.len() > 100, "{}", rows.len());
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn scratch_is_what_llama_cpp_reserves_or_somewhat_more() {
    let Some(libraries) = artefacts::artefacts().llama_libraries() else { return };
    let world = World::new();
    let mut wrong = Vec::new();
    for Row { name, writer } in rows(SHAPES) {
        let file = world.file("model.gguf");
        writer.save(&file).expect("written");
        let widths = Facts::new(&Model::open(&file).expect("a model")).widths;
        let contexts = [context(4096, 4, 512, true), context(4096, 4, 2048, true), context(32768, 1, 512, true)];
        for (context, (_, theirs)) in contexts.iter().zip(allocated(&world, &libraries, &file, &contexts)) {
            let ours = widths.bytes(context) as f64 / SAID;
            eprintln!("{name}: {ours:.1} MiB, llama.cpp {theirs:.1}, {:+.1}%", (ours / theirs - 1.0) * 100.0);
            if !(-0.05..0.15).contains(&(ours / theirs - 1.0)) {
                wrong.push(format!(
                    "{name}: {ours:.1} MiB, and llama.cpp reserves {theirs:.1} for {}",
                    spelled(context)
                ));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}
