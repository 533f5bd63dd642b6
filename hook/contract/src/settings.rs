//! Everything the launcher tells the hook, as environment variables.
//!
//! A profile and the command line become one [`Settings`]; [`Settings::to_env`] writes it into the target's
//! environment, [`Settings::from_env`] reads it back inside the target by serde: a variable's name is the field's with
//! [`PREFIX`]. The environment is used because it
//! reaches grandchildren (`ollama serve` starts `llama-server`) without a file that somebody would have to delete.

mod names;
mod read;

use crate::choices::{
    ExpertCache, HostCopyPrefetch, Layers, PageCache, ReportFree, ReportTotal, Spill, Strategy, Stream,
};
use crate::kernel::{self, KernelRule};
use crate::place::{self, PlaceRule};
use crate::size;
pub use names::*;
use read::Variable;
pub use read::{SettingsError, threads};
use serde::Deserialize;
use serde::de::value::MapDeserializer;
use std::path::PathBuf;

/// What the hook does, as decided by a profile and the command line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "SCREAMING_SNAKE_CASE")]
pub struct Settings {
    /// Name of the profile in force.
    pub profile: String,
    /// Regular expression on the executable's base name: processes that are hooked. Empty: all.
    pub include: String,
    /// Regular expression on the executable's base name: processes that are not.
    pub exclude: String,
    /// Regular expression on the executable's base name: processes whose kernels write to weights, in which weights are
    /// neither copied nor read from their file ([`Settings::leave_weights_alone`]). Empty: none.
    pub trains: String,
    /// The log file, if any.
    pub log: Option<PathBuf>,
    /// The log level, as `env_logger` writes it.
    pub log_level: String,
    /// The interception layers.
    pub layers: Layers,
    /// Bytes of VRAM the program may take on each device; `None`: what is free, less [`Self::vram_reserve`].
    #[serde(deserialize_with = "size::optional")]
    pub vram: Option<u64>,
    /// Bytes of VRAM left to the driver when there is no explicit budget.
    #[serde(deserialize_with = "size::deserialize")]
    pub vram_reserve: u64,
    /// Bytes of RAM that may stand in for VRAM; `None`: a share of what is available.
    #[serde(deserialize_with = "size::optional")]
    pub ram: Option<u64>,
    /// An allocation of at least this many bytes is split into chunks.
    #[serde(deserialize_with = "size::deserialize")]
    pub threshold: u64,
    /// Bytes of a chunk, a multiple of [`GRANULE`].
    #[serde(deserialize_with = "read::chunk")]
    pub chunk: u64,
    /// What is reported as free.
    pub report_free: ReportFree,
    /// What is reported as total.
    pub report_total: ReportTotal,
    /// RAM backings in order of preference, from [`BACKING_NAMES`].
    #[serde(deserialize_with = "read::backings")]
    pub backings: Vec<String>,
    /// The kernel module's device, if not in its usual place.
    pub kmod_device: Option<PathBuf>,
    /// Whether memory may leave VRAM.
    pub spill: Spill,
    /// Where tensors should be; the first rule that fits decides.
    #[serde(deserialize_with = "place::deserialize")]
    pub place: Vec<PlaceRule>,
    /// Which kernels read weights outside VRAM from copies; the first rule that fits decides.
    #[serde(deserialize_with = "kernel::deserialize")]
    pub kernels: Vec<KernelRule>,
    /// The tier map's file, if any.
    pub map: Option<PathBuf>,
    /// Whether weights outside VRAM are streamed.
    pub stream: Stream,
    /// Whether the copies a framework makes of weights in host memory are served from VRAM.
    pub host_copy_prefetch: HostCopyPrefetch,
    /// Whether weights outside VRAM stay in the page cache of their file.
    pub page_cache: PageCache,
    /// Whether the experts that are used most are in VRAM.
    pub experts: ExpertCache,
    /// Threads that copy weights which are uploaded; `None`: half of the processors, up to 8.
    #[serde(deserialize_with = "read::upload_threads")]
    pub upload_threads: Option<u32>,
    /// Bytes of VRAM that streamed weights are copied into; `None`: a sixteenth of the budget.
    #[serde(deserialize_with = "size::optional")]
    pub ring: Option<u64>,
    /// What was planned, or why nothing was; empty where nobody asked.
    pub plan: String,
    /// The program that plans for a llama-server among the children, if they are to ask.
    pub planner: Option<PathBuf>,
    /// The strategy that plans have to take; `None`: the fastest.
    pub strategy: Option<Strategy>,
    /// Variables of [`PLANNED`] that plans have to leave as they are.
    #[serde(deserialize_with = "read::fixed")]
    pub fixed: Vec<String>,
    /// The trace's file, if any.
    pub trace: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            profile: "generic".to_owned(),
            include: String::new(),
            exclude: String::new(),
            trains: String::new(),
            log: None,
            log_level: "info".to_owned(),
            layers: Layers::default(),
            vram: None,
            vram_reserve: 512 << 20,
            ram: None,
            threshold: 256 << 20,
            chunk: 64 << 20,
            report_free: ReportFree::default(),
            report_total: ReportTotal::default(),
            backings: BACKING_NAMES.iter().map(|name| (*name).to_owned()).collect(),
            kmod_device: None,
            spill: Spill::default(),
            place: Vec::new(),
            kernels: Vec::new(),
            map: None,
            stream: Stream::default(),
            host_copy_prefetch: HostCopyPrefetch::default(),
            page_cache: PageCache::default(),
            experts: ExpertCache::default(),
            upload_threads: None,
            ring: None,
            plan: String::new(),
            planner: None,
            strategy: None,
            fixed: Vec::new(),
            trace: None,
        }
    }
}

