//! Facts of made-up files with the shapes of real models.

use super::*;
use greenboost_gguf::write::Writer;

fn open(writer: &Writer) -> Facts {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("model.gguf");
    writer.save(&path).expect("written");
    Facts::new(&Model::open(&path).expect("model"))
}

fn f16() -> KvTypes {
    KvTypes::both("f16").expect("F16")
}

/// A model with nothing but its keys and a norm a layer.
fn shape(architecture: &str, layers: u32, keys: &[(&str, u32)]) -> Writer {
    let key = |key: &str| format!("{architecture}.{key}");
    let mut writer = Writer::default().text("general.architecture", architecture).number(&key("block_count"), layers);
    for (name, value) in keys {
        writer = writer.number(&key(name), *value);
    }
    writer
}

#[test]
fn classes_come_from_names() {
    for (name, class, layer) in [
        ("token_embd.weight", Class::Embedding, None),
        ("per_layer_token_embd.weight", Class::Embedding, None),
        ("output.weight", Class::Output, None),
        ("output_norm.weight", Class::Norm, None),
        ("blk.3.attn_q.weight", Class::Attention, Some(3)),
        ("blk.3.attn_q_norm.weight", Class::Norm, Some(3)),
        ("blk.10.ssm_in.weight", Class::Attention, Some(10)),
        ("blk.0.ffn_norm.weight", Class::Norm, Some(0)),
        ("blk.0.ffn_gate.weight", Class::Ffn, Some(0)),
        ("blk.0.ffn_down_shexp.weight", Class::Ffn, Some(0)),
        ("blk.0.ffn_gate_inp.weight", Class::Router, Some(0)),
        ("blk.0.exp_probs_b.bias", Class::Router, Some(0)),
        ("blk.0.ffn_gate_up_exps.weight", Class::Experts, Some(0)),
        ("blk.61.nextn.eh_proj.weight", Class::Other, Some(61)),
        ("v.blk.0.attn_q.weight", Class::Other, None),
        ("mm.norm.weight", Class::Other, None),
    ] {
        assert_eq!(Class::of(name), (class, layer), "{name}");
    }
}

#[test]
fn weights_are_summed_by_class_and_layer() {
    let writer = shape("qwen3moe", 2, &[("expert_count", 4), ("expert_used_count", 2), ("nextn_predict_layers", 0)])
        .tensor("token_embd.weight", &[256, 100], "Q6_K")
        .tensor("blk.0.attn_q.weight", &[256, 256], "Q4_K")
        .tensor("blk.1.ffn_up_exps.weight", &[256, 64, 4], "Q8_0")
        .tensor("blk.1.ffn_gate_inp.weight", &[256, 4], "F32")
        .tensor("blk.2.attn_q.weight", &[256, 256], "Q4_K");
    let facts = open(&writer);
    assert_eq!(facts.layers[0].of(Class::Attention), Amount { bytes: 256 * 144, weights: 65536 });
    assert_eq!(facts.layers[1].experts(), Amount { bytes: 65536 / 32 * 34, weights: 65536 });
    assert_eq!(facts.layers[1].dense().bytes, 4096);
    // A tied embedding is in RAM once and in VRAM as the output.
    assert_eq!((facts.embedding, facts.output), (facts.embedding, facts.embedding));
    assert_eq!(facts.unused.bytes, 256 * 144, "a layer beyond block_count is not computed");
    assert_eq!((facts.vocabulary, facts.active_share()), (100, 0.5));
    assert_eq!(facts.computed().bytes(), 256 * 144 + 65536 / 32 * 34 + 4096 + facts.embedding.bytes);
}

#[test]
fn layers_that_only_guess_ahead_do_not_count() {
    let keys = [("nextn_predict_layers", 1), ("attention.head_count", 1), ("embedding_length", 64)];
    let facts = open(&shape("glm4moe", 3, &keys).tensor("blk.2.attn_q.weight", &[256], "F16"));
    assert_eq!((facts.layers.len(), facts.cache.layers.len(), facts.unused.bytes), (2, 2, 512));
}

#[test]
fn grouped_queries_share_keys_and_values() {
    let keys = [("attention.head_count", 64), ("attention.head_count_kv", 8), ("embedding_length", 8192)];
    let cache = open(&shape("llama", 80, &keys)).cache;
    assert_eq!(cache.per_token(f16()), 327_680, "Llama-3-70B");
    assert_eq!(cache.bytes(8192, 4, 512, f16()), 8192 * 327_680, "conversations share the context");
    assert_eq!(cache.per_token(KvTypes::both("q8_0").expect("type")), 174_080);
    assert_eq!(cache.per_token(KvTypes::both("q4_0").expect("type")), 92_160);
}

#[test]
fn heads_can_differ_by_layer() {
    let writer = shape(
        "openelm",
        3,
        &[("embedding_length", 1280), ("attention.key_length", 64), ("attention.value_length", 64)],
    )
    .numbers("openelm.attention.head_count", &[12, 16, 20])
    .numbers("openelm.attention.head_count_kv", &[3, 4, 5]);
    assert_eq!(open(&writer).cache.per_token(f16()), (3 + 4 + 5) * 64 * 2 * 2);
}

#[test]
fn latent_attention_keeps_one_vector() {
    let keys = [
        ("attention.head_count", 128),
        ("attention.head_count_kv", 1),
        ("attention.kv_lora_rank", 512),
        ("rope.dimension_count", 64),
        ("attention.key_length", 576),
        ("attention.value_length", 512),
        ("attention.key_length_mla", 192),
    ];
    assert_eq!(open(&shape("deepseek2", 61, &keys)).cache.per_token(f16()), 61 * 576 * 2, "DeepSeek-V3");
    // A file from before llama.cpp knew latent attention has an ordinary cache.
    let mut old = keys[..keys.len() - 1].to_vec();
    old[1].1 = 128;
    (old[4].1, old[5].1) = (192, 128);
    assert_eq!(open(&shape("deepseek2", 61, &old)).cache.per_token(f16()), 61 * 128 * (192 + 128) * 2);
}

