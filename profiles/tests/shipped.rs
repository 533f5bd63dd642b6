//! The profiles that are compiled in.

use greenboost_contract::kernel::{AccessMode, KernelRule};
use greenboost_contract::place::{DEFAULT_PRIORITY, PlaceRule};
use greenboost_contract::{PlanFor, ReportFree, ReportTotal, Settings};
use greenboost_profiles::{Profiles, pattern};

fn built_in() -> Profiles {
    Profiles::load(&[]).expect("the shipped profiles are valid")
}

fn chosen(command: &str) -> String {
    let mut words = command.split(' ').map(str::to_owned);
    let name = words.next().expect("a command");
    let arguments: Vec<_> = words.collect();
    built_in().match_command(&[&name], &arguments).expect("generic matches everything").profile.name.clone()
}

#[test]
fn every_toml_file_beside_the_crate_is_compiled_in_and_described() {
    let files = std::fs::read_dir(env!("CARGO_MANIFEST_DIR")).expect("crate folder").flatten();
    let names: Vec<_> = files
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".toml").map(str::to_owned))
        .filter(|name| name != "Cargo")
        .collect();
    let profiles = built_in();
    assert_eq!(names.len(), profiles.iter().count());
    for name in names {
        let profile = profiles.find_by_name(&name).expect("file and profile have the same name");
        assert!(!profile.description.is_empty() && !profile.matchers.is_empty(), "{name}");
    }
}

#[test]
fn the_hook_reads_what_every_shipped_profile_asks_for() {
    for profile in built_in().iter() {
        let settings = profile.settings.clone();
        let env = settings.to_env();
        let get = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        assert_eq!(Settings::from_env(get).as_ref(), Ok(&settings), "{}", profile.name);
        pattern::compile(&settings.include).expect("include");
        pattern::compile(&settings.exclude).expect("exclude");
        pattern::compile(&settings.trains).expect("trains");
        assert_eq!(settings.report_total, ReportTotal::Physical, "inflated totals made Ollama ask for 262144 tokens");
    }
}

/// Whichever profile of llama.cpp's is asked for by name: what these kernels write must not go to a copy.
#[test]
fn programs_and_kernels_that_write_to_weights_are_named() {
    for profile in built_in().iter().filter(|profile| profile.name != "generic") {
        let settings = &profile.settings;
        let trains = pattern::compile(&settings.trains).expect("trains");
        for (program, does) in [
            ("llama-finetune", true),
            (".llama-finetune-wrapped", true),
            ("llama-finetune-cuda", true),
            ("llama-train-text-from-scratch", true),
            ("llama-server", false),
            ("llama-bench", false),
            ("ollama", false),
            ("llama-finetuned-server", false),
        ] {
            assert_eq!(trains.is_match(program.as_bytes()), does, "{}: {program}", profile.name);
        }
        for kernel in ["_Z18opt_step_adamw_f32PfPKfS_S_S1_l", "_Z16opt_step_sgd_f32PfPKfS1_l"] {
            let fits = |rule: &&KernelRule| pattern::compile(&rule.name).expect("name").is_match(kernel.as_bytes());
            let rule = settings.kernels.iter().find(fits).expect("a rule");
            assert_eq!((rule.read, rule.tensor.as_str()), (AccessMode::Never, ""), "{}: {kernel}", profile.name);
        }
    }
}

#[test]
fn commands_find_their_profile() {
    for (command, profile) in [
        ("llama-server -m x.gguf", "llama-server"),
        (".llama-server-wrapped", "llama-server"),
        ("llama-cli", "llama-server"),
        ("llama-server-cuda -m x.gguf", "llama-server"),
        ("llama-server-b6123", "llama-server"),
        ("llama-server_vulkan", "llama-server"),
        ("llama-server.bin", "llama-server"),
        ("llama serve -m x.gguf", "llama-server"),
        ("llama bench", "llama-tools"),
        ("llama-bench -m x.gguf", "llama-tools"),
        ("llama-perplexity", "llama-tools"),
        ("ollama serve", "ollama"),
        ("rpc-server", "rpc-server"),
        ("ggml-rpc-server -p 50052", "rpc-server"),
        ("llama-rpc-server", "rpc-server"),
        ("python3.11 train.py", "generic"),
        ("my-llama-server", "generic"),
    ] {
        assert_eq!(chosen(command), profile, "{command}");
    }
}

#[test]
fn generic_comes_last_and_never_reports_more_free_than_total() {
    let profiles = built_in();
    assert_eq!(profiles.iter().last().map(|profile| profile.name.as_str()), Some("generic"));
    assert_eq!(profiles.find_by_name("generic").expect("generic").settings.report_free, ReportFree::Clamped);
}