impl Settings {
    /// Turns off everything that makes copies of weights, or takes their file for them: kernels write to them.
    pub fn leave_weights_alone(&mut self) {
        (self.stream, self.host_copy_prefetch, self.page_cache) = (Stream::Off, HostCopyPrefetch::Off, PageCache::Off);
    }

    /// The variables that carry these settings, [`ACTIVE`] among them.
    pub fn to_env(&self) -> Vec<(&'static str, String)> {
        let mut env = vec![
            (ACTIVE, "1".to_owned()),
            (PROFILE, self.profile.clone()),
            (INCLUDE, self.include.clone()),
            (EXCLUDE, self.exclude.clone()),
            (TRAINS, self.trains.clone()),
            (LOG_LEVEL, self.log_level.clone()),
            (LAYERS, self.layers.names()),
            (VRAM_RESERVE, self.vram_reserve.to_string()),
            (THRESHOLD, self.threshold.to_string()),
            (CHUNK, self.chunk.to_string()),
            (REPORT_FREE, self.report_free.name().to_owned()),
            (REPORT_TOTAL, self.report_total.name().to_owned()),
            (BACKINGS, self.backings.join(",")),
            (SPILL, self.spill.name().to_owned()),
            (PLACE, place::to_text(&self.place)),
            (KERNELS, kernel::to_text(&self.kernels)),
            (STREAM, self.stream.name().to_owned()),
            (HOST_COPY_PREFETCH, self.host_copy_prefetch.name().to_owned()),
            (PAGE_CACHE, self.page_cache.name().to_owned()),
            (EXPERTS, self.experts.name().to_owned()),
        ];
        env.extend(self.log.as_ref().map(|path| (LOG, path.to_string_lossy().into_owned())));
        env.extend(self.map.as_ref().map(|path| (MAP, path.to_string_lossy().into_owned())));
        env.extend(self.kmod_device.as_ref().map(|path| (KMOD_DEVICE, path.to_string_lossy().into_owned())));
        env.extend(Some(&self.plan).filter(|plan| !plan.is_empty()).map(|plan| (PLAN, plan.clone())));
        env.extend(self.planner.as_ref().map(|path| (PLANNER, path.to_string_lossy().into_owned())));
        env.extend(self.strategy.map(|strategy| (STRATEGY, strategy.name().to_owned())));
        env.extend(Some(self.fixed.join(",")).filter(|fixed| !fixed.is_empty()).map(|fixed| (FIXED, fixed)));
        env.extend(self.trace.as_ref().map(|path| (TRACE, path.to_string_lossy().into_owned())));
        env.extend(self.vram.map(|bytes| (VRAM, bytes.to_string())));
        env.extend(self.ram.map(|bytes| (RAM, bytes.to_string())));
        env.extend(self.upload_threads.map(|count| (UPLOAD_THREADS, count.to_string())));
        env.extend(self.ring.map(|bytes| (RING, bytes.to_string())));
        env
    }

