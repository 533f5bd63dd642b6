//! llama.cpp's options as its programs read them: the one place that knows their spellings. Long ones may have `_` for `-`; of
//! several the last counts; one on the command line counts more than its variable. Some turn off what others turn on.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};

/// An option with its spellings and its variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LlamaOption {
    /// On the command line; the first is the one that we write.
    pub names: &'static [&'static str],
    /// What turns it off. Only options without a value have these.
    pub off: &'static [&'static str],
    /// Its variable.
    pub variable: &'static str,
}

const fn option(names: &'static [&'static str], variable: &'static str) -> LlamaOption {
    LlamaOption { names, off: &[], variable }
}

const fn switch(names: &'static [&'static str], off: &'static [&'static str], variable: &'static str) -> LlamaOption {
    LlamaOption { names, off, variable }
}

/// The model file.
pub const MODEL: LlamaOption = option(&["-m", "--model"], "LLAMA_ARG_MODEL");
/// Tokens of context.
pub const CONTEXT: LlamaOption = option(&["-c", "--ctx-size"], "LLAMA_ARG_CTX_SIZE");
/// Tokens of context for each conversation, where nobody says how many there are for all.
pub const CONTEXT_OF_SLOT: LlamaOption = option(&["--kv-unified-per-slot"], "LLAMA_ARG_KV_UNIFIED_PER_SLOT");
/// Conversations at once.
pub const PARALLEL: LlamaOption = option(&["-np", "--parallel"], "LLAMA_ARG_N_PARALLEL");
/// Whether they share a cache.
pub const UNIFIED: LlamaOption =
    switch(&["-kvu", "--kv-unified"], &["-no-kvu", "--no-kv-unified"], "LLAMA_ARG_KV_UNIFIED");
/// Tokens in a batch.
pub const BATCH: LlamaOption = option(&["-b", "--batch-size"], "LLAMA_ARG_BATCH");
/// Tokens in a micro-batch.
pub const UBATCH: LlamaOption = option(&["-ub", "--ubatch-size"], "LLAMA_ARG_UBATCH");
/// The type of keys.
pub const CACHE_TYPE_K: LlamaOption = option(&["-ctk", "--cache-type-k"], "LLAMA_ARG_CACHE_TYPE_K");
/// The type of values.
pub const CACHE_TYPE_V: LlamaOption = option(&["-ctv", "--cache-type-v"], "LLAMA_ARG_CACHE_TYPE_V");
/// Whether windowed layers keep the whole context.
pub const FULL_WINDOWS: LlamaOption = switch(&["--swa-full"], &[], "LLAMA_ARG_SWA_FULL");
/// Whether the KV cache is with its layers.
pub const KV_OFFLOAD: LlamaOption =
    switch(&["-kvo", "--kv-offload"], &["-nkvo", "--no-kv-offload"], "LLAMA_ARG_KV_OFFLOAD");
