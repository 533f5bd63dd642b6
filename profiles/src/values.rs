//! The kinds of values in a profile, each with what is said of one that is none.

use crate::pattern;
use crate::profile::{Matcher, Variable};
use greenboost_contract::experts::ExpertLayout;
use greenboost_contract::place::{MAX_PRIORITY, parse_layers};
use greenboost_contract::settings::{BACKING_NAMES, GRANULE};
use greenboost_contract::size::parse_size;
use greenboost_contract::value::{self, Scalar};
use regex::bytes::Regex;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// Variables that only the launcher sets; the last ones change how every program is loaded.
const RESERVED_VARIABLES: &[&str] = &["GREENBOOST_", "LD_"];
const VARIABLE: &str =
    "must be text in quotes, false (do not set what the parent sets), or { value = \"...\", unless = [\"--option\"] }";

/// One line of text that is not empty.
#[derive(Debug, Clone)]
pub struct Line(pub String);

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        value::text(from, |text| line(text).map(Self))
    }
}

fn line(text: &str) -> Result<String, String> {
    let fine = !text.trim().is_empty() && !text.contains(char::is_control);
    if fine { Ok(text.to_owned()) } else { Err("must be one line of text that is not empty".to_owned()) }
}

/// One regular expression.
pub fn expression<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    value::text(from, |text| {
        let text = line(text)?;
        pattern::compile(&text).map_err(|reason| format!("is not a regular expression: {reason}"))?;
        Ok(text)
    })
}

/// One pattern out of one or several, each checked by itself so that the refusal points at the right line.
pub fn pattern<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let patterns = texts(from, "must be a regular expression in quotes, or a list of them", |_, pattern| {
        if pattern.is_empty() || pattern.contains(char::is_control) {
            return Err("must be a regular expression on one line".to_owned());
        }
        pattern::compile(pattern).map_err(|reason| format!("is not a regular expression: {reason}"))?;
        Ok(pattern.to_owned())
    })?;
    let patterns: Vec<_> = patterns.iter().map(String::as_str).collect();
    Ok(Some(pattern::any_of(&patterns)))
}

fn regex<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Regex>, D::Error> {
    let pattern = pattern(from)?.unwrap_or_default();
    pattern::compile(&pattern).map(Some).map_err(D::Error::custom)
}

/// Where the parameters of a kernel are.
pub fn experts<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ExpertLayout>, D::Error> {
    value::text(from, |text| text.parse().map(Some))
}

/// Names of backings, each once.
pub fn backings<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    let names = texts(from, "must be the name of a backing in quotes, or a list of them", |before: &[String], name| {
        if !BACKING_NAMES.contains(&name) {
            return Err(format!("allowed are {}", BACKING_NAMES.join(", ")));
        }
        if before.iter().any(|known| known == name) {
            return Err("is named twice".to_owned());
        }
        Ok(name.to_owned())
    });
    names.map(Some)
}

fn options<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    texts(from, "must be an option of the program in quotes, or a list of them", |_, option| Ok(option.to_owned()))
}

fn size<'de, D: Deserializer<'de>>(from: D, fine: fn(u64) -> bool, hint: &str) -> Result<Option<u64>, D::Error> {
    const ALLOWED: &str = "must be a size in quotes, such as \"512MiB\"";
    value::read(from, ALLOWED, |value| {
        let Scalar::Text(text) = value else { return Err(ALLOWED.to_owned()) };
        let bytes = parse_size(text).map_err(|error| error.to_string())?;
        if fine(bytes) { Ok(Some(bytes)) } else { Err(hint.to_owned()) }
    })
}

/// A size that is worth a chunk.
pub fn at_least_granule<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    size(from, |bytes| bytes >= GRANULE, "must be at least 2MiB")
}

/// The size of a chunk.
pub fn chunk<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let hint = "must be a multiple of 2MiB, such as 64MiB";
    size(from, |bytes| bytes > 0 && bytes % GRANULE == 0, hint)
}

fn number<'de, D: Deserializer<'de>, T>(
    from: D,
    allowed: &str,
    fine: impl FnOnce(i64) -> Option<T>,
) -> Result<T, D::Error> {
    value::read(from, allowed, |value| match value {
        Scalar::Number(number) => fine(number).ok_or_else(|| allowed.to_owned()),
        _ => Err(allowed.to_owned()),
    })
}

/// A profile's.
pub fn priority<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    number(from, "must be a whole number, such as 20 (higher is tried first)", |number| Some(Some(number)))
}

/// A placement rule's.
pub fn place_priority<'de, D: Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    number(from, "must be a whole number from 0 (leaves VRAM first) to 100 (leaves it last)", |number| {
        u8::try_from(number).ok().filter(|priority| *priority <= MAX_PRIORITY)
    })
}

/// One layer, or the first and the last.
pub fn layers<'de, D: Deserializer<'de>>(from: D) -> Result<Option<(u32, u32)>, D::Error> {
    const ALLOWED: &str = "must be a layer, such as 7, or the first and the last, such as \"0-15\"";
    value::read(from, ALLOWED, |value| {
        let layers = match value {
            Scalar::Number(number) => u32::try_from(number).ok().map(|number| (number, number)),
            Scalar::Text(text) => parse_layers(text),
            Scalar::Flag(_) => None,
        };
        layers.map(Some).ok_or_else(|| ALLOWED.to_owned())
    })
}

fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    const ALLOWED: &str = "must be true or false";
    value::read(from, ALLOWED, |value| match value {
        Scalar::Flag(flag) => Ok(flag),
        _ => Err(ALLOWED.to_owned()),
    })
}

