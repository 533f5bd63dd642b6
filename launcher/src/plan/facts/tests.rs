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

/// Tokens that conversations share.
fn shared(tokens: u64, slots: u64) -> ContextParams {
    ContextParams::new(tokens, 512, f16()).with_slots(slots, true)
}

/// The window of a layer, if it has one.
fn window(cache: &Cache, layer: usize) -> Option<u64> {
    match cache.layers[layer].rows.first()?.kept {
        Kept::Window(window) => Some(window),
        _ => None,
    }
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
        ("blk.0.ffn_up.7.weight", Class::Experts, Some(0)),
        ("blk.0.ffn_up_chexps.weight", Class::Experts, Some(0)),
        ("blk.0.ffn_norm_exps.weight", Class::Norm, Some(0)),
        ("blk.0.ffn_gate_tid2eid.weight", Class::Router, Some(0)),
        ("blk.0.ffn_latent_down.weight", Class::Ffn, Some(0)),
        ("blk.0.indexer.attn_k.weight", Class::Attention, Some(0)),
        ("per_layer_model_proj.weight", Class::Ffn, Some(0)),
        ("output_hc_fn.weight", Class::Output, None),
        ("token_embd_norm.weight", Class::Norm, None),
        ("dec.blk.2.cross_attn_q.weight", Class::Attention, Some(2)),
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
    let normed = open(&writer.clone().tensor("output_norm.weight", &[256], "F32"));
    assert_eq!((normed.class_bytes(Class::Norm), normed.class_bytes(Class::Output)), (1024, facts.output.bytes));
    assert_eq!(normed.output.bytes, facts.output.bytes + 1024, "it goes where the output goes");
    assert_eq!(facts.layers[0].of(Class::Attention), Amount { bytes: 256 * 144, weights: 65536 });
    assert_eq!(facts.layers[1].experts(), Amount { bytes: 65536 / 32 * 34, weights: 65536 });
    assert_eq!(facts.layers[1].dense().bytes, 4096);
    // A tied embedding is in RAM once and in VRAM as the output.
    assert_eq!((facts.embedding, facts.output), (facts.embedding, facts.embedding));
    assert_eq!(facts.unused.bytes, 256 * 144, "a layer beyond block_count is not computed");
    assert_eq!(facts.active_share(), 0.5);
    assert_eq!(facts.computed().bytes(), 256 * 144 + 65536 / 32 * 34 + 4096 + facts.embedding.bytes);
}

#[test]
fn layers_that_only_guess_ahead_do_not_count() {
    let keys = [("nextn_predict_layers", 1), ("attention.head_count", 1), ("embedding_length", 64)];
    let facts = open(&shape("glm4moe", 3, &keys).tensor("blk.2.attn_q.weight", &[256], "F16"));
    assert_eq!((facts.layers.len(), facts.cache.layers.len(), facts.unused.bytes), (2, 2, 512));
    assert_eq!(facts.speculative, 1, "llama.cpp's -ngl counts them");
}

#[test]
fn grouped_queries_share_keys_and_values() {
    let keys = [("attention.head_count", 64), ("attention.head_count_kv", 8), ("embedding_length", 8192)];
    let cache = open(&shape("llama", 80, &keys)).cache;
    assert_eq!(cache.per_token(f16()), 327_680, "Llama-3-70B");
    assert_eq!(cache.bytes(&shared(8192, 4)), 8192 * 327_680, "conversations share the context");
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
        ("attention.value_length_mla", 128),
    ];
    assert_eq!(open(&shape("deepseek2", 61, &keys)).cache.per_token(f16()), 61 * 576 * 2, "DeepSeek-V3");
    // A file from before llama.cpp knew latent attention has an ordinary cache.
    let mut old = keys[..keys.len() - 2].to_vec();
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
    assert_eq!(gemma3.bytes(&shared(32768, 1)), 8 * 32768 * token + 40 * 1536 * token);
    assert_eq!(gemma3.bytes(&shared(1024, 1)), 48 * 1024 * token, "no window is longer than the context");
    let gemma2 = open(&shape("gemma2", 42, &keys[..4])).cache;
    assert_eq!(window(&gemma2, 0), Some(4096), "the file need not name the window");
    assert_eq!((window(&gemma2, 1), gemma2.per_token(f16())), (None, 21 * token));
    let gpt_oss = open(&shape("gpt-oss", 24, &keys)).cache;
    assert_eq!((window(&gpt_oss, 0), window(&gpt_oss, 1)), (Some(1024), None));
    let phi3 = open(&shape("phi3", 2, &keys)).cache;
    assert_eq!(window(&phi3, 0), None, "llama.cpp does not use the window there");
    let listed = shape("gemma4", 3, &keys)
        .numbers("gemma4.attention.sliding_window_pattern", &[1, 1, 0])
        .number("gemma4.attention.key_length_swa", 64)
        .number("gemma4.attention.value_length_swa", 64)
        .number("gemma4.attention.shared_kv_layers", 1);
    let listed = open(&listed).cache;
    assert_eq!((window(&listed, 0), listed.layers[0].rows[0].k), (Some(1024), 8 * 64));
    assert_eq!(listed.layers[2], LayerCache::default(), "the last layer uses an earlier one's");
    let (lfm2, smallthinker) = (open(&shape("lfm2", 2, &keys)).cache, open(&shape("smallthinker", 5, &keys)).cache);
    assert_eq!((window(&lfm2, 0), window(&lfm2, 1)), (Some(1024), Some(1024)), "every layer");
    let of_smallthinker: Vec<_> = (0..5).map(|layer| window(&smallthinker, layer)).collect();
    assert_eq!(of_smallthinker, [None, Some(4096), Some(4096), Some(4096), None], "the first sees everything");
    assert_eq!(window(&open(&shape("olmo3", 4, &keys)).cache, 0), Some(1024), "as Ollama calls olmo2");
}

