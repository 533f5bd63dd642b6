//! `greenboost plan`: how fast a model will be on this machine, which way is fastest, and how to get it.
//!
//! [`facts`] reads the model's header, [`measure`] the machine, [`predict`] puts both into the formulas of DESIGN.md.
//! [`plan_command`] is all of it for a program that starts llama-server. gb-launch and the hook ask for it through
//! a process of its own, [`run_answer`]:
//!
//! ```no_run
//! use greenboost_launcher::plan::{CommandLine, When, Wishes, plan_command};
//! # let arguments = vec!["-m".to_owned(), "model.gguf".to_owned()];
//! let command = CommandLine { arguments: &arguments, variable: &|name| std::env::var(name).ok() };
//! if let Some((plan, open)) = plan_command(&command, &Wishes::default(), When::Unknown)? {
//!     for (name, value) in open {
//!         // LLAMA_ARG_N_GPU_LAYERS=999 and so on, for what the user has not set
//!         println!("{name}={value}");
//!     }
//!     println!("{}", plan.line().unwrap_or_default());
//! }
//! # Ok::<(), String>(())
//! ```

pub mod facts;
pub mod measure;
pub mod predict;

mod answer;
mod command_line;
mod commands;
mod llama_options;
mod report;
#[cfg(test)]
mod test_models;
pub mod wishes;

pub use answer::{AnswerOptions, run_answer};
pub use commands::Argument;
pub use llama_options::{CommandLine, LlamaOption};
pub use measure::{MeasureOptions, When, run_measurement};
pub use wishes::Wishes;

use crate::ollama::store;
use crate::output;
use clap::Args;
use facts::{Class, Facts, Uses};
use greenboost_contract::planned::DISABLE_GRAPHS;
use greenboost_contract::settings::{RING, RING_SHARE};
use greenboost_contract::{Strategy, escaped};
use greenboost_gguf::Model;
use measure::Figures;
use predict::{Prediction, Rig, Setting, Way};
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Options of `greenboost plan`.
#[derive(Debug, Args)]
pub struct Options {
    /// The model: a GGUF file, any part of a split one, or ollama:NAME[:TAG].
    #[arg(value_name = "MODEL")]
    model: String,
    #[command(flatten)]
    wishes: Wishes,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Measure this machine again, though its figures are known.
    #[arg(long)]
    remeasure: bool,
    /// Options of llama-server to plan around: -- -ngl 20 --swa-full
    #[arg(last = true, value_name = "OPTIONS")]
    arguments: Vec<OsString>,
}

/// Variables to set.
pub type Variables = Vec<(&'static str, String)>;

/// A plan for a model on this machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The model's file, the first of a split one.
    pub path: PathBuf,
    /// The model's name.
    pub name: String,
    /// Its architecture.
    pub architecture: String,
    /// Bytes of all its files.
    pub file_bytes: u64,
    /// Its layers.
    pub layers: u64,
    /// Blocks that only guess ahead, which are not loaded.
    pub speculative: u64,
    /// Whether llama.cpp is not known to know the architecture, so that the KV cache is the most it can be.
    pub is_upper_bound: bool,
    /// Experts in a layer, and those a token uses.
    pub experts: (u64, u64),
    /// The context it was trained for.
    pub trained_context: u64,
    /// Bytes of KV cache for one more token.
    pub kv_per_token: u64,
    /// Bytes of each class that it has.
    pub classes: Vec<(Class, u64)>,
    /// What was wished.
    pub wishes: Wishes,
    /// Every choice made.
    pub setting: Setting,
    /// The machine.
    pub figures: Figures,
    /// The machine as the formulas see it.
    pub rig: Rig,
    /// Every way.
    pub predictions: Vec<Prediction>,
}

