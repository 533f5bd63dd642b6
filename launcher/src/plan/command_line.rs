//! What a llama-server command line and its environment already decide. Whatever the user has set wins: a plan is made
//! around it and sets only the rest.

use super::Variables;
use super::commands::Argument;
use super::facts::KvTypes;
use super::predict::UBATCHES;
use super::wishes::Wishes;
use greenboost_contract::planner::MODEL_OPTIONS;
use greenboost_contract::settings::PLANNED;
use greenboost_gguf::TensorType;
use std::path::PathBuf;

/// Options that say what goes where. A user who gives one of them has made the placement; llama.cpp's variables for
/// the others would contradict it.
const PLACEMENT: &[(&[&str], &str)] = &[
    (&["-ngl", "--gpu-layers", "--n-gpu-layers"], "LLAMA_ARG_N_GPU_LAYERS"),
    (&["-ncmoe", "--n-cpu-moe"], "LLAMA_ARG_N_CPU_MOE"),
    (&["-cmoe", "--cpu-moe"], "LLAMA_ARG_CPU_MOE"),
    (&["-ncffn", "--n-cpu-ffn"], "LLAMA_ARG_N_CPU_FFN"),
    (&["-ot", "--override-tensor"], "LLAMA_ARG_OVERRIDE_TENSOR"),
    (&["-dev", "--device"], "LLAMA_ARG_DEVICE"),
    (&["-ts", "--tensor-split"], "LLAMA_ARG_TENSOR_SPLIT"),
    (&["--rpc"], "LLAMA_ARG_RPC"),
];
/// What depends on the placement, besides the placement itself.
const FOLLOWING: &[&str] = &["-ngl", "-ncmoe", "-ot", "-lm", "-t", "-fit"];

/// Options that make llama-server print something and end, whatever else is there.
const ONLY_ASKS: &[&str] =
    &["-h", "--help", "--usage", "--version", "--license", "--list-devices", "-cl", "--cache-list"];

/// A command line with its environment.
#[derive(Clone, Copy)]
pub struct CommandLine<'a> {
    /// The arguments behind the program's name.
    pub arguments: &'a [String],
    /// The user's variables.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

impl std::fmt::Debug for CommandLine<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("CommandLine").field("arguments", &self.arguments).finish_non_exhaustive()
    }
}