    /// Every variable this module knows, for a launcher that clears what an outer launcher set.
    pub const VARIABLES: &'static [&'static str] = &[
        ACTIVE,
        AS_INIT,
        DISABLE,
        INCLUDE,
        EXCLUDE,
        TRAINS,
        PROFILE,
        LOG,
        LOG_LEVEL,
        LAYERS,
        VRAM,
        VRAM_RESERVE,
        RAM,
        THRESHOLD,
        CHUNK,
        REPORT_FREE,
        REPORT_TOTAL,
        BACKINGS,
        KMOD_DEVICE,
        SPILL,
        PLACE,
        KERNELS,
        MAP,
        STREAM,
        HOST_COPY_PREFETCH,
        PAGE_CACHE,
        EXPERTS,
        UPLOAD_THREADS,
        RING,
        PLAN,
        PLANNER,
        STRATEGY,
        FIXED,
        TRACE,
    ];

    /// Reads the settings through `get`, a look-up of environment variables. Unset or empty variables take
    /// their defaults.
    ///
    /// # Errors
    /// [`SettingsError`] names the first variable whose value cannot be used.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let set = Self::VARIABLES.iter().filter_map(|name| {
            let text = get(name).filter(|text| !text.is_empty())?;
            Some((name.strip_prefix(PREFIX)?, Variable { name, text }))
        });
        Self::deserialize(MapDeserializer::new(set))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(env: &[(&'static str, String)]) -> Result<Settings, SettingsError> {
        Settings::from_env(|name| env.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone()))
    }

    #[test]
    fn what_the_launcher_writes_is_what_the_hook_reads() {
        let settings = Settings {
            profile: "llama-server".to_owned(),
            include: "^llama-server$".to_owned(),
            exclude: "sh$".to_owned(),
            trains: "finetune".to_owned(),
            log: Some("/tmp/gb.log".into()),
            log_level: "debug".to_owned(),
            layers: Layers { inline: false, got: true, preload: false, bodies: true },
            vram: Some(12 << 30),
            vram_reserve: 1,
            ram: Some(3),
            threshold: 4,
            chunk: 2 << 20,
            report_free: ReportFree::Clamped,
            report_total: ReportTotal::Budget,
            backings: vec!["memfd".to_owned()],
            kmod_device: Some("/run/greenboost".into()),
            spill: Spill::Never,
            place: vec![PlaceRule::from_argument("ffn=ram").expect("a rule")],
            kernels: vec![KernelRule {
                name: "gemm".to_owned(),
                tensor: String::new(),
                read: kernel::AccessMode::Stream,
                experts: None,
            }],
            map: Some("/tmp/map.json".into()),
            stream: Stream::On,
            host_copy_prefetch: HostCopyPrefetch::On,
            page_cache: PageCache::On,
            experts: ExpertCache::On,
            upload_threads: Some(6),
            ring: Some(5),
            plan: "a model: all in VRAM".to_owned(),
            planner: Some("/usr/bin/greenboost".into()),
            strategy: Some(Strategy::Combined),
            fixed: vec![STREAM.to_owned(), RING.to_owned()],
            trace: Some("/tmp/trace.json".into()),
        };
        assert_eq!(read(&settings.to_env()), Ok(settings.clone()));
        let names: Vec<_> = settings.to_env().iter().map(|(name, _)| *name).collect();
        assert!(names.iter().all(|name| Settings::VARIABLES.contains(name)), "{names:?}");
    }

    #[test]
    fn every_yes_turns_everything_off_and_no_no_does() {
        assert!(["1", "yes", "true", "TRUE", "on", " y ", "2"].into_iter().all(is_disabled));
        assert!(!["", "0", "no", "No", "false", "off"].into_iter().any(is_disabled));
    }

    #[test]
    fn an_empty_environment_is_the_default() {
        assert_eq!(read(&[]), Ok(Settings::default()));
    }

    #[test]
    fn a_bad_value_names_its_variable_and_what_is_allowed() {
        for (name, value, hint) in [
            (VRAM, "lots", "number"),
            (CHUNK, "3M", "multiple"),
            (LAYERS, "got,magic", "inline"),
            (REPORT_FREE, "all", "extended"),
            (BACKINGS, "floppy", "memfd"),
            (SPILL, "maybe", "never"),
            (PLACE, "ffn", "five fields"),
            (KERNELS, "ffn", "three fields"),
            (STREAM, "perhaps", "on"),
            (HOST_COPY_PREFETCH, "perhaps", "on"),
            (PAGE_CACHE, "perhaps", "on"),
            (EXPERTS, "perhaps", "on"),
            (UPLOAD_THREADS, "65", "0 to 64"),
            (STRATEGY, "fastest", "extend-in-place"),
        ] {
            let error = read(&[(name, value.to_owned())]).expect_err(name).to_string();
            assert!(error.contains(name) && error.contains(hint), "{error}");
        }
    }
}
