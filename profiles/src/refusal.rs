//! What serde and TOML say about a file, as a refusal that names the line, the whole key, the value as it was written,
//! and what is allowed.

use crate::ProfileError;
use serde_path_to_error::Segment;

/// What to write for a key that has to be there.
const MISSING: &[(&str, &str)] = &[
    ("name", "add name = \"...\""),
    ("place.tensor", "give [[place]] a regular expression on tensor names, such as tensor = '_exps\\.'"),
    ("kernel.name", "give [[kernel]] a regular expression on kernel names, such as name = 'get_rows'"),
    ("kernel.read", "say how it reads, \"stream\", \"in-place\" or \"never\""),
];

/// A file as a user would name it, and its text.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// The file.
    pub file: String,
    /// Its content.
    pub text: &'a str,
}

impl Place<'_> {
    /// The line of a byte, counted from one.
    pub fn line(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count()
    }

    /// A refusal of what stands at this byte.
    pub fn refuse(&self, at: usize, problem: String) -> ProfileError {
        ProfileError::Refused { file: self.file.clone(), line: self.line(at), problem }
    }
}

/// The refusal of what serde did not take.
pub fn refusal(place: &Place<'_>, error: serde_path_to_error::Error<toml::de::Error>) -> ProfileError {
    // What toml wraps a value in to tell its place is no key of the file.
    let keys = error.path().iter().filter_map(|segment| match segment {
        Segment::Map { key } if !key.starts_with('$') => Some(key.clone()),
        _ => None,
    });
    let keys: Vec<String> = keys.collect();
    let error = error.into_inner();
    let span = error.span().unwrap_or(0..0);
    place.refuse(span.start, problem(&keys, place.text.get(span).unwrap_or_default(), error.message()))
}

fn problem(keys: &[String], written: &str, message: &str) -> String {
    let key = keys.join(".");
    // Names in serde's messages stand between backticks.
    let mut names = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field") {
        let place = match keys {
            [] | [_] => "at the top of a profile".to_owned(),
            [tables @ .., _] => format!("in [{}]", tables.join(".")),
        };
        let allowed: Vec<_> = names.skip(1).collect();
        return format!("{key} is not a known key: allowed {place} are {}", allowed.join(", "));
    }
    if message.starts_with("missing field") {
        let name = names.next().unwrap_or_default();
        let key = if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
        let hint = MISSING.iter().find(|(missing, _)| *missing == key).map_or("add it", |(_, hint)| hint);
        return format!("{key} is missing: {hint}");
    }
    // A table that names itself, since it has no value to show.
    if message.starts_with('[') {
        return message.to_owned();
    }
    let has_kind = ["invalid type: ", "invalid value: "].iter().any(|start| message.starts_with(start));
    let allowed = message.rsplit_once(", expected ").filter(|_| has_kind).map_or(message, |(_, allowed)| allowed);
    let mut lines = written.lines();
    let first = lines.next().unwrap_or_default();
    let more = if lines.next().is_some() { " ..." } else { "" };
    format!("{key} = {first}{more}: {allowed}")
}
