//! A profile, complete and checked.

use greenboost_contract::kernel::KernelRule;
use greenboost_contract::place::PlaceRule;
use greenboost_contract::{Assist, PageCache, PlanFor, ReportFree, ReportTotal, Settings, Spill, Stream};
use regex::bytes::Regex;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Where a profile was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Compiled in; the name of its file.
    BuiltIn(&'static str),
    /// A file of the system or the user.
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn(file) => write!(to, "built-in profiles/{file}"),
            Self::File(path) => write!(to, "{}", path.display()),
        }
    }
}

/// One `[match]`: a command matches when every pattern that is given does.
#[derive(Debug, Clone)]
pub struct Matcher {
    /// On the base name of the executable.
    pub executable: Option<Regex>,
    /// On the arguments, joined with spaces.
    pub arguments: Option<Regex>,
}

/// A variable a profile sets for its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// The value.
    pub value: String,
    /// Options of the target (`-c`, `--ctx-size`) that make the variable needless: it is not set when one is given.
    pub unless: Vec<String>,
    /// A plan for the model comes before this; what a profile says without it is the user's word, and the plan is made
    /// around it.
    pub unless_planned: bool,
}

impl Variable {
    /// The option among `arguments` that makes this variable needless, if there is one.
    pub fn replaced_by<'a>(&self, arguments: &'a [String]) -> Option<&'a str> {
        arguments
            .iter()
            .map(|argument| argument.split_once('=').map_or(argument.as_str(), |(option, _)| option))
            .find(|option| self.unless.iter().any(|unless| unless == option))
    }
}

/// How GreenBoost treats one framework.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The name, as in `--profile NAME`.
    pub name: String,
    /// What it is for, in a few words.
    pub description: String,
    /// Where it was read.
    pub source: Source,
    /// Higher is tried first.
    pub priority: i64,
    /// The commands it is for, any of them; none: it is used by name only.
    pub matchers: Vec<Matcher>,
    /// Pattern on the base name of an executable: processes that are hooked.
    pub include: String,
    /// Pattern on the base name of an executable: processes that are not.
    pub exclude: String,
    /// Bytes from which an allocation is cut in chunks.
    pub threshold: u64,
    /// Bytes of a chunk.
    pub chunk: u64,
    /// Bytes of VRAM left to the driver.
    pub vram_reserve: u64,
    /// RAM backings in order of preference.
    pub backings: Vec<String>,
    /// Whether memory may leave VRAM.
    pub spill: Spill,
    /// Whether weights outside VRAM are streamed.
    pub stream: Stream,
    /// Bytes of VRAM that they are streamed through; `None`: a share of the budget.
    pub ring: Option<u64>,
    /// Whether the program's own copies of weights are served ahead.
    pub assist: Assist,
    /// Whether weights outside VRAM stay in the page cache of their file.
    pub page_cache: PageCache,
    /// Threads that copy weights which are uploaded, if set.
    pub upload_threads: Option<u32>,
    /// What is reported as free.
    pub free: ReportFree,
    /// What is reported as total.
    pub total: ReportTotal,
    /// Where tensors should be; the first rule that fits decides.
    pub place: Vec<PlaceRule>,
    /// How kernels read weights outside VRAM; the first rule that fits decides.
    pub kernels: Vec<KernelRule>,
    /// Whose model is planned for.
    pub plan: PlanFor,
    /// Variables for the target, set where the user has not set them.
    pub environment: BTreeMap<String, Variable>,
}

impl Profile {
    /// The settings this profile asks for; everything a profile does not decide has its default.
    pub fn settings(&self) -> Settings {
        Settings {
            profile: self.name.clone(),
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            vram_reserve: self.vram_reserve,
            threshold: self.threshold,
            chunk: self.chunk,
            report_free: self.free,
            report_total: self.total,
            backings: self.backings.clone(),
            spill: self.spill,
            stream: self.stream,
            ring: self.ring,
            assist: self.assist,
            page_cache: self.page_cache,
            upload_threads: self.upload_threads,
            place: self.place.clone(),
            kernels: self.kernels.clone(),
            ..Settings::default()
        }
    }
}