impl CommandLine<'_> {
    /// The value of an option, or of the variable that stands for it. The last one given counts.
    fn value(&self, options: &[&str], variable: &str) -> Option<String> {
        let given = self.arguments.windows(2).rev().find(|pair| options.contains(&pair[0].as_str()));
        given.map(|pair| pair[1].clone()).or_else(|| (self.variable)(variable))
    }

    fn is_set(&self, options: &[&str], variable: &str) -> bool {
        self.arguments.iter().any(|argument| options.contains(&argument.as_str()))
            || (self.variable)(variable).is_some()
    }

    /// The model that would be loaded, where it is a file.
    pub fn model(&self) -> Option<PathBuf> {
        let only_asks = self.arguments.iter().any(|argument| ONLY_ASKS.contains(&argument.as_str()));
        let model = if only_asks { None } else { self.value(&MODEL_OPTIONS, "LLAMA_ARG_MODEL") };
        model.filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// What the command decides about a plan. `-c 0` is the model's own context, which `trained` is.
    pub fn wishes(&self, trained: u64) -> Wishes {
        let number = |options: &[&str], variable: &str| self.value(options, variable)?.parse::<u64>().ok();
        let context = number(&["-c", "--ctx-size"], "LLAMA_ARG_CTX_SIZE");
        let kind = |options: &[&str], variable: &str| {
            self.value(options, variable).and_then(|name| TensorType::from_name(&name))
        };
        // llama.cpp cuts a micro-batch to its batch.
        let batch = number(&["-b", "--batch-size"], "LLAMA_ARG_BATCH");
        let small_batch = batch.filter(|tokens| UBATCHES.iter().any(|ubatch| tokens < ubatch));
        let ubatch = number(&["-ub", "--ubatch-size"], "LLAMA_ARG_UBATCH").or(small_batch);
        let k = kind(&["-ctk", "--cache-type-k"], "LLAMA_ARG_CACHE_TYPE_K");
        let v = kind(&["-ctv", "--cache-type-v"], "LLAMA_ARG_CACHE_TYPE_V");
        let default = TensorType::from_name("F16");
        let kv = if k.is_some() || v.is_some() { k.or(default).zip(v.or(default)) } else { None };
        Wishes {
            ctx: context.map(|context| if context == 0 { trained } else { context }).filter(|context| *context > 0),
            parallel: number(&["-np", "--parallel"], "LLAMA_ARG_N_PARALLEL").filter(|count| *count > 0),
            ubatch: ubatch.map(|tokens| batch.map_or(tokens, |batch| tokens.min(batch))).filter(|tokens| *tokens > 0),
            kv: kv.map(|(k, v)| KvTypes { k, v }),
            ..Wishes::default()
        }
    }

    /// Whether the user has said what goes where.
    pub fn has_placement(&self) -> bool {
        PLACEMENT.iter().any(|(options, variable)| self.is_set(options, variable))
    }

    /// Those of a plan's arguments that the user has left open, as variables, and what it sets beside them. What is a
    /// setting of ours was fixed before the plan was made, if at all; the environment may have it from a profile.
    pub fn left_open(&self, arguments: Vec<Argument>, settings: Variables) -> Variables {
        let has_placement = self.has_placement();
        let is_open = |argument: &Argument| {
            let names = [&[argument.option], argument.long].concat();
            let follows = has_placement && FOLLOWING.contains(&argument.option);
            !follows && !self.is_set(&names, argument.variable)
        };
        let open = arguments.into_iter().filter(is_open).map(|argument| (argument.variable, argument.value));
        let is_set = |name: &str| !PLANNED.contains(&name) && self.is_set(&[], name);
        open.chain(settings.into_iter().filter(|(name, _)| !has_placement && !is_set(name))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn argument(option: &'static str, long: &'static [&'static str], variable: &'static str) -> Argument {
        Argument { option, long, variable, value: "1".to_owned() }
    }

    fn all() -> Vec<Argument> {
        vec![
            argument("-c", &["--ctx-size"], "LLAMA_ARG_CTX_SIZE"),
            argument("-ub", &["--ubatch-size"], "LLAMA_ARG_UBATCH"),
            argument("-ngl", &["--gpu-layers"], "LLAMA_ARG_N_GPU_LAYERS"),
            argument("-ncmoe", &["--n-cpu-moe"], "LLAMA_ARG_N_CPU_MOE"),
            argument("-lm", &["--load-mode"], "LLAMA_ARG_LOAD_MODE"),
        ]
    }

    /// What is open of everything that could be set, without llama.cpp's prefix.
    fn open(line: &str, variables: &[&str]) -> String {
        let arguments = words(line);
        let variable = |name: &str| variables.contains(&name).then(|| "7".to_owned());
        let line = CommandLine { arguments: &arguments, variable: &variable };
        let settings = [("GREENBOOST_STREAM", "on"), ("GGML_CUDA_DISABLE_GRAPHS", "1")];
        let open = line.left_open(all(), settings.map(|(name, value)| (name, value.to_owned())).to_vec());
        open.iter().map(|(name, _)| name.trim_start_matches("LLAMA_ARG_")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_the_user_set_is_not_set_again() {
        let settings = "GREENBOOST_STREAM GGML_CUDA_DISABLE_GRAPHS";
        assert_eq!(open("-m x.gguf", &[]), format!("CTX_SIZE UBATCH N_GPU_LAYERS N_CPU_MOE LOAD_MODE {settings}"));
        let some = open("-m x.gguf --ctx-size 4096", &["LLAMA_ARG_UBATCH"]);
        assert_eq!(some, format!("N_GPU_LAYERS N_CPU_MOE LOAD_MODE {settings}"));
        // A setting of ours is there from a profile; ggml's switch can only be the user's.
        let some = open("-c 1 -lm none", &["GREENBOOST_STREAM", "GGML_CUDA_DISABLE_GRAPHS"]);
        assert_eq!(some, "UBATCH N_GPU_LAYERS N_CPU_MOE GREENBOOST_STREAM");
    }

    #[test]
    fn a_placement_by_the_user_is_left_whole() {
        for line in ["-ngl 20", "--cpu-moe", "-ot exps=CPU", "--rpc a:1", "-ncffn 3"] {
            assert_eq!(open(line, &[]), "CTX_SIZE UBATCH", "{line}");
        }
        assert_eq!(open("", &["LLAMA_ARG_N_GPU_LAYERS"]), "CTX_SIZE UBATCH");
    }

    #[test]
    fn a_plan_is_made_around_what_the_user_set() {
        let arguments = words("-c 4096 --model a.gguf -np 4 -ctk q8_0 -c 0");
        let variable = |name: &str| (name == "LLAMA_ARG_UBATCH").then(|| "1024".to_owned());
        let line = CommandLine { arguments: &arguments, variable: &variable };
        let wishes = line.wishes(40960);
        assert_eq!((wishes.ctx, wishes.parallel, wishes.ubatch), (Some(40960), Some(4), Some(1024)));
        assert_eq!(wishes.kv.map(|kv| (kv.k.name, kv.v.name)), Some(("Q8_0", "F16")));
        assert_eq!(line.model(), Some(PathBuf::from("a.gguf")));
        for (batch, expected) in [("-b 256", Some(256)), ("-b 4096", Some(1024)), ("-b 512 -ub 2048", Some(512))] {
            let line = CommandLine { arguments: &words(batch), variable: &variable };
            assert_eq!(line.wishes(0).ubatch, expected.map(|tokens: u64| tokens), "{batch}");
        }
        for asking in ["--list-devices", "-m a.gguf --version", "-h -m a.gguf", "-m"] {
            let line = CommandLine { arguments: &words(asking), variable: &|_| None };
            assert_eq!(line.model(), None, "{asking}");
        }
        let none = CommandLine { arguments: &words("-c -np"), variable: &|_| Some("nonsense".to_owned()) };
        assert_eq!((none.wishes(0).ctx, none.wishes(0).kv), (None, None));
    }
}
