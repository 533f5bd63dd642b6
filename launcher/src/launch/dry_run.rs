//! `--dry-run`: everything that would happen, for people.

use super::decide::Launch;
use greenboost_contract::kernel::KernelRule;
use greenboost_contract::place::PlaceRule;
use greenboost_contract::settings::PREFIX;
use greenboost_contract::{ExpertCache, HostCopyPrefetch, PageCache, Settings, Stream, format_size};
use greenboost_profiles::pattern;
use std::fmt::Write;
use std::path::Path;

/// The text `--dry-run` prints; `is_long` is all of it, else what a person decides about.
pub fn describe(launch: &Launch<'_>, is_long: bool) -> String {
    let settings = &launch.settings;
    let or = |bytes: Option<u64>, otherwise: String| bytes.map_or(otherwise, format_size);
    let command: Vec<_> = launch.command.iter().map(|word| quoted(&word.to_string_lossy())).collect();
    let mut rows = vec![("command", command.join(" ")), ("program", launch.started.first().path.display().to_string())];
    rows.extend(launch.started.runs().skip(1).map(|path| ("", format!("run by {}", path.display()))));
    rows.extend(launch.started.all_names().iter().filter(|name| is_excluded(launch, name)).map(|name| {
        ("", format!("{name} itself is left alone, as the profile excludes it; what it starts is looked at by name"))
    }));
    rows.extend([
        ("profile", format!("{}: {} ({})", launch.profile.name, launch.profile.description, launch.profile.source)),
        ("", format!("because {}", launch.reason)),
        (
            "VRAM",
            or(settings.vram, format!("what is free, less {} for the driver", format_size(settings.vram_reserve))),
        ),
        ("RAM", or(settings.ram, "a share of what is available".to_owned())),
        ("streaming", streaming(settings)),
    ]);
    rows.extend(launch.started.all_names().iter().filter(|name| fits(&settings.trains, name)).map(|name| {
        ("", format!("off in {name}, which trains: its kernels write to weights, so that copies would be old"))
    }));
    rows.push(("plan", plan(settings)));
    // A file that was asked for is worth a line.
    let asked = [("tier map", &settings.map), ("trace", &settings.trace), ("log", &settings.log)];
    let asked = asked.iter().filter(|(_, path)| path.is_some()).map(|(label, _)| *label);
    let asked: Vec<_> = asked.collect();
    rows.extend(details(launch).into_iter().filter(|(label, _)| is_long || asked.contains(label)));
    let mut text = String::new();
    for (label, value) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{label:<12} {value}");
    }
    variables(&mut text, launch, is_long);
    text
}

/// What hardly anybody has to decide.
fn details(launch: &Launch<'_>) -> Vec<(&'static str, String)> {
    let settings = &launch.settings;
    let log = settings.log.as_ref().map(|path| format!("{} ({})", path.display(), settings.log_level));
    vec![
        ("hook", launch.hook.display().to_string()),
        ("spill", format!("{} (RAM backings: {})", settings.spill.name(), settings.backings.join(", "))),
        (
            "allocations",
            format!("from {} on, in chunks of {}", format_size(settings.threshold), format_size(settings.chunk)),
        ),
        ("reported", format!("free: {}, total: {}", settings.report_free.name(), settings.report_total.name())),
        ("layers", settings.layers.names()),
        ("placement", placement(settings)),
        ("kernels", kernels(settings)),
        ("page cache", page_cache(settings).to_owned()),
        ("experts", experts(settings).to_owned()),
        ("uploads", uploads(settings)),
        ("tier map", file(settings.map.as_deref())),
        ("trace", file(settings.trace.as_deref())),
        ("log", log.unwrap_or("none".to_owned())),
    ]
}