#[test]
fn windows_are_kept_for_every_conversation_and_apart_for_each_that_has_its_own_cache() {
    let keys = [
        ("attention.head_count", 16),
        ("attention.head_count_kv", 8),
        ("attention.key_length", 128),
        ("attention.value_length", 128),
        ("attention.sliding_window", 1024),
    ];
    // Gemma-3-27B's layers are twice as wide.
    let (cache, token) = (open(&shape("gemma3", 62, &keys)).cache, 8 * 128 * 2 * 2);
    let (dense, windowed) = (10, 52);
    let bytes = |context: ContextParams| cache.bytes(&context) / token;
    assert_eq!(bytes(shared(8192, 1)), dense * 8192 + windowed * 1536);
    assert_eq!(bytes(shared(8192, 4)), dense * 8192 + windowed * (4 * 1024 + 512));
    assert_eq!(bytes(shared(8192, 4).with_slots(4, false)), 4 * (dense * 2048 + windowed * 1536));
    let full = ContextParams { full_windows: true, ..shared(8192, 4) };
    assert_eq!(bytes(full), 62 * 8192, "--swa-full");
    assert_eq!(bytes(shared(8000, 1)), bytes(shared(8192, 1)), "llama.cpp rounds");
}

#[test]
fn without_flash_attention_values_are_as_wide_as_the_widest() {
    let writer = shape("openelm", 2, &[("embedding_length", 64), ("attention.key_length", 64)])
        .numbers("openelm.attention.head_count_kv", &[1, 4])
        .number("openelm.attention.value_length", 32);
    let cache = open(&writer).cache;
    let context = shared(256, 1);
    assert_eq!(cache.bytes(&context), 256 * 2 * (5 * 64 + 5 * 32));
    let off = ContextParams { flash_attention: false, ..context };
    assert_eq!(cache.bytes(&off), 256 * 2 * (5 * 64 + 2 * 4 * 32));
}

#[test]
fn indexers_keep_a_key_for_every_token_beside_the_cache() {
    let keys = [
        ("attention.head_count", 128),
        ("attention.head_count_kv", 1),
        ("attention.key_length", 576),
        ("attention.value_length", 512),
        ("attention.key_length_mla", 192),
        ("attention.value_length_mla", 128),
        ("attention.indexer.key_length", 128),
        ("attention.indexer.top_k", 2048),
        ("leading_dense_block_count", 1),
        ("context_length", 4096),
    ];
    let per_token = |writer: &Writer| open(writer).cache.per_token(f16());
    assert_eq!(per_token(&shape("deepseek32", 3, &keys)), 3 * (576 + 128) * 2);
    let listed = shape("hy_v4", 3, &keys).numbers("hy_v4.attention.indexer.types", &[1, 0, 0]);
    assert_eq!(per_token(&listed), (3 * 576 + 128) * 2, "the others share the first's");
    let mut long = keys;
    long[9].1 = 1 << 20;
    assert_eq!(per_token(&shape("glm-dsa", 9, &long)), (9 * 576 + 4 * 128) * 2, "0, 1, 2, 6");
    // One that chooses blocks has values as well, and leaves out the dense layers.
    let blocks: Vec<_> = keys.iter().filter(|(key, _)| !key.ends_with("_mla")).copied().collect();
    let blocks = shape("minimax-m3", 3, &blocks).number("minimax-m3.attention.indexer.block_size", 128);
    assert_eq!(per_token(&blocks), (3 * (576 + 512) + 2 * (128 + 512)) * 2);
}