#[test]
fn the_process_filters_hook_the_runners_and_leave_shells_and_helpers_alone() {
    let profiles = built_in();
    let hooked = |profile: &str, process: &str| {
        let settings = profiles.find_by_name(profile).expect(profile).settings.clone();
        let matches = |pattern: &str| pattern::compile(pattern).expect("pattern").is_match(process.as_bytes());
        let excluded = !settings.exclude.is_empty() && matches(&settings.exclude);
        matches(&settings.include) && !excluded
    };
    for (profile, process, expected) in [
        ("ollama", "ollama", true),
        ("ollama", "llama-server", true),
        ("ollama", "ollama_llama_server", true),
        ("ollama", "bash", false),
        ("ollama", "nvidia-smi", false),
        ("llama-server", "llama-server", true),
        ("llama-server", ".llama-server-wrapped", true),
        ("llama-server", "sh", false),
        ("llama-server", "curl", false),
        ("rpc-server", "rpc-server", true),
        ("generic", "python3.11", true),
        ("generic", "toy-llm", true),
        ("generic", "bash", false),
        ("generic", "nvcc", false),
        ("generic", "cc1plus", false),
        ("generic", "g++", false),
        ("generic", "nvidia-smi", false),
        ("generic", "nvidia-cuda-mps-control", false),
    ] {
        assert_eq!(hooked(profile, process), expected, "{profile}: {process}");
    }
}

#[test]
fn excluded_processes_are_told_by_a_plain_list_of_names() {
    // The hook compares such a list without compiling it: it is asked by every shell that a target starts.
    for profile in built_in().iter() {
        let exclude = &profile.settings.exclude;
        let list = exclude.strip_prefix("^(?:").or(exclude.strip_prefix("^(")).and_then(|rest| rest.strip_suffix(")$"));
        let plain = |c: char| c.is_ascii_alphanumeric() || "|-_+\\".contains(c);
        assert!(list.is_some_and(|list| list.chars().all(plain)), "{}: {exclude}", profile.name);
    }
}

#[test]
fn the_context_is_set_for_chat_programs_unless_given_and_not_for_measuring_ones() {
    let profiles = built_in();
    let variable = &profiles.find_by_name("llama-server").expect("profile").environment["LLAMA_ARG_CTX_SIZE"];
    let given = |text: &str| {
        let arguments: Vec<_> = text.split(' ').map(str::to_owned).collect();
        variable.replaced_by(&arguments).map(str::to_owned)
    };
    assert_eq!(given("-m x.gguf"), None);
    assert_eq!(given("-m x.gguf -c 4096").as_deref(), Some("-c"));
    assert_eq!(given("--ctx-size=4096").as_deref(), Some("--ctx-size"));
    assert_eq!(given("--ctx_size 4096").as_deref(), Some("--ctx_size"));
    assert_eq!(given("--ctx-sizes 4096"), None);
    assert!(profiles.find_by_name("llama-tools").expect("profile").environment.is_empty());
}

/// What the shipped rules say of a tensor.
fn priority(profile: &str, tensor: &str) -> u8 {
    let profiles = built_in();
    let rules = &profiles.find_by_name(profile).expect(profile).settings.place;
    let fits = |rule: &&PlaceRule| pattern::compile(&rule.tensor).expect("pattern").is_match(tensor.as_bytes());
    rules.iter().find(fits).map_or(DEFAULT_PRIORITY, |rule| rule.priority)
}

#[test]
fn llama_cpps_tensors_keep_vram_in_the_order_of_what_their_bytes_are_worth() {
    // From what stays longest to what goes first.
    let order: &[&[&str]] = &[
        &[
            "blk.0.attn_norm.weight",
            "blk.0.attn_q_norm.weight",
            "blk.0.attn_q.bias",
            "blk.0.ffn_norm.weight",
            "blk.0.ffn_gate_inp.weight",
            "blk.0.ffn_gate_inp_shexp.weight",
            "blk.0.exp_probs_b.bias",
            "blk.0.ffn_down_exps.bias",
            "output_norm.weight",
            "rope_freqs.weight",
        ],
        &["blk.0.attn_q.weight", "blk.31.attn_output.weight", "blk.0.attn_kv_a_mqa.weight", "blk.0.ssm_in.weight"],
        &["blk.0.ffn_gate_shexp.weight", "blk.60.ffn_down_shexp.weight"],
        &["output.weight", "token_embd.weight"],
        &["blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"],
        &[
            "blk.0.ffn_gate_exps.weight",
            "blk.0.ffn_up_exps.weight",
            "blk.0.ffn_down_exps.weight",
            "blk.0.ffn_gate_up_exps.weight",
            "blk.0.ffn_up_chexps.weight",
        ],
    ];
    for profile in ["llama-server", "llama-tools", "ollama", "rpc-server"] {
        let classes: Vec<Vec<u8>> =
            order.iter().map(|class| class.iter().map(|tensor| priority(profile, tensor)).collect()).collect();
        for (class, priorities) in order.iter().zip(&classes) {
            assert!(priorities.iter().all(|priority| *priority == priorities[0]), "{class:?}: {priorities:?}");
        }
        assert!(classes.windows(2).all(|pair| pair[0][0] > pair[1][0]), "{classes:?}");
    }
    assert!(built_in().find_by_name("generic").expect("generic").settings.place.is_empty());
}