/// Flash attention: on, off or auto.
pub const FLASH_ATTENTION: LlamaOption = option(&["-fa", "--flash-attn"], "LLAMA_ARG_FLASH_ATTN");
/// Embeddings instead of text.
pub const EMBEDDINGS: LlamaOption = switch(&["--embedding", "--embeddings"], &[], "LLAMA_ARG_EMBEDDINGS");
/// Rerank documents instead of writing text.
pub const RERANKING: LlamaOption = switch(&["--rerank", "--reranking"], &[], "LLAMA_ARG_RERANKING");
/// Layers on the GPU.
pub const GPU_LAYERS: LlamaOption = option(&["-ngl", "--gpu-layers", "--n-gpu-layers"], "LLAMA_ARG_N_GPU_LAYERS");
/// First layers whose experts are the CPU's.
pub const CPU_MOE_LAYERS: LlamaOption = option(&["-ncmoe", "--n-cpu-moe"], "LLAMA_ARG_N_CPU_MOE");
/// All experts are the CPU's.
pub const CPU_MOE: LlamaOption = switch(&["-cmoe", "--cpu-moe"], &[], "LLAMA_ARG_CPU_MOE");
/// First layers whose feed-forward networks are the CPU's.
pub const CPU_FFN_LAYERS: LlamaOption = option(&["-ncffn", "--n-cpu-ffn"], "LLAMA_ARG_N_CPU_FFN");
/// Tensors by name.
pub const OVERRIDE_TENSOR: LlamaOption = option(&["-ot", "--override-tensor"], "LLAMA_ARG_OVERRIDE_TENSOR");
/// Devices to use.
pub const DEVICE: LlamaOption = option(&["-dev", "--device"], "LLAMA_ARG_DEVICE");
/// Each device's share of the layers.
pub const TENSOR_SPLIT: LlamaOption = option(&["-ts", "--tensor-split"], "LLAMA_ARG_TENSOR_SPLIT");
/// How a model is split over devices.
pub const SPLIT_MODE: LlamaOption = option(&["-sm", "--split-mode"], "LLAMA_ARG_SPLIT_MODE");
/// The device of a model that is not split.
pub const MAIN_GPU: LlamaOption = option(&["-mg", "--main-gpu"], "LLAMA_ARG_MAIN_GPU");
/// Servers that lend their devices.
pub const RPC: LlamaOption = option(&["--rpc"], "LLAMA_ARG_RPC");
/// Whether llama.cpp fits the placement to the memory.
pub const FIT: LlamaOption = option(&["-fit", "--fit"], "LLAMA_ARG_FIT");
/// How the file is read.
pub const LOAD_MODE: LlamaOption = option(&["-lm", "--load-mode"], "LLAMA_ARG_LOAD_MODE");
/// Threads of the CPU.
pub const THREADS: LlamaOption = option(&["-t", "--threads"], "LLAMA_ARG_THREADS");

/// Options that make a program print something and end, whatever else is there.
const ONLY_ASKS: &[&str] =
    &["-h", "--help", "--usage", "--version", "--license", "--list-devices", "-cl", "--cache-list"];

/// A command line with its environment.
#[derive(Clone, Copy)]
pub struct CommandLine<'a, Word = String> {
    /// The arguments after the program's name.
    pub arguments: &'a [Word],
    /// The user's variables.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

impl<Word> std::fmt::Debug for CommandLine<'_, Word> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("CommandLine").field("arguments", &self.arguments.len()).finish_non_exhaustive()
    }
}

/// A word as llama.cpp compares it with its options.
fn spelled(word: &OsStr) -> Cow<'_, str> {
    let word = word.to_string_lossy();
    if word.starts_with("--") && word.contains('_') { Cow::Owned(word.replace('_', "-")) } else { word }
}

/// Whether a value turns something on.
fn is_true(value: &str) -> bool {
    ["on", "enabled", "true", "1"].contains(&value)
}

/// Whether a value turns something off.
pub fn is_false(value: &str) -> bool {
    ["off", "disabled", "false", "0"].contains(&value)
}

