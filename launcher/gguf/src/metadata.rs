//! The keys and values in front of the tensors.

use crate::cursor::Cursor;
use crate::error::{Error, Problem};
use std::collections::HashMap;
use std::io::{Read, Seek};

const LONGEST_KEY: u64 = 4096;
const LONGEST_TEXT: u64 = 64 << 10;
/// Per-layer values are kept; vocabularies are not.
const LONGEST_ARRAY: u64 = 4096;
/// What all values together may take; later ones are skipped as if too long.
const MOST_KEPT: u64 = 4 << 20;
/// The shortest key and value: an empty key, a type, a byte.
pub const SHORTEST: u64 = 8 + 4 + 1;

const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// A value. What is too long to be kept is [`Value::Skipped`].
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned number.
    Unsigned(u64),
    /// Any signed number.
    Signed(i64),
    /// Any number with a fraction.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A string.
    Text(String),
    /// Values of one type, none of them arrays.
    Array(Vec<Value>),
    /// A string or an array that was not kept, with its length.
    Skipped(u64),
}

impl Value {
    /// A whole number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(*value),
            Self::Signed(value) => u64::try_from(*value).ok(),
            Self::Bool(value) => Some(u64::from(*value)),
            _ => None,
        }
    }
}

/// All keys and values of a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(HashMap<String, Value>);

impl Metadata {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// A whole number.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// A string.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number of elements of an array, kept or not.
    pub fn length(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Value::Array(values) => Some(values.len() as u64),
            Value::Skipped(length) => Some(*length),
            _ => None,
        }
    }

    /// All keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Reads `count` keys with their values.
    pub(crate) fn read<R: Read + Seek>(cursor: &mut Cursor<R>, count: u64) -> Result<Self, Error> {
        let mut values = HashMap::new();
        let mut kept = 0;
        for _ in 0..count {
            let key = cursor.text("a key", LONGEST_KEY)?;
            let kind = cursor.u32(&key)?;
            kept += key.len() as u64;
            let value = read_value(cursor, &key, kind, &mut kept)?;
            if values.contains_key(&key) {
                return Err(cursor.error(Problem::Twice(format!("key {key:?}"))));
            }
            // Beyond the limit no model has keys that matter, and the sum of all keys stays bounded.
            if kept <= MOST_KEPT {
                values.insert(key, value);
            }
        }
        Ok(Self(values))
    }
}

fn read_value<R: Read + Seek>(cursor: &mut Cursor<R>, key: &str, kind: u32, kept: &mut u64) -> Result<Value, Error> {
    match kind {
        TEXT => {
            let len = cursor.u64(key)?;
            if len > LONGEST_TEXT || *kept + len > MOST_KEPT {
                cursor.skip(len, || format!("the value of {key:?}"))?;
                return Ok(Value::Skipped(len));
            }
            *kept += len;
            Ok(Value::Text(cursor.text_of(len, key)?))
        }
        ARRAY => read_array(cursor, key, kept),
        _ => number(cursor, key, kind),
    }
}

fn read_array<R: Read + Seek>(cursor: &mut Cursor<R>, key: &str, kept: &mut u64) -> Result<Value, Error> {
    let kind = cursor.u32(key)?;
    let count = cursor.u64(key)?;
    let what = || format!("the array of {key:?} with {count} elements");
    if kind == TEXT {
        cursor.need(count.saturating_mul(8), what)?;
        for _ in 0..count {
            let len = cursor.u64(key)?;
            cursor.skip(len, || format!("a string of {key:?}"))?;
        }
        return Ok(Value::Skipped(count));
    }
    let Some(size) = number_size(kind) else {
        return Err(cursor.error(Problem::ValueType { key: key.to_owned(), kind }));
    };
    let bytes = count.saturating_mul(size);
    cursor.need(bytes, what)?;
    let memory = count.saturating_mul(size_of::<Value>() as u64);
    if count > LONGEST_ARRAY || *kept + memory > MOST_KEPT {
        cursor.skip(bytes, what)?;
        return Ok(Value::Skipped(count));
    }
    *kept += memory;
    (0..count).map(|_| number(cursor, key, kind)).collect::<Result<_, _>>().map(Value::Array)
}

fn number_size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn number<R: Read + Seek>(cursor: &mut Cursor<R>, key: &str, kind: u32) -> Result<Value, Error> {
    let what = || format!("the value of {key:?}");
    Ok(match kind {
        0 => Value::Unsigned(u8::from_le_bytes(cursor.array(what)?).into()),
        1 => Value::Signed(i8::from_le_bytes(cursor.array(what)?).into()),
        2 => Value::Unsigned(u16::from_le_bytes(cursor.array(what)?).into()),
        3 => Value::Signed(i16::from_le_bytes(cursor.array(what)?).into()),
        4 => Value::Unsigned(u32::from_le_bytes(cursor.array(what)?).into()),
        5 => Value::Signed(i32::from_le_bytes(cursor.array(what)?).into()),
        6 => Value::Float(f32::from_le_bytes(cursor.array(what)?).into()),
        7 => Value::Bool(cursor.array::<1>(what)?[0] != 0),
        10 => Value::Unsigned(u64::from_le_bytes(cursor.array(what)?)),
        11 => Value::Signed(i64::from_le_bytes(cursor.array(what)?)),
        12 => Value::Float(f64::from_le_bytes(cursor.array(what)?)),
        _ => return Err(cursor.error(Problem::ValueType { key: key.to_owned(), kind })),
    })
}