#[test]
fn windows_bound_the_cache_of_most_layers() {
    let keys = [
        ("attention.head_count", 16),
        ("attention.head_count_kv", 8),
        ("attention.key_length", 256),
        ("attention.value_length", 256),
        ("attention.sliding_window", 1024),
        ("embedding_length", 3840),
    ];
    let token = 8 * 256 * 2 * 2;
    let gemma3 = open(&shape("gemma3", 48, &keys)).cache;
    assert_eq!(gemma3.per_token(f16()), 8 * token, "Gemma-3-12B: every sixth layer sees everything");
    assert_eq!(gemma3.bytes(32768, 1, 512, f16()), 8 * 32768 * token + 40 * 1536 * token);
    assert_eq!(gemma3.bytes(1024, 1, 512, f16()), 48 * 1024 * token, "no window is longer than the context");
    let gemma2 = open(&shape("gemma2", 42, &keys[..4])).cache;
    assert_eq!(gemma2.layers[0].window, Some(4096), "the file need not name the window");
    assert_eq!((gemma2.layers[1].window, gemma2.per_token(f16())), (None, 21 * token));
    let gpt_oss = open(&shape("gpt-oss", 24, &keys)).cache;
    assert_eq!((gpt_oss.layers[0].window, gpt_oss.layers[1].window), (Some(1024), None));
    let phi3 = open(&shape("phi3", 2, &keys)).cache;
    assert_eq!(phi3.layers[0].window, None, "llama.cpp does not use the window there");
    let listed = shape("gemma4", 3, &keys)
        .numbers("gemma4.attention.sliding_window_pattern", &[1, 1, 0])
        .number("gemma4.attention.key_length_swa", 64)
        .number("gemma4.attention.value_length_swa", 64)
        .number("gemma4.attention.shared_kv_layers", 1);
    let listed = open(&listed).cache;
    assert_eq!((listed.layers[0].window, listed.layers[0].k), (Some(1024), 8 * 64));
    assert_eq!(listed.layers[2], LayerCache::default(), "the last layer uses an earlier one's");
}

#[test]
fn state_space_layers_keep_a_state_for_each_conversation() {
    let keys = [("ssm.conv_kernel", 4), ("ssm.inner_size", 8192), ("ssm.state_size", 16), ("embedding_length", 4096)];
    let mamba = open(&shape("mamba", 1, &keys).tensor("blk.0.ssm_in.weight", &[256], "F16")).cache;
    let state = (3 * 8192 + 8192 * 16) * 4;
    assert_eq!((mamba.per_token(f16()), mamba.bytes(4096, 1, 512, f16())), (0, state));
    assert_eq!(mamba.bytes(4096, 3, 512, f16()), 3 * state);
}

#[test]
fn hybrids_have_both_kinds_of_layer() {
    let keys = [
        ("embedding_length", 2048),
        ("attention.head_count", 16),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 256),
        ("attention.value_length", 256),
        ("ssm.conv_kernel", 4),
        ("ssm.inner_size", 4096),
        ("ssm.state_size", 128),
        ("ssm.group_count", 16),
    ];
    let state = (3 * (4096 + 2 * 16 * 128) + 128 * 4096) * 4;
    let mut writer = shape("qwen3next", 4, &keys);
    for layer in 0..3 {
        // Linear attention has tensors of both kinds; its state is what counts.
        writer = writer.tensor(&format!("blk.{layer}.ssm_conv1d.weight"), &[4], "F32");
        writer = writer.tensor(&format!("blk.{layer}.attn_qkv.weight"), &[256], "F16");
    }
    let next = open(&writer.tensor("blk.3.attn_k.weight", &[256], "F16")).cache;
    assert_eq!(next.per_token(f16()), 2 * 256 * 2 * 2, "one layer in four has a KV cache");
    assert_eq!(next.bytes(1000, 1, 512, f16()), 1000 * 2048 + 3 * state);
    let falcon = open(&shape("falcon-h1", 1, &keys).tensor("blk.0.ssm_in.weight", &[256], "F16")).cache;
    assert_eq!(falcon.bytes(1000, 1, 512, f16()), 1000 * 2048 + state, "both side by side");
}

#[test]
fn nonsense_numbers_do_not_panic() {
    let most = u32::MAX;
    let keys: Vec<(&str, u32)> = [
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "embedding_length",
        "ssm.inner_size",
        "ssm.state_size",
        "ssm.group_count",
        "ssm.conv_kernel",
        "expert_used_count",
        "expert_feed_forward_length",
        "nextn_predict_layers",
    ]
    .map(|key| (key, most))
    .to_vec();
    let facts = open(&shape("llama", most, &keys).tensor("blk.0.ssm_in.weight", &[1], "F32"));
    assert_eq!(facts.layers.len(), 0);
    let facts = open(&shape("falcon-h1", 5, &keys[..10]).tensor("blk.0.ssm_in.weight", &[1], "F32"));
    assert!(facts.cache.bytes(u64::MAX, u64::MAX, u64::MAX, f16()) > 1 << 60);
    assert!(scratch(&facts, u64::MAX, u64::MAX) > 1 << 60);
    let facts = open(&Writer::default());
    assert_eq!((facts.layers.len(), facts.architecture.as_str()), (0, ""));
}