/// The variables; where it is short, those that are not ours.
fn variables(text: &mut String, launch: &Launch<'_>, is_long: bool) {
    let is_shown = |name: &str| is_long || !(name.starts_with(PREFIX) || name == "LD_PRELOAD");
    let (shown, hidden): (Vec<_>, Vec<_>) = launch.variables.set.iter().partition(|(name, _)| is_shown(name));
    // Writing to a String cannot fail.
    let _ = writeln!(text, "set");
    for (name, value) in shown {
        let _ = writeln!(text, "    {name}={}", quoted(&value.to_string_lossy()));
    }
    if !hidden.is_empty() {
        let _ = writeln!(
            text,
            "    and {} variables of GreenBoost's own (-v shows them and everything else)",
            hidden.len()
        );
    }
    if !launch.variables.removed.is_empty() && is_long {
        let names: Vec<_> = launch.variables.removed.iter().map(|name| name.to_string_lossy()).collect();
        let _ = writeln!(text, "removed (an outer launcher's)\n    {}", names.join("\n    "));
    }
    if !launch.variables.skipped.is_empty() {
        let _ = writeln!(text, "left as it is");
        for (name, why) in &launch.variables.skipped {
            let _ = writeln!(text, "    {name}: {why}");
        }
    }
}

fn file(path: Option<&Path>) -> String {
    path.map_or("none".to_owned(), |path| path.display().to_string())
}

/// The rules, one a line: what is tried first stands first.
fn placement(settings: &Settings) -> String {
    let line = |rule: &PlaceRule| {
        let layers = rule.layers.map_or_else(String::new, |(first, last)| format!(", layers {first} to {last}"));
        let size = if rule.at_least > 0 { format!(", from {} on", format_size(rule.at_least)) } else { String::new() };
        format!("{:<4} {:>3}  {}{layers}{size}", rule.tier.name(), rule.priority, rule.tensor)
    };
    if settings.place.is_empty() {
        return "no rules: weights are alike".to_owned();
    }
    settings.place.iter().map(line).collect::<Vec<_>>().join(&format!("\n{:<12} ", ""))
}

/// How kernels read weights outside VRAM, in the same way.
fn kernels(settings: &Settings) -> String {
    let line = |rule: &KernelRule| {
        let tensor = if rule.tensor.is_empty() { String::new() } else { format!(", reading {}", rule.tensor) };
        format!("{:<8}  {}{tensor}", rule.read.name(), rule.name)
    };
    if settings.kernels.is_empty() {
        return "no rules: all read copies, but for rows and a token's experts".to_owned();
    }
    settings.kernels.iter().map(line).collect::<Vec<_>>().join(&format!("\n{:<12} ", ""))
}

fn streaming(settings: &Settings) -> String {
    let ring = settings.ring.map_or("a share of the VRAM".to_owned(), format_size);
    match (settings.stream, settings.host_copy_prefetch) {
        (Stream::Off, HostCopyPrefetch::Off) => "off: weights outside VRAM are read in place".to_owned(),
        (Stream::On, HostCopyPrefetch::Off) => format!("weights outside VRAM, through {ring}"),
        (Stream::Off, HostCopyPrefetch::On) => format!("llama.cpp's own copies, through {ring}"),
        (Stream::On, HostCopyPrefetch::On) => {
            format!("weights outside VRAM and llama.cpp's own copies, through {ring}")
        }
    }
}

fn page_cache(settings: &Settings) -> &'static str {
    match settings.page_cache {
        PageCache::Off => "off: weights outside VRAM are copied to RAM",
        PageCache::On => "weights outside VRAM stay in the model file's, where llama.cpp maps it",
    }
}

fn experts(settings: &Settings) -> &'static str {
    match settings.experts {
        ExpertCache::Off => "off: a mixture's experts are placed as other weights",
        ExpertCache::On => "those of a mixture that are used most are in VRAM",
    }
}

fn uploads(settings: &Settings) -> String {
    match settings.upload_threads {
        None => "by half of the processors, at most 8".to_owned(),
        Some(0 | 1) => "the driver's".to_owned(),
        Some(count) => format!("by {count} threads"),
    }
}

fn plan(settings: &Settings) -> String {
    match (&settings.planner, settings.plan.as_str()) {
        (Some(planner), _) => format!("for each model, by the llama-server that runs it (asks {})", planner.display()),
        (None, "") => "none: the profile asks for none".to_owned(),
        (None, plan) => plan.to_owned(),
    }
}

/// Whether a process of this name stays unhooked.
fn is_excluded(launch: &Launch<'_>, name: &str) -> bool {
    fits(&launch.settings.exclude, name)
}

fn fits(pattern: &str, name: &str) -> bool {
    !pattern.is_empty() && pattern::compile(pattern).is_ok_and(|pattern| pattern.is_match(name.as_bytes()))
}

/// A word as a shell would need it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