impl<Word: AsRef<OsStr>> CommandLine<'_, Word> {
    /// The words, the last first, as llama.cpp compares them, each with the one after it.
    fn backwards(&self) -> impl Iterator<Item = (Cow<'_, str>, Option<&OsStr>)> {
        let next = |index: usize| self.arguments.get(index + 1).map(AsRef::as_ref);
        let words = self.arguments.iter().enumerate().rev();
        words.map(move |(index, word)| (spelled(word.as_ref()), next(index)))
    }

    /// The value of an option, or of the variable that stands for it.
    pub fn value_os(&self, option: &LlamaOption) -> Option<OsString> {
        let given = self.backwards().find_map(|(word, next)| {
            let is_meant = option.names.contains(&word.as_ref());
            next.filter(|_| is_meant).map(OsStr::to_owned)
        });
        given.or_else(|| (self.variable)(option.variable).map(OsString::from))
    }

    /// The same as text.
    pub fn value(&self, option: &LlamaOption) -> Option<String> {
        Some(self.value_os(option)?.to_string_lossy().into_owned())
    }

    /// The same as a number.
    pub fn number(&self, option: &LlamaOption) -> Option<i64> {
        self.value(option)?.trim().parse().ok()
    }

    /// Whether an option without a value is on or off; `None` where nobody says it.
    pub fn switch(&self, option: &LlamaOption) -> Option<bool> {
        let given = self.backwards().find_map(|(word, _)| {
            let on = option.names.contains(&word.as_ref());
            (on || option.off.contains(&word.as_ref())).then_some(on)
        });
        given.or_else(|| {
            // A variable of this form turns it off whatever its value is.
            let off = option.variable.replace("LLAMA_ARG_", "LLAMA_ARG_NO_");
            if !option.off.is_empty() && (self.variable)(&off).is_some() {
                return Some(false);
            }
            (self.variable)(option.variable).map(|value| is_true(&value))
        })
    }

    /// Whether the user has given an option in any spelling, or its variable.
    pub fn is_set(&self, option: &LlamaOption) -> bool {
        let given = |word: &str| option.names.contains(&word) || option.off.contains(&word);
        self.backwards().any(|(word, _)| given(&word)) || (self.variable)(option.variable).is_some()
    }

    /// Whether the program would only print something and end.
    pub fn only_asks(&self) -> bool {
        self.backwards().any(|(word, _)| ONLY_ASKS.contains(&word.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn every_spelling_that_llama_cpp_reads_is_read() {
        let none = |_: &str| None;
        for line in ["-c 4096", "--ctx-size 4096", "--ctx_size 4096", "-c 1 --ctx_size 4096"] {
            let arguments = words(line);
            let line = CommandLine { arguments: &arguments, variable: &none };
            assert_eq!(line.number(&CONTEXT), Some(4096), "{line:?}");
            assert!(line.is_set(&CONTEXT));
        }
        // Short ones are not folded, and a name without a value is none.
        for line in ["-c_x 4096", "--ctx-sizes 4096", "x -c"] {
            let arguments = words(line);
            assert_eq!(CommandLine { arguments: &arguments, variable: &none }.value(&CONTEXT), None, "{line}");
        }
    }

    #[test]
    fn the_last_of_several_counts_and_any_more_than_a_variable() {
        let variable = |name: &str| match name {
            "LLAMA_ARG_KV_OFFLOAD" => Some("0".to_owned()),
            "LLAMA_ARG_CTX_SIZE" => Some("7".to_owned()),
            "LLAMA_ARG_NO_KV_UNIFIED" => Some(String::new()),
            _ => None,
        };
        for (line, expected) in [
            ("", Some(false)),
            ("-kvo", Some(true)),
            ("-nkvo -kvo", Some(true)),
            ("--kv_offload --no_kv_offload", Some(false)),
        ] {
            let arguments = words(line);
            assert_eq!(CommandLine { arguments: &arguments, variable: &variable }.switch(&KV_OFFLOAD), expected);
        }
        let arguments = words("-c 8 -c 9");
        let line = CommandLine { arguments: &arguments, variable: &variable };
        assert_eq!((line.number(&CONTEXT), line.switch(&UNIFIED)), (Some(9), Some(false)));
        assert_eq!((line.switch(&FULL_WINDOWS), line.is_set(&FULL_WINDOWS)), (None, false));
        let none: Vec<String> = Vec::new();
        assert_eq!(CommandLine { arguments: &none, variable: &variable }.number(&CONTEXT), Some(7));
    }

    #[test]
    fn a_path_that_is_no_text_stays_as_it_is() {
        use std::os::unix::ffi::OsStrExt;
        let path = OsStr::from_bytes(b"/models/\xff.gguf");
        let arguments = [OsString::from("-m"), path.to_owned()];
        let line = CommandLine { arguments: &arguments, variable: &|_| None };
        assert_eq!(line.value_os(&MODEL).as_deref(), Some(path));
    }
}
