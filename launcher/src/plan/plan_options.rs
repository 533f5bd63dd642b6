//! What the user wants of a plan, and what becomes of what the user leaves open.

use super::facts::{ContextParams, Facts, KvTypes};
use super::measure::Figures;
use super::predict::{Asked, Setting, Strategy, UBATCHES, UserPlacement, ring};
use crate::machine::Machine;
use clap::Args;
use greenboost_contract::planner::RING_IS_NO_PART;
use greenboost_contract::{ExpertCache, HostCopyPrefetch, Settings, Stream, format_size, parse_size, vram};

/// The context of the shipped llama-server profile: see there.
const CONTEXT: u64 = 8192;
/// Conversations that llama-server can have at once where nobody says how many; they share one cache.
pub const SLOTS: u64 = 4;
/// A model that does not say what it was trained for.
const UNKNOWN_CONTEXT: u64 = 4096;
/// As the hook: its `memory/ram.rs` says why.
const RAM_SHARE: f64 = 0.75;

/// What the user has asked for; the plan chooses the rest.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct PlanOptions {
    /// The most VRAM the model may take [default: what is free, less a reserve].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub vram: Option<u64>,
    /// VRAM that is left to the driver where --vram is not given, as a profile says it.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, hide = true)]
    pub vram_reserve: Option<u64>,
    /// The model is about to run here: no more VRAM than the card has.
    #[arg(long, hide = true)]
    pub here: bool,
    /// The most system RAM that may stand in for VRAM [default: three quarters of what is available].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub ram: Option<u64>,
    /// Tokens of context, over all conversations [default: 8192, or what the model has].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..1 << 40))]
    pub ctx: Option<u64>,
    /// Conversations at once, which share the context [default: 4, as llama-server has them].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..1 << 20))]
    pub parallel: Option<u64>,
    /// Tokens in a micro-batch [default: 512 or 2048, whichever suits].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..1 << 20))]
    pub ubatch: Option<u64>,
    /// Type of the KV cache: f16, q8_0, q4_0 and others [default: f16].
    #[arg(long, value_name = "TYPE", value_parser = kv_types)]
    pub kv: Option<KvTypes>,
    /// Run it with this strategy, also where another is faster: vram, extend, extend-in-place, offload,
    /// host-copy-prefetch, combined or experts [default: the fastest].
    #[arg(long = "strategy", value_name = "STRATEGY", alias = "way", value_parser = Strategy::from_name)]
    pub strategy: Option<Strategy>,
    /// Whether weights outside VRAM are streamed: on or off [default: as suits the strategy].
    #[arg(long, value_name = "ON|OFF")]
    pub stream: Option<Stream>,
    /// VRAM that they are copied into [default: five of the largest tensors, a sixteenth of it at
    /// most].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub ring: Option<u64>,
    /// Whether the copies that llama.cpp makes of what it keeps in RAM are prefetched into VRAM: on or off [default: as
    /// suits the strategy].
    #[arg(long, value_name = "ON|OFF", alias = "assist")]
    pub host_copy_prefetch: Option<HostCopyPrefetch>,
    /// Whether the experts of a mixture that are used most are in VRAM: on or off [default: as suits the strategy].
    #[arg(long, value_name = "ON|OFF")]
    pub experts: Option<ExpertCache>,
    /// No kernel rule of the profile says how kernels have the numbers of chosen experts, as those that are shipped do.
    #[arg(long, hide = true)]
    pub no_expert_rules: bool,
    /// Nothing may leave VRAM, as with `spill = "never"` in a profile.
    #[arg(long)]
    pub no_spill: bool,
    /// What a command for llama.cpp says besides.
    #[arg(skip)]
    pub server: Server,
}

/// What a llama.cpp command line decides that has no option here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Server {
    /// Whether conversations share one cache; `None`: they do.
    pub unified: Option<bool>,
    /// Layers with a window keep the whole context.
    pub full_windows: bool,
    /// The KV cache is in RAM.
    pub kv_in_ram: bool,
    /// Flash attention is off.
    pub no_flash_attention: bool,
    /// Every token of a batch has an output.
    pub all_outputs: bool,
    /// What goes where.
    pub placement: Option<UserPlacement>,
}