#[test]
fn compressed_caches_keep_a_window_and_summaries_for_each_conversation() {
    let keys = [
        ("attention.head_count", 8),
        ("attention.head_count_kv", 1),
        ("attention.key_length", 512),
        ("attention.sliding_window", 128),
        ("attention.indexer.key_length", 128),
        ("nextn_predict_layers", 1),
    ];
    let writer = shape("deepseek4", 4, &keys).numbers("deepseek4.attention.compress_ratios", &[0, 4, 128, 0]);
    // The block that guesses ahead is in the file, and then it has a window, too.
    let cache = open(&writer.tensor("blk.3.nextn.eh_proj.weight", &[1], "F32")).cache;
    let window = |layers: u64| layers * 768 * 512 * 2;
    let close = 2048 * (512 + 128) * 2 + 2 * 8 * 2 * (512 + 128) * 4;
    let wide = 256 * 512 * 2 + 2 * 128 * 512 * 4;
    assert_eq!(cache.bytes(&shared(8192, 1)), window(4) + close + wide);
    assert_eq!(cache.bytes(&shared(8192, 3)), 3 * (window(4) + close + wide), "apart even where all is shared");
}

#[test]
fn an_architecture_that_nobody_knows_has_the_most_it_can_need() {
    let keys = [
        ("attention.head_count", 4),
        ("attention.key_length", 64),
        ("attention.value_length", 64),
        ("attention.sliding_window", 128),
        ("ssm.conv_kernel", 4),
        ("ssm.inner_size", 64),
        ("ssm.state_size", 16),
    ];
    let cache = open(&shape("novel", 3, &keys).tensor("blk.0.ssm_in.weight", &[1], "F32")).cache;
    assert!(cache.is_upper_bound);
    assert_eq!(cache.per_token(f16()), 3 * 4 * 64 * 2 * 2, "all layers, all of the context");
    assert!(cache.layers[0].state > 0 && cache.layers[1].state == 0);
    // Where the file says it layer by layer there is nothing to guess.
    let listed = shape("novel", 3, &keys).numbers("novel.attention.sliding_window_pattern", &[1, 1, 0]);
    assert_eq!(open(&listed).cache.per_token(f16()), 4 * 64 * 2 * 2);
    assert!(!open(&shape("llama", 1, &keys)).cache.is_upper_bound);
    assert!(open(&shape("bert", 2, &keys)).cache.layers.is_empty(), "an encoder keeps nothing");
}

#[test]
fn linear_attention_of_kimi_keeps_its_convolutions_and_a_square_for_each_head() {
    let keys =
        [("embedding_length", 2304), ("attention.head_count", 32), ("ssm.conv_kernel", 4), ("kda.head_dim", 128)];
    let writer = shape("kimi-linear", 2, &keys).numbers("kimi-linear.attention.head_count_kv", &[0, 1]);
    let cache = open(&writer.tensor("blk.0.ssm_conv1d_q.weight", &[4], "F32")).cache;
    assert_eq!(cache.layers[0].state, (3 * 3 * 32 * 128 + 128 * 128 * 32) * 4);
    assert_eq!((cache.layers[0].rows.len(), cache.layers[1].rows.len()), (0, 1));
}

#[test]
fn experts_that_differ_by_layer_are_counted_by_their_weights() {
    let writer = shape("nemotron_h_moe", 2, &[("expert_count", 8)])
        .numbers("nemotron_h_moe.expert_used_count", &[2, 4])
        .numbers("nemotron_h_moe.expert_feed_forward_length", &[64, 32])
        .tensor("blk.0.ffn_up_exps.weight", &[64, 64, 8], "F16")
        .tensor("blk.1.ffn_up_exps.weight", &[64, 32, 8], "F16");
    let facts = open(&writer);
    assert_eq!(facts.experts_used, 4);
    assert!((facts.active_share() - (2.0 * 0.25 + 0.5) / 3.0).abs() < 1e-9, "{}", facts.active_share());
}

#[test]
fn state_space_layers_keep_a_state_for_each_conversation() {
    let keys = [("ssm.conv_kernel", 4), ("ssm.inner_size", 8192), ("ssm.state_size", 16), ("embedding_length", 4096)];
    let mamba = open(&shape("mamba", 1, &keys).tensor("blk.0.ssm_in.weight", &[256], "F16")).cache;
    let state = (3 * 8192 + 8192 * 16) * 4;
    assert_eq!((mamba.per_token(f16()), mamba.bytes(&shared(4096, 1))), (0, state));
    assert_eq!(mamba.bytes(&shared(4096, 3)), 3 * state);
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
    assert_eq!(next.bytes(&shared(1000, 1)), 1024 * 2048 + 3 * state);
    let falcon = shape("falcon-h1", 1, &keys).tensor("blk.0.ssm_in.weight", &[256], "F16");
    let falcon = open(&falcon.tensor("blk.0.attn_k.weight", &[256], "F16")).cache;
    assert_eq!(falcon.bytes(&shared(1000, 1)), 1024 * 2048 + state, "both side by side");
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
    let most = ContextParams { outputs: None, ..ContextParams::new(u64::MAX, u64::MAX, f16()) };
    for context in [most.with_slots(u64::MAX, true), most.with_slots(u64::MAX, false), most] {
        assert!(facts.cache.bytes(&context) > 1 << 60);
        assert!(facts.widths.bytes(&context) > 1 << 60);
    }
    let facts = open(&Writer::default());
    assert_eq!((facts.layers.len(), facts.architecture.as_str()), (0, ""));
}
