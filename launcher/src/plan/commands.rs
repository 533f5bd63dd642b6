//! How to get what a plan chose: llama-server's options, each with its variable, and what Ollama needs.

use super::Plan;
use super::facts::KvTypes;
use super::predict::{Prediction, Way, override_pattern};
use greenboost_contract::format_size;
use greenboost_contract::planned::DISABLE_GRAPHS;
use greenboost_contract::settings::STREAM;

/// An option of llama-server with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// `-c`
    pub option: &'static str,
    /// Other spellings, which a user may have given.
    pub long: &'static [&'static str],
    /// `LLAMA_ARG_CTX_SIZE`
    pub variable: &'static str,
    /// `8192`
    pub value: String,
}

/// More than any model has: all layers.
const ALL_LAYERS: u64 = 999;

/// llama-server's options for a prediction.
pub fn arguments(plan: &Plan, prediction: &Prediction) -> Vec<Argument> {
    let mut list = Vec::new();
    let mut add = |option, long, variable, value: String| list.push(Argument { option, long, variable, value });
    let placement = &prediction.placement;
    let layers = placement.gpu_layers.filter(|layers| *layers <= plan.layers).unwrap_or(ALL_LAYERS);
    add("-c", &["--ctx-size"], "LLAMA_ARG_CTX_SIZE", plan.setting.context.to_string());
    // Left to llama-server unless asked for: its own choice, four that share the context, takes no more memory, and one
    // would make others wait.
    if let Some(parallel) = plan.wishes.parallel {
        add("-np", &["--parallel"], "LLAMA_ARG_N_PARALLEL", parallel.to_string());
    }
    add("-ub", &["--ubatch-size"], "LLAMA_ARG_UBATCH", prediction.ubatch.to_string());
    add("-ngl", &["--gpu-layers", "--n-gpu-layers"], "LLAMA_ARG_N_GPU_LAYERS", layers.to_string());
    if let Some(cpu_moe) = placement.cpu_moe {
        add("-ncmoe", &["--n-cpu-moe"], "LLAMA_ARG_N_CPU_MOE", cpu_moe.to_string());
    }
    if !placement.cpu_layers.is_empty() {
        let pattern = override_pattern(&placement.cpu_layers, plan.experts.0 > 0);
        add("-ot", &["--override-tensor"], "LLAMA_ARG_OVERRIDE_TENSOR", pattern);
    }
    let kv = plan.setting.kv;
    if is_quantised(kv) {
        add("-fa", &["--flash-attn"], "LLAMA_ARG_FLASH_ATTN", "on".to_owned());
        add("-ctk", &["--cache-type-k"], "LLAMA_ARG_CACHE_TYPE_K", kv.k.name.to_lowercase());
        add("-ctv", &["--cache-type-v"], "LLAMA_ARG_CACHE_TYPE_V", kv.v.name.to_lowercase());
    }
    if prediction.way.reads_file(plan.experts.0 > 0) {
        add("-lm", &["--load-mode"], "LLAMA_ARG_LOAD_MODE", "none".to_owned());
    }
    if prediction.way.uses_cpu()
        && let Some(threads) = plan.rig.threads
    {
        add("-t", &["--threads"], "LLAMA_ARG_THREADS", threads.to_string());
    }
    list
}

/// llama-server's options for a model that has to be in VRAM whole or not at all.
pub fn insist_on_vram() -> Vec<Argument> {
    let argument = |option, long, variable, value: String| Argument { option, long, variable, value };
    vec![
        argument("-ngl", &["--gpu-layers", "--n-gpu-layers"], "LLAMA_ARG_N_GPU_LAYERS", ALL_LAYERS.to_string()),
        argument("-fit", &["--fit"], "LLAMA_ARG_FIT", "off".to_owned()),
    ]
}

/// Whether llama.cpp has to be told about the KV cache.
fn is_quantised(kv: KvTypes) -> bool {
    kv.k.name != "F16" || kv.v.name != "F16"
}

