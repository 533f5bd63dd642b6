//! Headers that are right.

use greenboost_gguf::write::Writer;
use greenboost_gguf::{Model, Value, read};
use std::io::Cursor;
use tempfile::tempdir;

fn small() -> Writer {
    Writer::default()
        .text("general.architecture", "llama")
        .number("llama.block_count", 2)
        .raw("negative", 5, &(-3i32).to_le_bytes())
        .raw("half", 12, &0.5f64.to_le_bytes())
        .raw("yes", 7, &[1])
        .numbers("llama.attention.head_count_kv", &[8, 4])
        .texts("tokenizer.ggml.tokens", 1000)
        .tensor("token_embd.weight", &[256, 10], "Q6_K")
        .tensor("blk.0.ffn_up_exps.weight", &[32, 3, 5], "MXFP4")
        .tensor("output_norm.weight", &[7], "F32")
}

#[test]
fn keys_and_tensors_are_read_in_versions_2_and_3() {
    for version in [2, 3] {
        let (header, data) = Writer { version, ..small() }.header();
        let length = header.len() as u64 + data;
        let read = read(Cursor::new(&header), length).expect("header");
        assert_eq!((read.version, read.data, read.alignment), (version, header.len() as u64, 32));
        let meta = &read.metadata;
        assert_eq!(meta.text("general.architecture"), Some("llama"));
        assert_eq!(meta.number("llama.block_count"), Some(2));
        assert_eq!(meta.get("negative"), Some(&Value::Signed(-3)));
        assert_eq!(meta.number("negative"), None);
        assert_eq!(meta.get("half"), Some(&Value::Float(0.5)));
        assert_eq!(meta.get("yes"), Some(&Value::Bool(true)));
        let heads = Value::Array(vec![Value::Unsigned(8), Value::Unsigned(4)]);
        assert_eq!(meta.get("llama.attention.head_count_kv"), Some(&heads));
        assert_eq!(meta.get("tokenizer.ggml.tokens"), Some(&Value::Skipped(1000)));
        assert_eq!(meta.length("tokenizer.ggml.tokens"), Some(1000));
        let places: Vec<_> = read.tensors.iter().map(|tensor| (tensor.bytes, tensor.offset - read.data)).collect();
        assert_eq!(places, [(2100, 0), (255, 2112), (28, 2368)]);
        assert_eq!(read.tensors[1].shape, [32, 3, 5, 1]);
        assert_eq!((read.tensors[1].kind.name, read.tensors[1].weights()), ("MXFP4", 480));
    }
}

#[test]
fn another_alignment_moves_the_data() {
    let writer = Writer { alignment: 4096, ..Writer::default() }
        .number("general.alignment", 4096)
        .tensor("a", &[1], "F32")
        .tensor("b", &[1], "F32");
    let (header, data) = writer.header();
    let read = read(Cursor::new(&header), header.len() as u64 + data).expect("header");
    assert_eq!((read.data, read.tensors[1].offset), (4096, 8192));
}

#[test]
fn a_long_string_is_skipped_and_what_follows_is_read() {
    let writer = Writer::default().text("long", &"x".repeat(1 << 20)).number("after", 7);
    let (header, _) = writer.header();
    let read = read(Cursor::new(&header), header.len() as u64).expect("header");
    assert_eq!((read.metadata.length("long"), read.metadata.number("after")), (Some(1 << 20), Some(7)));
}

fn part(number: u16, count: u16, tensor: &str) -> Writer {
    Writer::default()
        .raw("split.no", 2, &number.to_le_bytes())
        .raw("split.count", 2, &count.to_le_bytes())
        .raw("split.tensors.count", 5, &i32::from(count).to_le_bytes())
        .text("general.architecture", if number == 0 { "llama" } else { "other" })
        .tensor(tensor, &[256], "Q4_K")
}

#[test]
fn a_split_model_is_opened_by_any_of_its_parts() {
    let folder = tempdir().expect("folder");
    let path = |part| folder.path().join(format!("m-{part:05}-of-00003.gguf"));
    for (number, tensor) in ["a", "b", "c"].iter().enumerate() {
        part(number as u16, 3, tensor).save(&path(number + 1)).expect("written");
    }
    for opened in 1..=3 {
        let model = Model::open(&path(opened)).expect("model");
        let found: Vec<_> = model.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.file)).collect();
        assert_eq!(found, [("a", 0), ("b", 1), ("c", 2)]);
        assert_eq!(model.metadata.text("general.architecture"), Some("llama"));
        assert_eq!(model.files[2].path, path(3));
        assert_eq!(model.bytes(), model.files.iter().map(|file| file.bytes).sum::<u64>());
    }
}

#[test]
fn a_split_model_with_a_wrong_part_says_which() {
    let folder = tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name);
    let first = path("m-00001-of-00002.gguf");
    part(0, 2, "a").save(&first).expect("written");
    let error = |opened: &std::path::Path| Model::open(opened).expect_err("an error").to_string();
    let missing = error(&first);
    assert!(missing.contains("m-00002-of-00002.gguf") && missing.contains("cannot be read"), "{missing}");

    for (second, words) in [
        (part(0, 2, "b"), "does not say that it is part 2 of 2"),
        (part(1, 2, "a"), "another part has tensor \"a\" too"),
        (part(1, 2, "b").tensor("c", &[1], "F32"), "2 tensors where all parts together have 3"),
    ] {
        second.save(&path("m-00002-of-00002.gguf")).expect("written");
        let text = error(&first);
        assert!(text.contains(words) && text.contains("Keep all parts"), "{text}");
    }
    let renamed = path("model.gguf");
    std::fs::rename(&first, &renamed).expect("renamed");
    assert!(error(&renamed).contains("does not end in \"-00001-of-00002.gguf\""));
}