fn kv_types(name: &str) -> Result<KvTypes, String> {
    KvTypes::both(name).ok_or_else(|| "there is no such type; try f16, q8_0 or q4_0".to_owned())
}

impl PlanOptions {
    /// What is decided about the strategy.
    pub fn asked(&self) -> Asked {
        let Self { strategy, stream, host_copy_prefetch, experts, no_expert_rules, .. } = *self;
        Asked { strategy, stream, host_copy_prefetch, experts, no_expert_rules }
    }

    /// What may be used of each of several GPUs with this much free VRAM.
    pub fn budgets(&self, free: &[u64]) -> Vec<u64> {
        let reserve = self.vram_reserve.unwrap_or_else(|| Settings::default().vram_reserve);
        free.iter().map(|free| vram::budget(self.vram, *free, *free, reserve)).collect()
    }

    /// These, and what a command already decides: where both say something, the command does.
    #[must_use]
    pub fn around(&self, command: Self) -> Self {
        Self {
            ctx: command.ctx.or(self.ctx),
            parallel: command.parallel.or(self.parallel),
            ubatch: command.ubatch.or(self.ubatch),
            kv: command.kv.or(self.kv),
            server: command.server,
            ..self.clone()
        }
    }

    /// Every choice made for this model on this machine, and the micro-batches to try.
    ///
    /// # Errors
    /// When nobody says how much VRAM there is.
    pub fn setting(&self, facts: &Facts, figures: &Figures) -> Result<(Setting, Vec<u64>), String> {
        let reserve = self.vram_reserve.unwrap_or_else(|| Settings::default().vram_reserve);
        let budget = figures.gpu.as_ref().map(|gpu| vram::budget(self.vram, gpu.free, gpu.total, reserve));
        // Who only asks may ask about a larger card than there is.
        let asked = self.vram.filter(|_| !self.here);
        let vram = asked.or(budget).or(self.vram).ok_or_else(|| {
            let why = figures.missing.iter().find(|line| line.starts_with("GPU")).map_or("", String::as_str);
            format!(
                "no GPU was found ({why}).\nSay how much VRAM to plan for: --vram 24GiB; or see `greenboost doctor`."
            )
        })?;
        let available = Machine::here();
        let ram = available.available().unwrap_or(0).min(available.cgroup_limit().unwrap_or(u64::MAX));
        let trained = if facts.context == 0 { UNKNOWN_CONTEXT } else { facts.context };
        let tokens = self.ctx.unwrap_or_else(|| CONTEXT.min(trained));
        let ubatches = self.ubatch.map_or_else(
            || UBATCHES.iter().map(|ubatch| (*ubatch).min(tokens)).collect(),
            |ubatch| vec![ubatch.min(tokens)],
        );
        let kv = match self.kv.or_else(|| KvTypes::both("f16")) {
            Some(kv) => kv,
            None => return Err("the table of types has no F16".to_owned()),
        };
        let ram = if self.no_spill { 0 } else { self.ram.unwrap_or((ram as f64 * RAM_SHARE) as u64) };
        let ring = self.ring.unwrap_or_else(|| ring(facts, vram));
        if self.ring.is_some_and(|ring| ring >= vram) {
            let (ring, vram) = (format_size(ring), format_size(vram));
            return Err(format!("{RING_IS_NO_PART}: {ring} of {vram}.\nLeave --ring out to have it chosen."));
        }
        let ring_is_fixed = self.ring.is_some();
        let Server { unified, full_windows, kv_in_ram, no_flash_attention, all_outputs, .. } = &self.server;
        let context = ContextParams {
            full_windows: *full_windows,
            flash_attention: !no_flash_attention,
            ..ContextParams::new(tokens, ubatches[0], kv)
        };
        let context = context.with_slots(self.parallel.unwrap_or(SLOTS), unified.unwrap_or(true));
        let context = ContextParams { outputs: context.outputs.filter(|_| !all_outputs), ..context };
        Ok((Setting { vram, ram, context, kv_in_ram: *kv_in_ram, ring, ring_is_fixed }, ubatches))
    }
}
