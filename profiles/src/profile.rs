//! A profile, complete and checked.

use greenboost_contract::{PlanFor, Settings};
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

impl Source {
    /// The file, as a refusal names it.
    pub(crate) fn file(&self) -> String {
        match self {
            Self::BuiltIn(name) => format!("profiles/{name}"),
            Self::File(path) => path.display().to_string(),
        }
    }
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
            .find(|option| self.unless.iter().any(|unless| is_same_option(unless, option)))
    }
}

/// llama.cpp takes `_` for `-` in a long option.
fn is_same_option(one: &str, other: &str) -> bool {
    let same = |one: u8, other: u8| one == other || matches!((one, other), (b'-', b'_') | (b'_', b'-'));
    let is_long = one.starts_with("--") && one.len() == other.len();
    one == other || (is_long && one.bytes().zip(other.bytes()).all(|(one, other)| same(one, other)))
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
    /// The settings it asks for; everything a profile does not decide has its default.
    pub settings: Settings,
    /// Whose model is planned for.
    pub plan: PlanFor,
    /// Variables for the target, set where the user has not set them.
    pub environment: BTreeMap<String, Variable>,
}