impl Plan {
    /// Predicts every way to run a model.
    ///
    /// # Errors
    /// When it is not known how much VRAM there is.
    pub fn new(path: &Path, facts: &Facts, figures: Figures, wishes: &Wishes) -> Result<Self, String> {
        let (mut setting, ubatches) = wishes.setting(facts, &figures)?;
        let rig = Rig::new(&figures);
        let asked = wishes.asked();
        let predictions = match &wishes.server.placement {
            // What the user has placed is the one thing that can happen.
            Some(user) => {
                predict::user_prediction(facts, &rig, &setting, &ubatches, user, &asked).into_iter().collect()
            }
            None if figures.gpus.len() > 1 => {
                // llama.cpp takes all of them, and only what is there whole is planned.
                let budgets = wishes.budgets(&figures.gpus);
                setting.vram = budgets.iter().fold(0, |sum: u64, budget| sum.saturating_add(*budget));
                let devices = (&figures.gpus[..], &budgets[..]);
                predict::over_devices(facts, &rig, &setting, &ubatches, devices).into_iter().collect()
            }
            None => predict::predictions(facts, &rig, &setting, &ubatches, &asked),
        };
        let classes =
            Class::ALL.iter().map(|class| (*class, facts.class_bytes(*class))).filter(|(_, bytes)| *bytes > 0);
        Ok(Self {
            path: path.to_owned(),
            name: escaped(&facts.name).into_owned(),
            architecture: escaped(&facts.architecture).into_owned(),
            file_bytes: facts.file_bytes,
            layers: facts.layers.len() as u64,
            speculative: facts.speculative,
            is_upper_bound: facts.cache.is_upper_bound,
            experts: (facts.experts, facts.experts_used),
            trained_context: facts.context,
            kv_per_token: facts.cache.per_token(setting.context.kv),
            classes: classes.collect(),
            wishes: wishes.clone(),
            predictions,
            setting,
            figures,
            rig,
        })
    }

    /// The way to take, if any is possible.
    pub fn winner(&self) -> Option<&Prediction> {
        predict::winner(&self.predictions, self.asked())
    }

    /// A faster way, where it is not taken because it needs the CPU.
    pub fn passed_over(&self) -> Option<&Prediction> {
        predict::passed_over(&self.predictions, self.asked())
    }

    /// The way that was asked for, where that is the plan's to decide.
    fn asked(&self) -> Option<Way> {
        self.wishes.way.filter(|_| self.wishes.server.placement.is_none())
    }

    /// Whether the user's placement goes by tensor or by device, so that nothing is said of what it brings.
    pub fn is_only_named(&self) -> bool {
        self.wishes.server.placement.as_ref().is_some_and(|user| user.is_opaque || self.figures.gpus.len() > 1)
    }

    /// Layers as llama.cpp's `-ngl` counts them, without the output.
    pub fn all_layers(&self) -> u64 {
        self.layers + self.speculative
    }

    /// llama-server's options for the way to take. Where nothing may leave VRAM and the model does not fit, those that make
    /// it fail: by itself llama.cpp would leave layers to the CPU and be slow.
    pub fn arguments(&self) -> Vec<Argument> {
        match self.winner() {
            Some(winner) => commands::arguments(self, winner),
            None if self.wishes.no_spill => commands::insist_on_vram(),
            None => Vec::new(),
        }
    }

    /// The variables it needs beside llama.cpp's own.
    pub fn settings(&self) -> Variables {
        let Some(winner) = self.winner() else { return Variables::new() };
        let sets = winner.way.row().sets.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let direct = winner.direct.then(|| (DISABLE_GRAPHS, "1".to_owned()));
        sets.chain(direct).chain(self.ring(winner).map(|bytes| (RING, bytes.to_string()))).collect()
    }

    /// The size of the ring, where it is another than the hook's own choice.
    fn ring(&self, prediction: &Prediction) -> Option<u64> {
        let (ring, own) = (prediction.placement.ring, self.setting.vram / RING_SHARE);
        (prediction.way.row().has_ring && !self.setting.ring_is_fixed && ring != own).then_some(ring)
    }

    /// Options and settings as variables.
    pub fn environment(&self) -> Variables {
        let options = self.arguments().into_iter().map(|argument| (argument.option.variable, argument.value));
        options.chain(self.settings()).collect()
    }

    /// Why there is no way to take.
    pub fn objection(&self) -> String {
        let of = |way| self.predictions.iter().find(|prediction| prediction.way == way);
        let problem = |way| of(way).and_then(|prediction| prediction.problem.clone());
        if self.figures.gpus.len() > 1 && self.wishes.server.placement.is_none() {
            return format!(
                "{}, and over several GPUs only what is there whole is planned.\nSet CUDA_VISIBLE_DEVICES to one of them, or place by hand (-ngl, -ts, -ncmoe)",
                problem(Way::Vram).unwrap_or_else(|| "something else than all in VRAM was asked for".to_owned())
            );
        }
        match self.wishes.way {
            Some(way) => {
                let problem = problem(way).unwrap_or_default();
                format!("{} was asked for: {problem}; {}", way.row().name, self.can_be_had())
            }
            None if self.wishes.no_spill => problem(Way::Vram).unwrap_or_default(),
            None => match self.predictions.iter().min_by_key(|prediction| self.lacking(prediction)) {
                Some(nearest) => {
                    let problem = nearest.problem.clone().unwrap_or_default();
                    format!("nothing fits; the nearest to it, {}, {problem}", nearest.way.row().name)
                }
                None => "nothing fits".to_owned(),
            },
        }
    }