/// How the shipped rules have a kernel read a tensor.
fn read(profile: &str, kernel: &str, tensor: &str) -> Option<AccessMode> {
    let profiles = built_in();
    let rules = &profiles.find_by_name(profile).expect(profile).settings.kernels;
    let fits = |pattern: &str, name: &str| pattern::compile(pattern).expect("pattern").is_match(name.as_bytes());
    rules.iter().find(|rule| fits(&rule.name, kernel) && fits(&rule.tensor, tensor)).map(|rule| rule.read)
}

#[test]
fn kernels_of_llama_cpp_and_cublas_read_copies_unless_they_touch_a_part() {
    let (dense, experts) = ("blk.0.ffn_up.weight", "blk.0.ffn_up_exps.weight");
    let vector = "_Z13mul_mat_vec_qIL9ggml_type12ELi1ELb0ELb0EEvPKvS2_PKi";
    for (kernel, tensor, expected) in [
        (vector, dense, Some(AccessMode::Stream)),
        (vector, experts, Some(AccessMode::Experts)),
        ("_Z13mul_mat_vec_fIffLi1ELi256EEvPKT_PKfPKi", experts, Some(AccessMode::Experts)),
        ("_Z9mul_mat_qIL9ggml_type12ELi128ELb0EEvPKcPKi", experts, Some(AccessMode::Stream)),
        ("_Z9mul_mat_fI6__halfLi32ELi1ELi4ELb0EEvPKT_", dense, Some(AccessMode::Stream)),
        ("_Z21dequantize_block_q4_KIfEvPKvPT_", dense, Some(AccessMode::Stream)),
        ("_Z13convert_unaryIf6__halfEvPKvPT0_", dense, Some(AccessMode::Stream)),
        ("_Z10k_get_rowsILi32ELi2EXadL_Z15dequantize_q4_0", "token_embd.weight", Some(AccessMode::InPlace)),
        ("_Z22k_compute_batched_ptrsPK6__halfS1_Pc", dense, Some(AccessMode::InPlace)),
        ("nvjet_hsh_128x128_64x6_2x1_v_bz_TNN", dense, Some(AccessMode::Stream)),
        ("sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x64", dense, Some(AccessMode::Stream)),
        ("_ZN7cutlass7Kernel2I58cutlass_80_wmma_tensorop", dense, Some(AccessMode::Stream)),
        ("a_kernel_of_tomorrow", dense, None),
    ] {
        for profile in ["llama-server", "llama-tools", "ollama", "rpc-server"] {
            assert_eq!(read(profile, kernel, tensor), expected, "{profile}: {kernel} reading {tensor}");
        }
    }
}

#[test]
fn a_plan_is_made_where_llama_cpps_variables_are_read() {
    let profiles = built_in();
    for (name, expected) in [
        ("llama-server", PlanFor::Command),
        ("ollama", PlanFor::Runners),
        ("llama-tools", PlanFor::Never),
        ("rpc-server", PlanFor::Never),
        ("generic", PlanFor::Never),
    ] {
        assert_eq!(profiles.find_by_name(name).expect(name).plan, expected, "{name}");
    }
    let context = &profiles.find_by_name("llama-server").expect("profile").environment["LLAMA_ARG_CTX_SIZE"];
    assert!(context.unless_planned, "the plan knows the model");
}

#[test]
fn profiles_that_inherit_for_the_rules_set_no_variable_of_llama_server() {
    let profiles = built_in();
    for name in ["ollama", "rpc-server"] {
        assert!(profiles.find_by_name(name).expect(name).environment.is_empty(), "{name}");
    }
}