/// The command line that runs the model this way.
pub fn llama_server(plan: &Plan, prediction: &Prediction) -> String {
    let model = quoted(&plan.path.display().to_string());
    let arguments: Vec<String> = arguments(plan, prediction)
        .iter()
        .map(|option| format!("{} {}", option.option, quoted(&option.value)))
        .collect();
    format!("{}llama-server -m {model} {}", launcher(plan, prediction), arguments.join(" "))
}

/// What goes in front of the command: nothing where GreenBoost would have nothing to do.
fn launcher(plan: &Plan, prediction: &Prediction) -> String {
    if matches!(prediction.way, Way::Vram | Way::Offload) {
        return String::new();
    }
    let row = prediction.way.row();
    let size = |option: &str, bytes: Option<u64>| bytes.map_or_else(String::new, |bytes| format!("{option} {bytes} "));
    let ring = plan.wishes.ring.filter(|_| row.has_ring).or_else(|| plan.ring(prediction));
    // Streaming is what the profiles start from.
    let switches = row.sets.iter().filter(|set| **set != (STREAM, "on"));
    let switches = switches
        .map(|(name, value)| format!("{} {value} ", if *name == STREAM { "--stream" } else { "--host-copy-prefetch" }));
    let direct = if prediction.direct { format!("{DISABLE_GRAPHS}=1 ") } else { String::new() };
    format!(
        "{direct}gb-launch {}{}{}{}",
        size("--vram", plan.wishes.vram),
        size("--ram", plan.wishes.ram),
        size("--ring", ring),
        switches.collect::<String>()
    )
}

/// The environment for `ollama serve`, and the lines of a Modelfile.
pub fn ollama(plan: &Plan, prediction: &Prediction) -> (String, Vec<String>) {
    let setting = &plan.setting;
    let mut variables = vec![
        format!("OLLAMA_CONTEXT_LENGTH={}", setting.context / setting.parallel.max(1)),
        format!("OLLAMA_NUM_PARALLEL={}", setting.parallel),
    ];
    if is_quantised(setting.kv) {
        variables.push("OLLAMA_FLASH_ATTENTION=1".to_owned());
        variables.push(format!("OLLAMA_KV_CACHE_TYPE={}", setting.kv.k.name.to_lowercase()));
    }
    // What Ollama has no name for reaches its llama-server through the environment.
    for argument in arguments(plan, prediction) {
        if matches!(argument.option, "-ncmoe" | "-ot" | "-lm") {
            variables.push(format!("{}={}", argument.variable, quoted(&argument.value)));
        }
    }
    let serve = format!("{} {}ollama serve", variables.join(" "), launcher(plan, prediction));
    let layers = prediction.placement.gpu_layers.unwrap_or(ALL_LAYERS).min(ALL_LAYERS);
    let modelfile = vec![format!("PARAMETER num_gpu {layers}"), format!("PARAMETER num_batch {}", prediction.ubatch)];
    (serve, modelfile)
}

/// A path as a shell takes it.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%,=".contains(&byte);
    if text.bytes().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// One line for a log: what was chosen and what to expect.
pub fn line(plan: &Plan, prediction: &Prediction) -> String {
    let speed = match (prediction.prefill, prediction.decode) {
        (Some(prompt), Some(answer)) => format!("about {prompt:.0} prompt and {answer:.0} answer tokens a second"),
        _ => "how fast is not known".to_owned(),
    };
    let (vram, ram) = (prediction.placement.vram(), prediction.placement.ram());
    let shared = match prediction.placement.cpu_layers.len() {
        0 => String::new(),
        layers => format!(" (the CPU computes in {layers} of {} layers)", plan.layers),
    };
    let size = match ram {
        0 => format_size(vram),
        _ => format!("{} in VRAM and {} outside", format_size(vram), format_size(ram)),
    };
    format!("{}: {}{shared}, {size}, {speed}", plan.name, prediction.way.row().name)
}

#[cfg(test)]
mod tests {
    #[test]
    fn paths_are_quoted_where_a_shell_needs_it() {
        assert_eq!(super::quoted("/a/b-1.gguf"), "/a/b-1.gguf");
        assert_eq!(super::quoted("/my models/it's.gguf"), r"'/my models/it'\''s.gguf'");
    }
}
