//! How the variables are read: each value by serde, and what is wrong with it under its variable's name.

use super::names::{BACKING_NAMES, GRANULE, MOST_UPLOAD_THREADS, PLANNED};
use crate::{size, value};
use serde::de::{Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use std::fmt;

pub(super) fn upload_threads<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    threads(from).map(Some)
}

/// Reads a count of upload threads by serde.
///
/// # Errors
/// When it is not a number, or is too high.
pub fn threads<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let allowed = format!("must be a whole number from 0 to {MOST_UPLOAD_THREADS}");
    value::read(from, &allowed, |value| {
        let count = value.number().and_then(|number| u32::try_from(number).ok());
        count.filter(|count| *count <= MOST_UPLOAD_THREADS).ok_or_else(|| allowed.clone())
    })
}

pub(super) fn chunk<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    value::text(from, |text| {
        let bytes = size::parse_size(text).map_err(|error| error.to_string())?;
        let is_multiple = bytes > 0 && bytes % GRANULE == 0;
        if is_multiple { Ok(bytes) } else { Err("must be a multiple of 2 MiB".to_owned()) }
    })
}

/// The words of a comma-separated list.
fn words(text: &str) -> Vec<String> {
    text.split(',').map(|word| word.trim().to_owned()).collect()
}

pub(super) fn backings<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    value::text(from, |text| match words(text) {
        names if names.iter().all(|name| BACKING_NAMES.contains(&name.as_str())) => Ok(names),
        _ => Err(format!("allowed are {}", BACKING_NAMES.join(", "))),
    })
}

pub(super) fn fixed<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let known = |name: &String| PLANNED.contains(&name.as_str());
    value::text(from, |text| Ok(words(text).into_iter().filter(known).collect()))
}

/// A variable whose value the hook cannot use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    variable: &'static str,
    value: String,
    problem: String,
}

impl std::error::Error for SettingsError {}

impl fmt::Display for SettingsError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}='{}': {}", self.variable, self.value, self.problem)
    }
}

impl serde::de::Error for SettingsError {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        Self { variable: "", value: String::new(), problem: problem.to_string() }
    }
}

/// A variable's value. What is wrong with it gets its name here.
pub(super) struct Variable {
    pub(super) name: &'static str,
    pub(super) text: String,
}

impl<'de> Deserializer<'de> for Variable {
    type Error = SettingsError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingsError> {
        let Self { name: variable, text } = self;
        visitor.visit_str(&text).map_err(|error: SettingsError| SettingsError { variable, value: text, ..error })
    }

    /// A variable that is set is there.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SettingsError> {
        visitor.visit_some(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct seq
        tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl IntoDeserializer<'_, SettingsError> for Variable {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}
