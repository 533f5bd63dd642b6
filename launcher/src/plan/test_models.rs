//! Models with the shapes of real ones, for tests: headers as the converter writes them, weights a hole.

use super::facts::Facts;
use greenboost_gguf::Model;
use greenboost_gguf::write::Writer;

/// The facts of a file that is gone again.
pub fn facts(writer: &Writer) -> Facts {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("model.gguf");
    writer.save(&path).expect("written");
    Facts::new(&Model::open(&path).expect("model"))
}

struct Shape {
    architecture: &'static str,
    layers: u64,
    width: u64,
    heads: u64,
    kv_heads: u64,
    ffn: u64,
    experts: u64,
    used: u64,
    vocabulary: u64,
}

fn write(shape: &Shape) -> Writer {
    let Shape { architecture, layers, width, heads, kv_heads, ffn, experts, used, vocabulary } = *shape;
    let mut writer = Writer::default().text("general.architecture", architecture).text("general.name", "test");
    for (key, value) in [
        ("block_count", layers),
        ("context_length", 40960),
        ("embedding_length", width),
        ("feed_forward_length", ffn),
        ("attention.head_count", heads),
        ("attention.head_count_kv", kv_heads),
        ("attention.key_length", 128),
        ("attention.value_length", 128),
        ("expert_count", experts),
        ("expert_used_count", used),
    ] {
        writer = writer.number(&format!("{architecture}.{key}"), value as u32);
    }
    writer = writer
        .tensor("token_embd.weight", &[width, vocabulary], "Q6_K")
        .tensor("output.weight", &[width, vocabulary], "Q6_K")
        .tensor("output_norm.weight", &[width], "F32");
    for layer in 0..layers {
        let name = |name: &str| format!("blk.{layer}.{name}.weight");
        writer = writer
            .tensor(&name("attn_norm"), &[width], "F32")
            .tensor(&name("ffn_norm"), &[width], "F32")
            .tensor(&name("attn_q"), &[width, heads * 128], "Q4_K")
            .tensor(&name("attn_k"), &[width, kv_heads * 128], "Q4_K")
            .tensor(&name("attn_v"), &[width, kv_heads * 128], "Q4_K")
            .tensor(&name("attn_output"), &[heads * 128, width], "Q4_K");
        writer = if experts == 0 {
            writer
                .tensor(&name("ffn_gate"), &[width, ffn], "Q4_K")
                .tensor(&name("ffn_up"), &[width, ffn], "Q4_K")
                .tensor(&name("ffn_down"), &[ffn, width], "Q4_K")
        } else {
            writer
                .tensor(&name("ffn_gate_inp"), &[width, experts], "F32")
                .tensor(&name("ffn_gate_exps"), &[width, ffn, experts], "Q4_K")
                .tensor(&name("ffn_up_exps"), &[width, ffn, experts], "Q4_K")
                .tensor(&name("ffn_down_exps"), &[ffn, width, experts], "Q4_K")
        };
    }
    writer
}

/// The dense model of docs/speed.md: 32B, Q4_K_M.
pub fn dense() -> Writer {
    let (layers, width, heads, kv_heads, ffn, vocabulary) = (64, 5120, 40, 8, 25600, 151_936);
    write(&Shape { architecture: "llama", layers, width, heads, kv_heads, ffn, experts: 0, used: 0, vocabulary })
}

/// The MoE model of docs/speed.md: 30B-A3B, Q4_K_M.
pub fn moe() -> Writer {
    let (layers, width, heads, kv_heads, ffn, vocabulary) = (48, 2048, 32, 4, 768, 151_936);
    write(&Shape { architecture: "qwen3moe", layers, width, heads, kv_heads, ffn, experts: 128, used: 8, vocabulary })
}