    /// Bytes that a way needs and may not use.
    fn lacking(&self, prediction: &Prediction) -> u64 {
        let placement = &prediction.placement;
        let vram = placement.vram().saturating_sub(self.setting.vram);
        vram.saturating_add(placement.ram().saturating_sub(self.setting.ram))
    }

    /// Which ways can be asked for here.
    fn can_be_had(&self) -> String {
        let names = self.predictions.iter().filter(|prediction| prediction.is_possible());
        let names: Vec<_> = names.filter_map(|prediction| prediction.way.row().asked_as).map(Strategy::name).collect();
        if names.is_empty() {
            "nothing else fits either".to_owned()
        } else {
            format!("what can be had: {}", names.join(", "))
        }
    }

    /// One line for a log: what was chosen and what to expect.
    pub fn line(&self) -> Option<String> {
        self.winner().map(|winner| commands::line(self, winner))
    }
}

/// Reads a model, measures this machine when that is due, and plans, around options for llama-server.
///
/// # Errors
/// What is wrong with the model, or that nobody knows how much VRAM there is; and what to do about it.
pub fn plan(model: &Path, arguments: &[OsString], wishes: &Wishes, when: When) -> Result<Plan, String> {
    let (first, facts) = read(model)?;
    let command = CommandLine { arguments, variable: &|_| None };
    let figures = measure::figures(&first, when).of_gpu(command.only_gpu());
    let wishes = if arguments.is_empty() { wishes.clone() } else { wishes.around(command.wishes(facts.context)) };
    Plan::new(&first, &facts, figures, &wishes)
}

/// Plans for a llama-server command around what it already says, and names what it leaves open. `None` where it names
/// no file as its model. What llama-server has options for comes from the command, everything else from `wishes`.
///
/// # Errors
/// As [`plan`].
pub fn plan_command<Word: AsRef<OsStr>>(
    command: &CommandLine<'_, Word>,
    wishes: &Wishes,
    when: When,
) -> Result<Option<(Plan, Variables)>, String> {
    let Some(model) = command.model() else { return Ok(None) };
    let (first, facts) = read(&model)?;
    let wishes = wishes.around(command.wishes(facts.context));
    let figures = measure::figures(&first, when).of_gpu(command.only_gpu());
    let plan = Plan::new(&first, &facts, figures, &wishes)?;
    let open = command.left_open(plan.arguments(), plan.settings());
    Ok(Some((plan, open)))
}

/// The facts of a model, and the first of its files.
fn read(model: &Path) -> Result<(PathBuf, Facts), String> {
    let read = Model::open(model).map_err(|error| error.to_string())?;
    let facts = Facts::new(&read).with(Uses::kept(&read));
    if facts.layers.is_empty() || facts.computed().bytes() == 0 {
        return Err(format!(
            "{}: it has no layers, so it is no language model (architecture {:?}).\nGive the file with the model's own weights, not a projector, adapter or vocabulary.",
            model.display(),
            facts.architecture
        ));
    }
    let first = read.files.first().map_or(model, |file| file.path.as_path());
    Ok((first.to_owned(), facts))
}

/// The file of `MODEL`: a path, or a name in Ollama's store.
///
/// # Errors
/// Why there is none.
pub fn locate(model: &str) -> Result<PathBuf, String> {
    match model.strip_prefix("ollama:") {
        Some(name) => store::find(name, &store::folders(|name| std::env::var(name).ok())),
        None => Ok(PathBuf::from(model)),
    }
}

/// Prints a plan. The exit code is 2 when there is none: what was asked for cannot be had, nothing fits, or nothing can be
/// said.
pub fn run(options: &Options) -> ExitCode {
    if std::io::stderr().is_terminal() {
        eprint!("Reading the model and this machine's speed (a first time takes some seconds) ...\r");
    }
    let when = if options.remeasure { When::Now } else { When::Unknown };
    let planned = locate(&options.model).and_then(|path| plan(&path, &options.arguments, &options.wishes, when));
    if std::io::stderr().is_terminal() {
        eprint!("\x1b[K");
    }
    let plan = match planned {
        Ok(plan) => plan,
        Err(problem) => {
            output::complain("greenboost plan", &problem);
            return ExitCode::from(2);
        }
    };
    if options.json {
        output::json(&report::json(&plan), false);
    } else {
        output::print(&report::text(&plan));
    }
    if plan.winner().is_some() {
        return ExitCode::SUCCESS;
    }
    eprintln!("greenboost plan: {}.", plan.objection());
    ExitCode::from(2)
}
