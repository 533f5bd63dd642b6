//! What the command line, the user's environment and the profile say, made into one [`Settings`].
//!
//! The command line beats the user's environment, which beats the profile. Variables that an outer gb-launch set are
//! not the user's: it lists them in [`LAUNCHED`] with a fingerprint of their values, and those that still have that
//! value are dropped. So a launcher inside a launcher starts afresh, and what is set by hand in between counts.

use super::options::Options;
use super::output_file::{writable, writable_beside};
use super::refusal::Refusal;
use super::trace_file;
use greenboost_contract::place::PlaceRule;
use greenboost_contract::settings::{self, GRANULE};
use greenboost_contract::{ExpertCache, HostCopyPrefetch, Settings, Stream, format_size};
use greenboost_profiles::{Profile, pattern};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

/// Names the variables a launcher set: `NAME:fingerprint,...`.
pub const LAUNCHED: &str = "GREENBOOST_LAUNCHED";

const LOG_LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace"];

/// The environment as the user meant it, and what an outer launcher had put there.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The user's own.
    pub own: BTreeMap<OsString, OsString>,
    /// Set by an outer launcher and unchanged since.
    pub outer: Vec<OsString>,
}

impl Environment {
    /// Tells the user's own variables from an outer launcher's.
    pub fn new(variables: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let mut own: BTreeMap<_, _> = variables.collect();
        let marks = own.remove(&OsString::from(LAUNCHED)).unwrap_or_default().to_string_lossy().into_owned();
        let mut outer = vec![OsString::from(LAUNCHED)];
        for (name, mark) in marks.split(',').filter_map(|entry| entry.split_once(':')) {
            let name = OsString::from(name);
            if own.get(&name).is_some_and(|value| fingerprint(&value.to_string_lossy()) == mark) {
                own.remove(&name);
                outer.push(name);
            }
        }
        // A name of before means what its new one means, where that is not set.
        for (before, now) in settings::RENAMED {
            if let Some(value) = own.remove(OsStr::new(before)) {
                own.entry(OsString::from(now)).or_insert(value);
            }
        }
        Self { own, outer }
    }

    /// The same with variables that are set on the way to the program.
    pub fn with(&self, variables: &[(OsString, OsString)]) -> Self {
        let mut with = self.clone();
        with.own.extend(variables.iter().cloned());
        with
    }

    /// Whether the user has turned GreenBoost off.
    pub fn is_disabled(&self) -> bool {
        self.get(settings::DISABLE).is_some_and(|value| settings::is_disabled(&value))
    }

    /// The user's value of a variable; an empty one counts as not set.
    pub fn get(&self, name: &str) -> Option<String> {
        let value = self.own.get(&OsString::from(name))?;
        Some(value.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
    }
}

/// The value of [`LAUNCHED`] for these variables.
pub fn marks<'a>(variables: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    variables.map(|(name, value)| format!("{name}:{}", fingerprint(value))).collect::<Vec<_>>().join(",")
}

