//! The options of gb-launch.

use super::place_rule::place_rule;
use clap::Parser;
use greenboost_contract::place::PlaceRule;
use greenboost_contract::settings::MOST_UPLOAD_THREADS;
use greenboost_contract::{HostCopyPrefetch, PageCache, Strategy, Stream, parse_size};
use std::ffi::OsString;
use std::path::PathBuf;

/// Run a CUDA program with more memory than the GPU has.
///
/// The program's large allocations span VRAM and system RAM. Variables of the environment named GREENBOOST_*
/// (such as GREENBOOST_CHUNK=32MiB) beat the profile; options beat both. Exit codes: the command's own; 2 when GreenBoost
/// cannot do what is asked, 126 when the command cannot be started with it, 127 when it is not found.
#[derive(Debug, Clone, Default, Parser)]
#[command(name = "gb-launch", version, max_term_width = 100)]
pub struct Options {
    /// Use this profile rather than the one that matches the command.
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// The most VRAM the command may take on each GPU [default: what is free, less a reserve].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub vram: Option<u64>,
    /// The most system RAM that may stand in for VRAM [default: a share of what is available].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub ram: Option<u64>,
    /// Where the tensors whose names match should be, before the profile's rules; may be repeated.
    ///
    /// TIER is vram (before all others), auto (VRAM while there is room) or ram. The first rule that fits a tensor
    /// decides: `--place 'blk\.[0-9]\.ffn_.*_exps=vram' --place 'token_embd=ram'`.
    #[arg(long, value_name = "REGEX=TIER", value_parser = place_rule)]
    pub place: Vec<PlaceRule>,
    /// Whether weights outside VRAM are copied into it ahead of the kernels that read them: on or off.
    #[arg(long, value_name = "ON|OFF")]
    pub stream: Option<Stream>,
    /// VRAM that they are copied into, out of what --vram allows [default: the plan's, else a sixteenth of it].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub ring: Option<u64>,
    /// Whether the copies that llama.cpp makes of the layers it keeps in RAM are prefetched into VRAM: on or off.
    #[arg(long, value_name = "ON|OFF", alias = "assist")]
    pub host_copy_prefetch: Option<HostCopyPrefetch>,
    /// Whether weights outside VRAM stay in the page cache of the model file, rather than in a copy in RAM: on or off.
    #[arg(long, value_name = "ON|OFF")]
    pub page_cache: Option<PageCache>,
    /// Threads that copy weights to the GPU while a model is loaded [default: half of the processors, at most 8].
    ///
    /// 0 leaves that to the driver, which copies with one thread.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(..=i64::from(MOST_UPLOAD_THREADS)))]
    pub upload_threads: Option<u32>,
    /// Run the model with this strategy, also where another is faster: vram, extend, extend-in-place, offload,
    /// host-copy-prefetch, combined or experts.
    ///
    /// `greenboost plan MODEL` shows what each would bring.
    #[arg(long, value_name = "STRATEGY", alias = "way", conflicts_with = "no_plan")]
    pub strategy: Option<Strategy>,
    /// Do not plan for the model: set no variables of llama.cpp but the profile's.
    #[arg(long)]
    pub no_plan: bool,
    /// Keep this file up to date with where every byte of every large allocation is, as JSON.
    #[arg(long, value_name = "FILE")]
    pub map: Option<PathBuf>,
    /// Write a trace of what is streamed to this file, for ui.perfetto.dev or chrome://tracing.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print what would happen and start nothing; with -v all of it.
    #[arg(long)]
    pub dry_run: bool,
    /// Print nothing before the command starts: on a terminal that would be the plan in one line.
    #[arg(short, long)]
    pub quiet: bool,
    /// Append GreenBoost's log to this file; without it there is no log.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Log more (-v: debug, -vv: trace).
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Start the command also when GreenBoost would have no effect on it.
    #[arg(long)]
    pub force: bool,
    /// The command and its own options.
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}
