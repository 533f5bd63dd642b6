//! What a llama-server command line and its environment already decide. Whatever the user has set wins: a plan is made
//! around it and sets only the rest.

use super::commands::{Argument, Variables};
use super::facts::KvTypes;
use super::llama_options::{self as llama, CommandLine, LlamaOption};
use super::plan_options::{PlanOptions, SLOTS, Server};
use super::predict::{UBATCHES, UserPlacement};
use greenboost_contract::settings::PLANNED;
use greenboost_gguf::TensorType;
use std::ffi::OsStr;
use std::path::PathBuf;

/// Options that say what goes where. A user who gives one of them has made the placement; llama.cpp's variables for
/// the others would contradict it.
const PLACEMENT: &[LlamaOption] = &[
    llama::GPU_LAYERS,
    llama::CPU_MOE_LAYERS,
    llama::CPU_MOE,
    llama::CPU_FFN_LAYERS,
    llama::OVERRIDE_TENSOR,
    llama::DEVICE,
    llama::TENSOR_SPLIT,
    llama::RPC,
];
/// Those of them that say it tensor by tensor or device by device: the plan does not follow them.
const OPAQUE: &[LlamaOption] = &[llama::OVERRIDE_TENSOR, llama::DEVICE, llama::TENSOR_SPLIT, llama::RPC];
/// What depends on the placement, besides the placement itself.
const FOLLOWING: &[LlamaOption] = &[
    llama::GPU_LAYERS,
    llama::CPU_MOE_LAYERS,
    llama::OVERRIDE_TENSOR,
    llama::LOAD_MODE,
    llama::THREADS,
    llama::FIT,
    llama::TENSOR_SPLIT,
];