/// FNV-1a: short, the same in every build, and nothing depends on nobody forging it.
fn fingerprint(value: &str) -> String {
    let hash = value
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// The settings for a command whose processes are called `names`.
///
/// # Errors
/// When a value cannot be used; the message names its option or variable.
pub fn merge(profile: &Profile, options: &Options, user: &Environment, names: &[String]) -> Result<Settings, Refusal> {
    let from_profile = profile.settings.to_env();
    let of_profile = |name: &str| from_profile.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
    let value = |name: &str| match name {
        settings::ACTIVE | settings::PROFILE => of_profile(name),
        _ => user.get(name).or_else(|| of_profile(name)),
    };
    let mut merged = Settings::from_env(value)
        .map_err(|error| Refusal::usage(format!("your environment has {error}: correct or unset it")))?;
    check_log_level(&merged.log_level)?;
    if let Some(bytes) = options.vram {
        merged.vram = Some(bytes);
    }
    if let Some(bytes) = options.ram {
        merged.ram = Some(bytes);
    }
    merged.stream = options.stream.unwrap_or(merged.stream);
    merged.ring = options.ring.or(merged.ring);
    merged.host_copy_prefetch = options.host_copy_prefetch.unwrap_or(merged.host_copy_prefetch);
    merged.page_cache = options.page_cache.unwrap_or(merged.page_cache);
    merged.upload_threads = options.upload_threads.or(merged.upload_threads);
    merged.fixed = fixed(options, user, &profile.settings);
    merged.strategy = options.strategy.or(merged.strategy);
    if let Some(path) = options.log.clone().or_else(|| merged.log.clone()) {
        merged.log = Some(writable("log", "--log", &path, options.dry_run)?);
    }
    if let Some(path) = options.map.clone().or_else(|| merged.map.clone()) {
        merged.map = Some(writable_beside("tier map", "--map", &path)?);
    }
    if let Some(path) = options.trace.clone().or_else(|| merged.trace.clone()) {
        merged.trace = Some(trace_file::check(&path, &merged)?);
    }
    check_place(&merged.place)?;
    merged.place.splice(..0, options.place.iter().cloned());
    merged.log_level = match options.verbose {
        0 => merged.log_level,
        _ if merged.log.is_none() && options.dry_run => merged.log_level,
        _ if merged.log.is_none() => {
            return Err(Refusal::usage("-v needs --log FILE: GreenBoost never writes to the command's own output"));
        }
        1 => "debug".to_owned(),
        _ => "trace".to_owned(),
    };
    check_patterns(&merged)?;
    check_sizes(&merged, options)?;
    merged.include = with_command(&merged.include, names);
    Ok(merged)
}

/// What no plan may change: what the user said by option or variable, and what a profile says against the shipped ones.
/// Those turn streaming on and the prefetch off, as what the plan starts from.
fn fixed(options: &Options, user: &Environment, profile: &Settings) -> Vec<String> {
    let said = [
        (settings::STREAM, options.stream.is_some() || profile.stream == Stream::Off),
        (
            settings::HOST_COPY_PREFETCH,
            options.host_copy_prefetch.is_some() || profile.host_copy_prefetch == HostCopyPrefetch::On,
        ),
        (settings::RING, options.ring.is_some()),
        (settings::EXPERTS, profile.experts == ExpertCache::On),
    ];
    let said = said.into_iter().filter(|(name, said)| *said || user.get(name).is_some());
    said.map(|(name, _)| name.to_owned()).collect()
}

/// The include pattern with the command itself added: whatever a profile says, what the user names is meant.
fn with_command(include: &str, names: &[String]) -> String {
    let included = |name: &String| pattern::compile(include).is_ok_and(|include| include.is_match(name.as_bytes()));
    // An empty pattern includes everything.
    let missing: Vec<_> = names.iter().filter(|name| !included(name)).map(|name| regex::escape(name)).collect();
    if missing.is_empty() {
        include.to_owned()
    } else {
        pattern::any_of(&[include, &format!("^({})$", missing.join("|"))])
    }
}

fn check_log_level(level: &str) -> Result<(), Refusal> {
    if LOG_LEVELS.contains(&level) {
        return Ok(());
    }
    let allowed = LOG_LEVELS.join(", ");
    Err(Refusal::usage(format!("your environment has {}='{level}': allowed are {allowed}", settings::LOG_LEVEL)))
}

fn check_patterns(settings: &Settings) -> Result<(), Refusal> {
    for (name, pattern) in [
        (settings::INCLUDE, &settings.include),
        (settings::EXCLUDE, &settings.exclude),
        (settings::TRAINS, &settings.trains),
    ] {
        pattern::compile(pattern).map_err(|reason| {
            Refusal::usage(format!("your environment has {name}='{pattern}': is not a regular expression: {reason}"))
        })?;
    }
    Ok(())
}

fn check_sizes(settings: &Settings, options: &Options) -> Result<(), Refusal> {
    let source =
        |option: Option<u64>, name: &'static str, flag: &'static str| if option.is_some() { flag } else { name };
    let least = format_size(GRANULE);
    if let Some(bytes) = settings.vram.filter(|bytes| *bytes < GRANULE) {
        let which = source(options.vram, settings::VRAM, "--vram");
        return Err(Refusal::usage(format!(
            "{which} {}: must be at least {least}; leave it out to use what is free",
            format_size(bytes)
        )));
    }
    if let Some(bytes) = settings.ram.filter(|bytes| *bytes > 0 && *bytes < GRANULE) {
        let which = source(options.ram, settings::RAM, "--ram");
        return Err(Refusal::usage(format!(
            "{which} {}: must be 0 (nothing leaves VRAM) or at least {least}",
            format_size(bytes)
        )));
    }
    if let (Some(ring), Some(vram)) = (settings.ring, settings.vram)
        && ring >= vram
    {
        let which = source(options.ring, settings::RING, "--ring");
        return Err(Refusal::usage(format!(
            "{which} {}: has to be less than the VRAM that it is a part of, {}; leave it out to have it chosen",
            format_size(ring),
            format_size(vram)
        )));
    }
    if settings.threshold < GRANULE {
        return Err(Refusal::usage(format!(
            "{} {}: must be at least {least}",
            settings::THRESHOLD,
            format_size(settings.threshold)
        )));
    }
    Ok(())
}

/// Those of profiles and the command line have been checked where they were read.
fn check_place(rules: &[PlaceRule]) -> Result<(), Refusal> {
    for rule in rules {
        pattern::compile(&rule.tensor).map_err(|reason| {
            let (name, tensor) = (settings::PLACE, &rule.tensor);
            Refusal::usage(format!("your environment has {name}: '{tensor}' is not a regular expression: {reason}"))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment::new(pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))))
    }

    #[test]
    fn what_an_outer_launcher_set_is_dropped_and_what_was_changed_since_is_kept() {
        let marks = marks([("GREENBOOST_CHUNK", "67108864"), ("LLAMA_ARG_CTX_SIZE", "8192")].into_iter());
        let outer = [("GREENBOOST_CHUNK", "67108864"), ("LLAMA_ARG_CTX_SIZE", "8192"), (LAUNCHED, marks.as_str())];
        let untouched = environment(&outer);
        assert_eq!(untouched.get("GREENBOOST_CHUNK"), None);
        assert_eq!(untouched.get("LLAMA_ARG_CTX_SIZE"), None);
        let changed = environment(&[("GREENBOOST_CHUNK", "32M"), outer[1], outer[2]]);
        assert_eq!(changed.get("GREENBOOST_CHUNK").as_deref(), Some("32M"));
    }

    #[test]
    fn the_command_is_always_included_and_its_name_is_no_pattern() {
        let joined = with_command("^a$", &["a".to_owned(), "g++".to_owned(), "python3.11".to_owned()]);
        assert_eq!(joined, r"^(?:a|g\+\+|python3\.11)$");
        let regex = pattern::compile(&joined).expect("pattern");
        assert!(["a", "g++", "python3.11"].iter().all(|name| regex.is_match(name.as_bytes())));
        assert!(["ggg", "python3x11", "b"].iter().all(|name| !regex.is_match(name.as_bytes())));
        assert_eq!(with_command("", &["x".to_owned()]), "", "already everything");
        assert_eq!(with_command("^x", &["xy".to_owned()]), "^x", "already included");
    }
}
