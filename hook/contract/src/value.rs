//! Single values as serde reads them, from a variable of the environment or from a profile, with errors that say what is
//! allowed.

use serde::de::{Deserializer, Error, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// A value as it was written. The environment has text only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar<'a> {
    /// Text.
    Text(&'a str),
    /// A whole number.
    Number(i64),
    /// `true` or `false`.
    Flag(bool),
}

impl Scalar<'_> {
    /// A whole number, also one that is written as text.
    pub fn number(self) -> Option<i64> {
        match self {
            Self::Text(text) => text.trim().parse().ok(),
            Self::Number(number) => Some(number),
            Self::Flag(_) => None,
        }
    }
}

/// Reads one value with `read`, which says what is wrong with it: what it says is the problem of this value, with its name
/// and place. `allowed` is said of a list or a table.
///
/// # Errors
/// That of `from`, or what `read` says.
pub fn read<'de, D: Deserializer<'de>, T>(
    from: D,
    allowed: &str,
    read: impl FnOnce(Scalar<'_>) -> Result<T, String>,
) -> Result<T, D::Error> {
    from.deserialize_any(Reader { allowed, read, _type: PhantomData })
}

/// Reads text with `parse`, which says what is wrong with it.
///
/// # Errors
/// That of `from`, or what `parse` says.
pub fn text<'de, D: Deserializer<'de>, T>(
    from: D,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    const ALLOWED: &str = "must be text in quotes";
    read(from, ALLOWED, |value| match value {
        Scalar::Text(text) => parse(text),
        _ => Err(ALLOWED.to_owned()),
    })
}

struct Reader<'a, F, T> {
    allowed: &'a str,
    read: F,
    _type: PhantomData<T>,
}

impl<F: FnOnce(Scalar<'_>) -> Result<T, String>, T> Visitor<'_> for Reader<'_, F, T> {
    type Value = T;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.allowed)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.read)(Scalar::Text(text)).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        (self.read)(Scalar::Number(number)).map_err(E::custom)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<T, E> {
        (self.read)(Scalar::Flag(flag)).map_err(E::custom)
    }
}
