//! What one file says, before inheritance.

use crate::profile::{Matcher, Profile, Source, Variable};
use greenboost_contract::kernel::KernelRule;
use greenboost_contract::place::PlaceRule;
use greenboost_contract::{Assist, PageCache, PlanFor, ReportFree, ReportTotal, Settings, Spill, Stream};
use std::collections::BTreeMap;

/// A value and the line it stands on.
#[derive(Debug, Clone)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// The line, counted from one.
    pub line: usize,
}

/// A file's content; `None` is a key that is not there. A variable that is `None` is one the file takes away from
/// what it inherits.
#[derive(Debug, Clone)]
pub struct Draft {
    pub source: Source,
    pub name: Located<String>,
    pub description: Option<String>,
    pub inherits: Option<Located<String>>,
    pub priority: Option<i64>,
    pub matchers: Option<Vec<Matcher>>,
    pub include: Option<String>,
    pub exclude: Option<String>,
    pub threshold: Option<u64>,
    pub chunk: Option<u64>,
    pub vram_reserve: Option<u64>,
    pub backings: Option<Vec<String>>,
    pub spill: Option<Spill>,
    pub stream: Option<Stream>,
    pub ring: Option<u64>,
    pub assist: Option<Assist>,
    pub page_cache: Option<PageCache>,
    pub upload_threads: Option<u32>,
    pub free: Option<ReportFree>,
    pub total: Option<ReportTotal>,
    /// Before those of the parent: the first that fits decides.
    pub place: Vec<PlaceRule>,
    pub kernels: Vec<KernelRule>,
    pub plan: Option<PlanFor>,
    pub environment: BTreeMap<String, Option<Variable>>,
}

impl Draft {
    /// This draft with everything it leaves open taken from `parent`, or from the defaults.
    ///
    /// Which commands a profile is for (`match`, `priority`) and its description are taken only from a parent of the
    /// same name: a profile that extends another must not take over its commands by accident.
    pub fn complete(&self, parent: Option<&Profile>) -> Profile {
        let from_parent = parent.map(Profile::settings);
        let base = from_parent.unwrap_or_else(|| Settings { report_free: ReportFree::Clamped, ..Settings::default() });
        let namesake = parent.filter(|parent| parent.name == self.name.value);

        let mut environment = parent.map(|parent| parent.environment.clone()).unwrap_or_default();
        for (name, variable) in &self.environment {
            match variable {
                Some(variable) => environment.insert(name.clone(), variable.clone()),
                None => environment.remove(name),
            };
        }
        Profile {
            name: self.name.value.clone(),
            source: self.source.clone(),
            description: self
                .description
                .clone()
                .or_else(|| namesake.map(|parent| parent.description.clone()))
                .unwrap_or_default(),
            priority: self.priority.or_else(|| namesake.map(|parent| parent.priority)).unwrap_or(0),
            matchers: self
                .matchers
                .clone()
                .or_else(|| namesake.map(|parent| parent.matchers.clone()))
                .unwrap_or_default(),
            include: self.include.clone().unwrap_or(base.include),
            exclude: self.exclude.clone().unwrap_or(base.exclude),
            threshold: self.threshold.unwrap_or(base.threshold),
            chunk: self.chunk.unwrap_or(base.chunk),
            vram_reserve: self.vram_reserve.unwrap_or(base.vram_reserve),
            backings: self.backings.clone().unwrap_or(base.backings),
            spill: self.spill.unwrap_or(base.spill),
            stream: self.stream.unwrap_or(base.stream),
            ring: self.ring.or(base.ring),
            assist: self.assist.unwrap_or(base.assist),
            page_cache: self.page_cache.unwrap_or(base.page_cache),
            upload_threads: self.upload_threads.or(base.upload_threads),
            free: self.free.unwrap_or(base.report_free),
            total: self.total.unwrap_or(base.report_total),
            place: self.place.iter().chain(&base.place).cloned().collect(),
            kernels: self.kernels.iter().chain(&base.kernels).cloned().collect(),
            plan: self.plan.or_else(|| parent.map(|parent| parent.plan)).unwrap_or_default(),
            environment,
        }
    }
}
