//! A plan for a model: every strategy with what is expected of it, the one to take, or why there is none.

use super::facts::{Class, Facts};
use super::measure::Figures;
use super::plan_options::PlanOptions;
use super::predict::{self, Machine, Prediction, Setting, Strategy};
use greenboost_contract::escaped;
use std::path::{Path, PathBuf};

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
    /// What was asked for.
    pub plan_options: PlanOptions,
    /// Every choice made.
    pub setting: Setting,
    /// The machine.
    pub figures: Figures,
    /// The machine as the formulas see it.
    pub machine: Machine,
    /// Every strategy.
    pub predictions: Vec<Prediction>,
}

impl Plan {
    /// Predicts every strategy for a model.
    ///
    /// # Errors
    /// When it is not known how much VRAM there is.
    pub fn new(path: &Path, facts: &Facts, figures: Figures, plan_options: &PlanOptions) -> Result<Self, String> {
        let (mut setting, ubatches) = plan_options.setting(facts, &figures)?;
        let machine = Machine::new(&figures);
        let asked = plan_options.asked();
        let predictions = match &plan_options.server.placement {
            // What the user has placed is the one thing that can happen.
            Some(user) => {
                predict::user_prediction(facts, &machine, &setting, &ubatches, user, &asked).into_iter().collect()
            }
            None if figures.gpus.len() > 1 => {
                // llama.cpp takes all of them, and only what is there whole is planned.
                let budgets = plan_options.budgets(&figures.gpus);
                setting.vram = budgets.iter().fold(0, |sum: u64, budget| sum.saturating_add(*budget));
                let devices = (&figures.gpus[..], &budgets[..]);
                predict::over_devices(facts, &machine, &setting, &ubatches, devices).into_iter().collect()
            }
            None => predict::predictions(facts, &machine, &setting, &ubatches, &asked),
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
            plan_options: plan_options.clone(),
            predictions,
            setting,
            figures,
            machine,
        })
    }

    /// The strategy to use, if any is possible.
    pub fn winner(&self) -> Option<&Prediction> {
        predict::winner(&self.predictions, self.asked())
    }

    /// A faster strategy, where it is not taken because it needs the CPU.
    pub fn passed_over(&self) -> Option<&Prediction> {
        predict::passed_over(&self.predictions, self.asked())
    }

    /// The strategy that was asked for, where that is the plan's to decide.
    fn asked(&self) -> Option<Strategy> {
        self.plan_options.strategy.filter(|_| self.plan_options.server.placement.is_none())
    }

    /// Whether the user's placement goes by tensor or by device, so that nothing is said of what it brings.
    pub fn is_only_named(&self) -> bool {
        self.plan_options.server.placement.as_ref().is_some_and(|user| user.is_opaque || self.figures.gpus.len() > 1)
    }

    /// Layers as llama.cpp's `-ngl` counts them, without the output.
    pub fn all_layers(&self) -> u64 {
        self.layers + self.speculative
    }

    /// Why no strategy is possible.
    pub fn objection(&self) -> String {
        let of = |strategy| self.predictions.iter().find(|prediction| prediction.strategy == strategy);
        let problem = |strategy| of(strategy).and_then(|prediction| prediction.problem.clone());
        if self.figures.gpus.len() > 1 && self.plan_options.server.placement.is_none() {
            return format!(
                "{}, and over several GPUs only what is there whole is planned.\nSet CUDA_VISIBLE_DEVICES to one of them, or place by hand (-ngl, -ts, -ncmoe)",
                problem(Strategy::Vram).unwrap_or_else(|| "something else than all in VRAM was asked for".to_owned())
            );
        }
        match self.plan_options.strategy {
            Some(strategy) => {
                let problem = problem(strategy).unwrap_or_default();
                format!("{} was asked for: {problem}; {}", strategy.row().name, self.can_be_had())
            }
            None if self.plan_options.no_spill => problem(Strategy::Vram).unwrap_or_default(),
            None => match self.predictions.iter().min_by_key(|prediction| self.lacking(prediction)) {
                Some(nearest) => {
                    let problem = nearest.problem.clone().unwrap_or_default();
                    format!("nothing fits; the nearest to it, {}, {problem}", nearest.strategy.row().name)
                }
                None => "nothing fits".to_owned(),
            },
        }
    }

    /// Bytes that a strategy needs and may not use.
    fn lacking(&self, prediction: &Prediction) -> u64 {
        let placement = &prediction.placement;
        let vram = placement.vram().saturating_sub(self.setting.vram);
        vram.saturating_add(placement.ram().saturating_sub(self.setting.ram))
    }

    /// Which strategies can be asked for here.
    fn can_be_had(&self) -> String {
        let names = self.predictions.iter().filter(|prediction| prediction.is_possible());
        let names: Vec<_> = names
            .filter_map(|prediction| prediction.strategy.row().asked_as)
            .map(greenboost_contract::Strategy::name)
            .collect();
        if names.is_empty() {
            "nothing else fits either".to_owned()
        } else {
            format!("what can be had: {}", names.join(", "))
        }
    }
}
