//! What one file says, before inheritance. The keys a profile may have are the fields of these structs: what a refusal
//! lists as allowed comes from here, in this order.

use crate::ProfileError;
use crate::profile::{Matcher, Profile, Source};
use crate::refusal::{self, refusal};
use crate::values::{
    self, Environment, Line, at_least_granule, backings, chunk, expression, matchers, pattern, priority,
};
use greenboost_contract::experts::ExpertLayout;
use greenboost_contract::kernel::{AccessMode, KernelRule, NOT_WHOLE};
use greenboost_contract::place::{DEFAULT_PRIORITY, PlaceRule, Tier};
use greenboost_contract::settings::threads;
use greenboost_contract::{
    ExpertCache, HostCopyPrefetch, PageCache, PlanFor, ReportFree, ReportTotal, Settings, Spill, Stream, size,
};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

/// A file's content with where it comes from.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The file.
    pub source: Source,
    /// The line of its name.
    pub name_line: usize,
    /// The line of what it inherits.
    pub inherits_line: usize,
    /// What it says.
    pub file: File,
}

/// A file's content; `None` is a key that is not there.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub name: Spanned<Line>,
    pub description: Option<Line>,
    pub inherits: Option<Spanned<Line>>,
    #[serde(default, deserialize_with = "priority")]
    priority: Option<i64>,
    #[serde(default, rename = "match", deserialize_with = "matchers")]
    matchers: Option<Vec<Matcher>>,
    #[serde(default)]
    processes: Processes,
    #[serde(default)]
    memory: Memory,
    #[serde(default)]
    report: Report,
    /// Before those of the parent: the first that fits decides.
    #[serde(default, deserialize_with = "place_rules")]
    place: Vec<Place>,
    #[serde(default, rename = "kernel", deserialize_with = "kernel_rules")]
    kernels: Vec<Kernel>,
    plan: Option<PlanFor>,
    #[serde(default)]
    environment: Environment,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "must be a table: write [processes] on a line of its own")]
struct Processes {
    #[serde(default, deserialize_with = "pattern")]
    include: Option<String>,
    #[serde(default, deserialize_with = "pattern")]
    exclude: Option<String>,
    /// Those whose kernels write to weights.
    #[serde(default, deserialize_with = "pattern")]
    trains: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "must be a table: write [memory] on a line of its own")]
struct Memory {
    #[serde(default, deserialize_with = "at_least_granule")]
    threshold: Option<u64>,
    #[serde(default, deserialize_with = "chunk")]
    chunk: Option<u64>,
    #[serde(default, deserialize_with = "size::optional")]
    vram_reserve: Option<u64>,
    #[serde(default, deserialize_with = "backings")]
    backings: Option<Vec<String>>,
    spill: Option<Spill>,
    stream: Option<Stream>,
    #[serde(default, deserialize_with = "at_least_granule")]
    ring: Option<u64>,
    #[serde(alias = "assist")]
    host_copy_prefetch: Option<HostCopyPrefetch>,
    page_cache: Option<PageCache>,
    experts: Option<ExpertCache>,
    #[serde(default, deserialize_with = "upload_threads")]
    upload_threads: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "must be a table: write [report] on a line of its own")]
struct Report {
    free: Option<ReportFree>,
    total: Option<ReportTotal>,
}

/// `[[place]]`: where the tensors of a model should be.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "must be a table: write [[place]] on a line of its own before each rule")]
struct Place {
    #[serde(deserialize_with = "expression")]
    tensor: String,
    #[serde(default, deserialize_with = "values::layers")]
    layers: Option<(u32, u32)>,
    #[serde(default, deserialize_with = "size::deserialize")]
    at_least: u64,
    #[serde(default)]
    tier: Tier,
    #[serde(default = "default_priority", deserialize_with = "values::place_priority")]
    priority: u8,
}

fn default_priority() -> u8 {
    DEFAULT_PRIORITY
}

/// `[[kernel]]`: how kernels read weights that are outside VRAM.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "must be a table: write [[kernel]] on a line of its own before each rule")]
struct Kernel {
    #[serde(deserialize_with = "expression")]
    name: String,
    #[serde(default, deserialize_with = "expression")]
    tensor: String,
    read: AccessMode,
    /// Where the parameters of a kernel are that multiplies with chosen experts.
    #[serde(default, deserialize_with = "values::experts")]
    parameters: Option<ExpertLayout>,
}

fn place_rules<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Place>, D::Error> {
    values::tables(from, "must be tables: write [[place]] on a line of its own before each rule")
}

fn kernel_rules<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Kernel>, D::Error> {
    let rules: Vec<Kernel> =
        values::tables(from, "must be tables: write [[kernel]] on a line of its own before each rule")?;
    if rules.iter().all(|kernel| kernel.rule().is_whole()) { Ok(rules) } else { Err(D::Error::custom(NOT_WHOLE)) }
}