impl<Word: AsRef<OsStr>> CommandLine<'_, Word> {
    /// The model that would be loaded, where it is a file.
    pub fn model(&self) -> Option<PathBuf> {
        let model = if self.only_asks() { None } else { self.value_os(&llama::MODEL) };
        model.filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// What the command decides about a plan. `-c 0` is the model's own context, which `trained` is.
    pub fn plan_options(&self, trained: u64) -> PlanOptions {
        let number = |option: &LlamaOption| self.number(option).and_then(|number| u64::try_from(number).ok());
        let positive = |option: &LlamaOption| number(option).filter(|number| *number > 0);
        let kind = |option: &LlamaOption| self.value(option).and_then(|name| TensorType::from_name(&name));
        let parallel = positive(&llama::PARALLEL);
        let of_slots = positive(&llama::CONTEXT_OF_SLOT).map(|tokens| tokens * parallel.unwrap_or(SLOTS));
        let context = number(&llama::CONTEXT).map(|context| if context == 0 { trained } else { context });
        let batch = positive(&llama::BATCH);
        let small_batch = batch.filter(|tokens| UBATCHES.iter().any(|ubatch| tokens < ubatch));
        let ubatch = positive(&llama::UBATCH).or(small_batch);
        let (k, v) = (kind(&llama::CACHE_TYPE_K), kind(&llama::CACHE_TYPE_V));
        let default = TensorType::from_name("F16");
        let kv = if k.is_some() || v.is_some() { k.or(default).zip(v.or(default)) } else { None };
        PlanOptions {
            ctx: context.or(of_slots).filter(|context| *context > 0),
            parallel,
            ubatch: ubatch.map(|tokens| batch.map_or(tokens, |batch| tokens.min(batch))),
            kv: kv.map(|(k, v)| KvTypes { k, v }),
            server: Server {
                // Without a number of its own the server shares one cache, whatever else it is told.
                unified: parallel.map(|_| self.switch(&llama::UNIFIED) == Some(true)),
                full_windows: self.switch(&llama::FULL_WINDOWS) == Some(true),
                kv_in_ram: self.switch(&llama::KV_OFFLOAD) == Some(false),
                no_flash_attention: self.value(&llama::FLASH_ATTENTION).is_some_and(|value| llama::is_false(&value)),
                all_outputs: [llama::EMBEDDINGS, llama::RERANKING]
                    .iter()
                    .any(|option| self.switch(option) == Some(true)),
                placement: self.placement(),
            },
            ..PlanOptions::default()
        }
    }

    /// Where the user has said that things go.
    fn placement(&self) -> Option<UserPlacement> {
        let said = PLACEMENT.iter().filter(|option| self.is_set(option)).map(|option| option.names[0]);
        let said: Vec<_> = said.collect();
        let count = |option: &LlamaOption| self.number(option).and_then(|number| u64::try_from(number).ok());
        let all_experts = (self.switch(&llama::CPU_MOE) == Some(true)).then_some(u64::MAX);
        (!said.is_empty()).then(|| UserPlacement {
            said: said.join(" "),
            // "auto", "all" and negative numbers are all of them.
            gpu_layers: count(&llama::GPU_LAYERS),
            cpu_moe: all_experts.or_else(|| count(&llama::CPU_MOE_LAYERS)).unwrap_or(0),
            cpu_ffn: count(&llama::CPU_FFN_LAYERS).unwrap_or(0),
            is_opaque: OPAQUE.iter().any(|option| self.is_set(option)),
        })
    }

    /// The one GPU that the model is to be on, where the command says so: Ollama does, of models that it believes fit there.
    pub fn only_gpu(&self) -> Option<usize> {
        let is_one = self.value(&llama::SPLIT_MODE).is_some_and(|mode| mode == "none");
        let index = || self.number(&llama::MAIN_GPU).and_then(|index| usize::try_from(index).ok());
        is_one.then(|| index().unwrap_or(0))
    }

    /// Whether the user has said what goes where.
    pub fn has_placement(&self) -> bool {
        PLACEMENT.iter().any(|option| self.is_set(option))
    }

    /// Those of a plan's arguments that the user has left open, as variables, and what it sets beside them. What is a
    /// setting of ours was fixed before the plan was made, if at all; the environment may have it from a profile.
    pub fn left_open(&self, arguments: Vec<Argument>, settings: Variables) -> Variables {
        let has_placement = self.has_placement();
        let is_open = |argument: &Argument| {
            let follows = has_placement && FOLLOWING.contains(&argument.option);
            !follows && !self.is_set(&argument.option)
        };
        let open = arguments.into_iter().filter(is_open).map(|argument| (argument.option.variable, argument.value));
        let is_set = |name: &str| !PLANNED.contains(&name) && (self.variable)(name).is_some();
        open.chain(settings.into_iter().filter(|(name, _)| !has_placement && !is_set(name))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn all() -> Vec<Argument> {
        [llama::CONTEXT, llama::UBATCH, llama::GPU_LAYERS, llama::CPU_MOE_LAYERS, llama::LOAD_MODE]
            .map(|option| Argument { option, value: "1".to_owned() })
            .to_vec()
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
        for line in ["-ngl 20", "--n_gpu_layers 20", "--cpu-moe", "-ot exps=CPU", "--rpc a:1", "-ncffn 3"] {
            assert_eq!(open(line, &[]), "CTX_SIZE UBATCH", "{line}");
        }
        assert_eq!(open("", &["LLAMA_ARG_N_GPU_LAYERS"]), "CTX_SIZE UBATCH");
    }

    #[test]
    fn a_plan_is_made_around_what_the_user_set() {
        let arguments = words("-c 4096 --model a.gguf -np 4 -ctk q8_0 -c 0");
        let variable = |name: &str| (name == "LLAMA_ARG_UBATCH").then(|| "1024".to_owned());
        let line = CommandLine { arguments: &arguments, variable: &variable };
        let plan_options = line.plan_options(40960);
        assert_eq!((plan_options.ctx, plan_options.parallel, plan_options.ubatch), (Some(40960), Some(4), Some(1024)));
        assert_eq!(plan_options.kv.map(|kv| (kv.k.name, kv.v.name)), Some(("Q8_0", "F16")));
        assert_eq!(line.model(), Some(PathBuf::from("a.gguf")));
        for (batch, expected) in [("-b 256", Some(256)), ("-b 4096", Some(1024)), ("-b 512 -ub 2048", Some(512))] {
            let line = CommandLine { arguments: &words(batch), variable: &variable };
            assert_eq!(line.plan_options(0).ubatch, expected.map(|tokens: u64| tokens), "{batch}");
        }
        for asking in ["--list-devices", "-m a.gguf --version", "-h -m a.gguf", "-m"] {
            let line = CommandLine { arguments: &words(asking), variable: &|_| None };
            assert_eq!(line.model(), None, "{asking}");
        }
        let none = CommandLine { arguments: &words("-c -np"), variable: &|_| Some("nonsense".to_owned()) };
        assert_eq!(none.plan_options(0).server.unified, None, "auto");
        assert_eq!((none.plan_options(0).ctx, none.plan_options(0).kv), (None, None));
    }

    #[test]
    fn how_the_cache_is_kept_is_read_off_the_command() {
        let server = |line: &str| CommandLine { arguments: &words(line), variable: &|_| None }.plan_options(0).server;
        assert_eq!(server("-np -1 -c 1"), Server::default());
        assert_eq!(server("-np 4"), Server { unified: Some(false), ..Server::default() });
        assert_eq!(server("--parallel 4 --kv_unified"), Server { unified: Some(true), ..Server::default() });
        assert_eq!(server("--swa-full -nkvo"), Server { full_windows: true, kv_in_ram: true, ..Server::default() });
        assert_eq!(server("-fa off"), Server { no_flash_attention: true, ..Server::default() });
        assert_eq!(server("-fa auto"), Server::default());
        assert_eq!(server("--embeddings"), Server { all_outputs: true, ..Server::default() });
        let line = CommandLine { arguments: &words("--kv-unified-per-slot 2048"), variable: &|_| None };
        assert_eq!(line.plan_options(0).ctx, Some(4 * 2048));
    }

    #[test]
    fn a_model_on_one_gpu_of_several_is_no_placement() {
        let only = |line: &str| {
            let arguments = words(line);
            let line = CommandLine { arguments: &arguments, variable: &|_| None };
            (line.only_gpu(), line.has_placement())
        };
        assert_eq!(only("-sm none -mg 1"), (Some(1), false));
        assert_eq!(only("--split_mode none"), (Some(0), false));
        assert_eq!(only("-mg 1"), (None, false));
        assert_eq!(only("-ts 1,2"), (None, true));
    }

    #[test]
    fn a_placement_is_followed_where_it_is_by_layers() {
        let placement = |line: &str| CommandLine { arguments: &words(line), variable: &|_| None }.placement();
        assert_eq!(placement("-c 1"), None);
        let moe = placement("-ngl 20 --n_cpu_moe 3").expect("a placement");
        assert_eq!(
            (moe.gpu_layers, moe.cpu_moe, moe.is_opaque, moe.said.as_str()),
            (Some(20), 3, false, "-ngl -ncmoe")
        );
        assert_eq!(placement("-ngl all").expect("a placement").gpu_layers, None);
        assert_eq!(placement("-cmoe").expect("a placement").cpu_moe, u64::MAX);
        assert!(placement("-ngl 3 -ot x=CPU").expect("a placement").is_opaque);
    }
}