/// `[match]`, or several `[[match]]`.
pub fn matchers<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Matcher>>, D::Error> {
    let allowed = "must be a table: write [match] or [[match]] on a line of its own";
    let matches: Vec<Match> = from.deserialize_any(Tables { allowed, may_be_alone: true, _type: PhantomData })?;
    Ok(Some(matches.into_iter().map(|Match { executable, arguments }| Matcher { executable, arguments }).collect()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "must be a table: write [match] or [[match]] on a line of its own")]
struct MatchKeys {
    #[serde(default, deserialize_with = "regex")]
    executable: Option<Regex>,
    #[serde(default, deserialize_with = "regex")]
    arguments: Option<Regex>,
}

#[derive(Deserialize)]
#[serde(try_from = "MatchKeys")]
struct Match {
    executable: Option<Regex>,
    arguments: Option<Regex>,
}

impl TryFrom<MatchKeys> for Match {
    type Error = &'static str;

    fn try_from(keys: MatchKeys) -> Result<Self, &'static str> {
        match keys {
            MatchKeys { executable: None, arguments: None } => {
                Err("[match] is empty: give it one or more of executable, arguments")
            }
            MatchKeys { executable, arguments } => Ok(Self { executable, arguments }),
        }
    }
}

/// Tables of one kind, each `[[key]]`.
pub fn tables<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D, allowed: &str) -> Result<Vec<T>, D::Error> {
    from.deserialize_any(Tables { allowed, may_be_alone: false, _type: PhantomData })
}

struct Tables<'a, T> {
    allowed: &'a str,
    /// One may be written as `[key]`.
    may_be_alone: bool,
    _type: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Tables<'_, T> {
    type Value = Vec<T>;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.allowed)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut tables: A) -> Result<Vec<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(table) = tables.next_element()? {
            all.push(table);
        }
        Ok(all)
    }

    fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Vec<T>, A::Error> {
        if !self.may_be_alone {
            return Err(A::Error::custom(self.allowed));
        }
        Ok(vec![T::deserialize(MapAccessDeserializer::new(table))?])
    }
}

/// Text, or a list of texts, each read by `read`, which sees those before it.
fn texts<'de, D: Deserializer<'de>, T>(
    from: D,
    allowed: &str,
    read: impl Fn(&[T], &str) -> Result<T, String>,
) -> Result<Vec<T>, D::Error> {
    from.deserialize_any(Texts { allowed, read, _type: PhantomData })
}

struct Texts<'a, T, F> {
    allowed: &'a str,
    read: F,
    _type: PhantomData<T>,
}

impl<'de, T, F: Fn(&[T], &str) -> Result<T, String>> Visitor<'de> for Texts<'_, T, F> {
    type Value = Vec<T>;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.allowed)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<T>, E> {
        (self.read)(&[], text).map(|text| vec![text]).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(text) = list.next_element_seed(Element { all: &all, texts: &self })? {
            all.push(text);
        }
        if all.is_empty() { Err(A::Error::custom(self.allowed)) } else { Ok(all) }
    }
}

struct Element<'a, 'b, T, F> {
    all: &'a [T],
    texts: &'a Texts<'b, T, F>,
}

impl<'de, T, F: Fn(&[T], &str) -> Result<T, String>> DeserializeSeed<'de> for Element<'_, '_, T, F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<T, D::Error> {
        let Self { all, texts } = self;
        value::read(from, texts.allowed, |value| match value {
            Scalar::Text(text) => (texts.read)(all, text),
            _ => Err(texts.allowed.to_owned()),
        })
    }
}

/// `[environment]`: a variable that is `None` is one the file takes away from what it inherits.
#[derive(Debug, Clone, Default)]
pub struct Environment(pub BTreeMap<String, Option<Variable>>);

impl<'de> Deserialize<'de> for Environment {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Names)
    }
}

struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = Environment;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("must be a table: write [environment] on a line of its own")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Environment, A::Error> {
        let mut all = BTreeMap::new();
        while let Some(name) = table.next_key::<String>()? {
            let variable = table.next_value_seed(Named(&name))?;
            all.insert(name, variable);
        }
        Ok(Environment(all))
    }
}

/// The value of a variable of this name.
struct Named<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Named<'_> {
    type Value = Option<Variable>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    value: Option<String>,
    #[serde(default, deserialize_with = "options")]
    unless: Vec<String>,
    #[serde(default, deserialize_with = "flag")]
    unless_planned: bool,
}

impl Named<'_> {
    fn variable<E: Error>(&self, keys: Keys) -> Result<Option<Variable>, E> {
        let Keys { value, unless, unless_planned } = keys;
        check_name(self.0).map_err(E::custom)?;
        let value = value.ok_or_else(|| E::custom(VARIABLE))?;
        if value.contains('\0') {
            return Err(E::custom("must not contain a zero byte"));
        }
        Ok(Some(Variable { value, unless, unless_planned }))
    }
}

impl<'de> Visitor<'de> for Named<'_> {
    type Value = Option<Variable>;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(VARIABLE)
    }

    fn visit_bool<E: Error>(self, set: bool) -> Result<Self::Value, E> {
        check_name(self.0).map_err(E::custom)?;
        if set { Err(E::custom(VARIABLE)) } else { Ok(None) }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        self.variable(Keys { value: Some(text.to_owned()), unless: Vec::new(), unless_planned: false })
    }

    fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Self::Value, A::Error> {
        let keys = Keys::deserialize(MapAccessDeserializer::new(table))?;
        self.variable(keys)
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if name.is_empty() || !plain || name.as_bytes()[0].is_ascii_digit() {
        return Err("is not the name of a variable: allowed are letters, digits and _".to_owned());
    }
    match RESERVED_VARIABLES.iter().find(|prefix| name.starts_with(**prefix)) {
        Some(prefix) => Err(format!("variables that begin with {prefix} are set by gb-launch alone")),
        None => Ok(()),
    }
}