fn upload_threads<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    threads(from).map(Some)
}

/// Reads `text`, the content of `source`.
///
/// # Errors
/// [`ProfileError::Refused`] with the line, the whole key, the value as it was written, and what is allowed.
pub fn read(source: Source, text: &str) -> Result<Draft, ProfileError> {
    let at = refusal::Place { file: source.file(), text };
    let document = toml::Deserializer::parse(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        at.refuse(start, format!("this is not valid TOML: {}", error.message()))
    })?;
    let file: File = serde_path_to_error::deserialize(document).map_err(|error| refusal(&at, error))?;
    let line = |text: &Spanned<Line>| at.line(text.span().start);
    let (name_line, inherits_line) = (line(&file.name), file.inherits.as_ref().map_or(0, line));
    Ok(Draft { name_line, inherits_line, source, file })
}

impl Draft {
    /// The name.
    pub fn name(&self) -> &str {
        &self.file.name.get_ref().0
    }

    /// The name of what it inherits from.
    pub fn inherits(&self) -> Option<&str> {
        self.file.inherits.as_ref().map(|name| name.get_ref().0.as_str())
    }

    /// This draft with everything it leaves open taken from `parent`, or from the defaults.
    ///
    /// Which commands a profile is for (`match`, `priority`) and its description are taken only from a parent of the
    /// same name: a profile that extends another must not take over its commands by accident.
    pub fn complete(&self, parent: Option<&Profile>) -> Profile {
        let file = &self.file;
        let mut settings = parent.map_or_else(
            || Settings { report_free: ReportFree::Clamped, ..Settings::default() },
            |parent| parent.settings.clone(),
        );
        file.apply(&mut settings);
        let namesake = parent.filter(|parent| parent.name == self.name());
        let of_namesake = |own: Option<String>, of: fn(&Profile) -> String| own.or_else(|| namesake.map(of));

        let mut environment = parent.map(|parent| parent.environment.clone()).unwrap_or_default();
        for (name, variable) in &file.environment.0 {
            match variable {
                Some(variable) => environment.insert(name.clone(), variable.clone()),
                None => environment.remove(name),
            };
        }
        let description = file.description.as_ref().map(|text| text.0.clone());
        Profile {
            name: self.name().to_owned(),
            source: self.source.clone(),
            description: of_namesake(description, |parent| parent.description.clone()).unwrap_or_default(),
            priority: file.priority.or_else(|| namesake.map(|parent| parent.priority)).unwrap_or(0),
            matchers: file
                .matchers
                .clone()
                .or_else(|| namesake.map(|parent| parent.matchers.clone()))
                .unwrap_or_default(),
            plan: file.plan.or_else(|| parent.map(|parent| parent.plan)).unwrap_or_default(),
            settings: Settings { profile: self.name().to_owned(), ..settings },
            environment,
        }
    }
}

impl File {
    /// Makes what the file says part of what it inherits.
    fn apply(&self, to: &mut Settings) {
        let Self { processes, memory, report, .. } = self;
        set(&mut to.include, &processes.include);
        set(&mut to.exclude, &processes.exclude);
        set(&mut to.trains, &processes.trains);
        set(&mut to.threshold, &memory.threshold);
        set(&mut to.chunk, &memory.chunk);
        set(&mut to.vram_reserve, &memory.vram_reserve);
        set(&mut to.backings, &memory.backings);
        set(&mut to.spill, &memory.spill);
        set(&mut to.stream, &memory.stream);
        set(&mut to.host_copy_prefetch, &memory.host_copy_prefetch);
        set(&mut to.page_cache, &memory.page_cache);
        set(&mut to.experts, &memory.experts);
        set(&mut to.report_free, &report.free);
        set(&mut to.report_total, &report.total);
        to.ring = memory.ring.or(to.ring);
        to.upload_threads = memory.upload_threads.or(to.upload_threads);
        to.place.splice(..0, self.place.iter().map(Place::rule));
        to.kernels.splice(..0, self.kernels.iter().map(Kernel::rule));
    }
}

fn set<T: Clone>(to: &mut T, from: &Option<T>) {
    if let Some(value) = from {
        to.clone_from(value);
    }
}

impl Place {
    fn rule(&self) -> PlaceRule {
        let Self { tensor, layers, at_least, tier, priority } = self.clone();
        PlaceRule { tensor, layers, at_least, tier, priority }
    }
}

impl Kernel {
    fn rule(&self) -> KernelRule {
        let Self { name, tensor, read, parameters: experts } = self.clone();
        KernelRule { name, tensor, read, experts }
    }
}
