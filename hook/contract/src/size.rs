//! SIZE: a whole or decimal number and a unit.
//!
//! `K`, `M`, `G`, `T` (also `KiB` ...) are powers of 1024, as memory is sold and as GPUs report it;
//! `KB`, `MB`, `GB`, `TB` are powers of 1000. A bare number is bytes.

use crate::value::{self, Scalar};
use serde::Deserializer;
use thiserror::Error;

/// Why a SIZE was refused; the message says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{text}' is not a size: {reason} (write a number and a unit, such as 512MiB, 12G or 1.5GiB)")]
pub struct SizeError {
    text: String,
    reason: &'static str,
}

const UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("kb", 1_000),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("mb", 1_000_000),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("gb", 1_000_000_000),
    ("t", 1 << 40),
    ("tib", 1 << 40),
    ("tb", 1_000_000_000_000),
];

/// Bytes of a SIZE.
///
/// # Errors
/// [`SizeError`] when there is no number, the unit is unknown, or the result does not fit.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let fail = |reason| SizeError { text: text.to_owned(), reason };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = (&trimmed[..digits], trimmed[digits..].trim().to_ascii_lowercase());
    if number.is_empty() {
        return Err(fail("it does not begin with a number"));
    }
    let factor = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| *factor)
        .ok_or_else(|| fail("its unit is unknown"))?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(|| fail("it is too large"));
    }
    let decimal: f64 = number.parse().map_err(|_| fail("its number cannot be read"))?;
    let bytes = decimal * factor as f64;
    // 2^64 itself is the first value that a cast would silently clamp.
    if bytes >= u64::MAX as f64 { Err(fail("it is too large")) } else { Ok(bytes.round() as u64) }
}

/// Reads a SIZE by serde.
///
/// # Errors
/// [`SizeError`], or that it is not a text.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    const ALLOWED: &str = "must be a size in quotes, such as \"512MiB\"";
    value::read(from, ALLOWED, |value| match value {
        Scalar::Text(text) => parse_size(text).map_err(|error| error.to_string()),
        _ => Err(ALLOWED.to_owned()),
    })
}

/// The same of a setting that may be absent.
///
/// # Errors
/// As [`deserialize`].
pub fn optional<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    deserialize(from).map(Some)
}

/// A size for people: two decimals at most, powers of 1024.
pub fn format_size(bytes: u64) -> String {
    const NAMES: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (name, factor) in NAMES {
        if bytes >= factor {
            let text = format!("{:.2}", bytes as f64 / factor as f64);
            return format!("{} {name}", text.trim_end_matches('0').trim_end_matches('.'));
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_1024_and_of_1000_are_told_apart() {
        assert_eq!(parse_size("12G"), Ok(12 << 30));
        assert_eq!(parse_size("12 GiB"), Ok(12 << 30));
        assert_eq!(parse_size("12GB"), Ok(12_000_000_000));
        assert_eq!(parse_size("1.5m"), Ok(3 << 19));
        assert_eq!(parse_size("4096"), Ok(4096));
    }

    #[test]
    fn nonsense_is_refused_with_what_was_written() {
        for text in ["", "G", "12X", "1.2.3G", "-5G", "99999999999T", "0x10", "∞"] {
            let error = parse_size(text).expect_err(text);
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        for bytes in [0, 1, 1023, 1 << 10, 3 << 19, 12 << 30, 5 << 40] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
    }
}
