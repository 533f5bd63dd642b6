//! How to get what a plan chose: llama-server's options, each with its variable, and what Ollama needs.

use super::facts::KvTypes;
use super::llama_options::{self as llama, LlamaOption};
use super::planned::Plan;
use super::predict::{Prediction, Strategy, override_pattern};
use greenboost_contract::format_size;
use greenboost_contract::planned::DISABLE_GRAPHS;
use greenboost_contract::settings::{HOST_COPY_PREFETCH, RING, RING_SHARE, STREAM};

/// An option of llama-server with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// The option.
    pub option: LlamaOption,
    /// `8192`; for an option that has no value, what turns it on as a variable.
    pub value: String,
}

/// Variables to set, each with its value.
pub type Variables = Vec<(&'static str, String)>;

/// More than any model has: all layers.
const ALL_LAYERS: u64 = 999;

impl Plan {
    /// llama-server's options for the chosen strategy. Where nothing may leave VRAM and the model does not fit, those that make
    /// it fail: by itself llama.cpp would leave layers to the CPU and be slow.
    pub fn arguments(&self) -> Vec<Argument> {
        match self.winner() {
            Some(winner) => arguments(self, winner),
            None if self.plan_options.no_spill => insist_on_vram(),
            None => Vec::new(),
        }
    }

    /// The variables it needs beside llama.cpp's own.
    pub fn settings(&self) -> Variables {
        let Some(winner) = self.winner() else { return Variables::new() };
        let sets = winner.strategy.row().sets.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let direct = winner.direct.then(|| (DISABLE_GRAPHS, "1".to_owned()));
        sets.chain(direct).chain(self.ring(winner).map(|bytes| (RING, bytes.to_string()))).collect()
    }

    /// The size of the ring, where it is another than the hook's own choice.
    fn ring(&self, prediction: &Prediction) -> Option<u64> {
        let (ring, own) = (prediction.placement.ring, self.setting.vram / RING_SHARE);
        (prediction.strategy.row().has_ring && !self.setting.ring_is_fixed && ring != own).then_some(ring)
    }

    /// Options and settings as variables.
    pub fn environment(&self) -> Variables {
        let options = self.arguments().into_iter().map(|argument| (argument.option.variable, argument.value));
        options.chain(self.settings()).collect()
    }

    /// One line for a log: what was chosen and what to expect.
    pub fn line(&self) -> Option<String> {
        self.winner().map(|winner| line(self, winner))
    }
}

/// llama-server's options for a prediction.
pub fn arguments(plan: &Plan, prediction: &Prediction) -> Vec<Argument> {
    let mut list = Vec::new();
    let mut add = |option, value: String| list.push(Argument { option, value });
    let placement = &prediction.placement;
    let layers = placement.gpu_layers.filter(|layers| *layers <= plan.all_layers()).unwrap_or(ALL_LAYERS);
    let context = &plan.setting.context;
    add(llama::CONTEXT, context.tokens.to_string());
    // Left to llama-server unless asked for: its own choice is what is planned for, and one slot would make others wait.
    if let Some(parallel) = plan.plan_options.parallel {
        add(llama::PARALLEL, parallel.to_string());
        if context.unified && parallel > 1 {
            add(llama::UNIFIED, "1".to_owned());
        }
    }
    add(llama::UBATCH, prediction.ubatch.to_string());
    add(llama::GPU_LAYERS, layers.to_string());
    if let gpus @ [_, _, ..] = &plan.figures.gpus[..] {
        // What is planned for. By itself it would go by the free VRAM that it is told, of which GreenBoost tells more.
        let shares: Vec<_> = gpus.iter().map(|free| (free >> 20).to_string()).collect();
        add(llama::TENSOR_SPLIT, shares.join(","));
    }
    if let Some(cpu_moe) = placement.cpu_moe {
        add(llama::CPU_MOE_LAYERS, cpu_moe.to_string());
    }
    if !placement.cpu_layers.is_empty() {
        add(llama::OVERRIDE_TENSOR, override_pattern(&placement.cpu_layers, plan.experts.0 > 0));
    }
    if is_quantised(context.kv) {
        add(llama::FLASH_ATTENTION, "on".to_owned());
        add(llama::CACHE_TYPE_K, context.kv.k.name.to_lowercase());
        add(llama::CACHE_TYPE_V, context.kv.v.name.to_lowercase());
    }
    if prediction.strategy.reads_file(plan.experts.0 > 0) {
        add(llama::LOAD_MODE, "none".to_owned());
    }
    if prediction.strategy.uses_cpu()
        && let Some(threads) = plan.machine.threads
    {
        add(llama::THREADS, threads.to_string());
    }
    list
}

/// llama-server's options for a model that has to be in VRAM whole or not at all.
pub fn insist_on_vram() -> Vec<Argument> {
    let argument = |option, value: String| Argument { option, value };
    vec![argument(llama::GPU_LAYERS, ALL_LAYERS.to_string()), argument(llama::FIT, "off".to_owned())]
}

/// Whether llama.cpp has to be told about the KV cache.
fn is_quantised(kv: KvTypes) -> bool {
    kv.k.name != "F16" || kv.v.name != "F16"
}

/// The command line that runs the model with this strategy.
pub fn llama_server(plan: &Plan, prediction: &Prediction) -> String {
    let model = quoted(&plan.path.display().to_string());
    let words = |argument: &Argument| match argument.option.names[0] {
        name if argument.option == llama::UNIFIED => name.to_owned(),
        name => format!("{name} {}", quoted(&argument.value)),
    };
    let arguments: Vec<String> = arguments(plan, prediction).iter().map(words).collect();
    format!("{}llama-server -m {model} {}", launcher(plan, prediction), arguments.join(" "))
}

/// What goes in front of the command: nothing where GreenBoost would have nothing to do.
fn launcher(plan: &Plan, prediction: &Prediction) -> String {
    if matches!(prediction.strategy, Strategy::Vram | Strategy::Offload) {
        return String::new();
    }
    let row = prediction.strategy.row();
    let size = |option: &str, bytes: Option<u64>| bytes.map_or_else(String::new, |bytes| format!("{option} {bytes} "));
    let ring = plan.plan_options.ring.filter(|_| row.has_ring).or_else(|| plan.ring(prediction));
    // Streaming is what the profiles start from; what gb-launch has no option for is a variable.
    let (mut variables, mut switches) = (String::new(), String::new());
    for (name, value) in row.sets.iter().filter(|set| **set != (STREAM, "on")) {
        match *name {
            STREAM => switches += &format!("--stream {value} "),
            HOST_COPY_PREFETCH => switches += &format!("--host-copy-prefetch {value} "),
            name => variables += &format!("{name}={value} "),
        }
    }
    if prediction.direct {
        variables += &format!("{DISABLE_GRAPHS}=1 ");
    }
    format!(
        "{variables}gb-launch {}{}{}{switches}",
        size("--vram", plan.plan_options.vram),
        size("--ram", plan.plan_options.ram),
        size("--ring", ring),
    )
}

/// The environment for `ollama serve`, and the lines of a Modelfile.
pub fn ollama(plan: &Plan, prediction: &Prediction) -> (String, Vec<String>) {
    let context = &plan.setting.context;
    // Ollama has one conversation at a time unless it is told otherwise.
    let parallel = plan.plan_options.parallel.unwrap_or(1);
    let mut variables = vec![
        format!("OLLAMA_CONTEXT_LENGTH={}", context.tokens / parallel.max(1)),
        format!("OLLAMA_NUM_PARALLEL={parallel}"),
    ];
    if is_quantised(context.kv) {
        variables.push("OLLAMA_FLASH_ATTENTION=1".to_owned());
        variables.push(format!("OLLAMA_KV_CACHE_TYPE={}", context.kv.k.name.to_lowercase()));
    }
    // What Ollama has no name for reaches its llama-server through the environment.
    for argument in arguments(plan, prediction) {
        if [llama::CPU_MOE_LAYERS, llama::OVERRIDE_TENSOR, llama::LOAD_MODE].contains(&argument.option) {
            variables.push(format!("{}={}", argument.option.variable, quoted(&argument.value)));
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
        (Some(prompt), Some(answer)) => {
            format!("about {} prompt and {} answer tokens a second", significant(prompt), significant(answer))
        }
        _ => "how fast is not known".to_owned(),
    };
    let (vram, ram) = (prediction.placement.vram(), prediction.placement.ram());
    let what = name(plan, prediction);
    let shared = match (prediction.placement.cpu_layers.len(), prediction.placement.expert_slots) {
        (0, None) => String::new(),
        // A short line: the status record has room for 192 bytes. The strategy's own name is what the figures are of.
        (0, Some(slots)) if what == Strategy::Experts.row().name => format!(": {}", slots.text()),
        (0, Some(slots)) => format!(" (experts: {})", slots.text()),
        (layers, _) => format!(" (the CPU computes in {layers} of {} layers)", plan.layers),
    };
    let size = match ram {
        0 => format!("all in VRAM, {}", format_size(vram)),
        _ => format!("{} in VRAM and {} outside", format_size(vram), format_size(ram)),
    };
    let bound = if plan.is_upper_bound { format!(", {UPPER_BOUND}") } else { String::new() };
    if plan.is_only_named() {
        return format!("{}: {what}, which the plan does not follow: nothing is predicted{bound}", plan.name);
    }
    format!("{}: {what}{shared}, {size}, {speed}{bound}", plan.name)
}

/// What a prediction is called.
pub fn name(plan: &Plan, prediction: &Prediction) -> String {
    match &plan.plan_options.server.placement {
        Some(user) => format!("your placement ({})", user.said),
        None => prediction.strategy.row().name.to_owned(),
    }
}

/// Of a model whose architecture llama.cpp is not known to know.
pub const UPPER_BOUND: &str = "unknown architecture: an upper bound";

/// Three digits that mean something, however small.
pub fn significant(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let decimals = 2 - (value.abs().log10().floor() as i32).clamp(-6, 2);
    format!("{value:.*}", decimals as usize)
}

#[cfg(test)]
mod tests {
    #[test]
    fn slow_is_not_nothing() {
        for (value, expected) in
            [(0.0, "0"), (0.0123, "0.0123"), (0.4, "0.400"), (7.25, "7.25"), (99.96, "100.0"), (1234.5, "1234")]
        {
            assert_eq!(super::significant(value), expected);
        }
    }

    #[test]
    fn paths_are_quoted_where_a_shell_needs_it() {
        assert_eq!(super::quoted("/a/b-1.gguf"), "/a/b-1.gguf");
        assert_eq!(super::quoted("/my models/it's.gguf"), r"'/my models/it'\''s.gguf'");
    }
}
