//! The header of one file.

use crate::cursor::Cursor;
use crate::error::{Error, Problem};
use crate::metadata::{self, Metadata};
use crate::tensor::{self, Tensor};
use std::collections::HashSet;
use std::io::{Read, Seek};

/// No header is longer: the largest vocabularies take some 10 MiB.
pub const LONGEST_HEADER: u64 = 256 << 20;
/// Ten times what models with one tensor for each expert have.
const MOST_TENSORS: u64 = 1 << 18;
const MOST_KEYS: u64 = 1 << 16;
const DEFAULT_ALIGNMENT: u64 = 32;

/// What a file says about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Keys and values.
    pub metadata: Metadata,
    /// Its tensors, as listed; offsets count from the start of the file.
    pub tensors: Vec<Tensor>,
    /// Every tensor begins at a multiple of this, counted from the first.
    pub alignment: u64,
    /// Where the first tensor can begin.
    pub data: u64,
}

/// Reads the header of a file of `len` bytes.
///
/// # Errors
/// [`Error`], for a file that is not a model, or is damaged.
pub fn read<R: Read + Seek>(source: R, len: u64) -> Result<Header, Error> {
    let mut cursor = Cursor::new(source, len, LONGEST_HEADER)?;
    let version = version(&mut cursor)?;
    let tensors = count(&mut cursor, "the number of tensors", MOST_TENSORS)?;
    let keys = count(&mut cursor, "the number of keys", MOST_KEYS)?;
    let shortest = keys * metadata::SHORTEST + tensors * tensor::SHORTEST;
    cursor.need(shortest, || format!("a header with {keys} keys and {tensors} tensors"))?;

    let metadata = Metadata::read(&mut cursor, keys)?;
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(value) => value.as_u64().unwrap_or(0),
    };
    if !alignment.is_power_of_two() {
        return Err(cursor.error(Problem::Alignment(alignment)));
    }
    // Grows with what is really there.
    let mut list = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..tensors {
        let tensor = Tensor::read(&mut cursor)?;
        if !names.insert(tensor.name.clone()) {
            return Err(cursor.error(Problem::Twice(format!("tensor {:?}", tensor.name))));
        }
        list.push(tensor);
    }
    let data = cursor.at().checked_next_multiple_of(alignment);
    let data = data.ok_or_else(|| cursor.error(Problem::Alignment(alignment)))?;
    place(&mut list, data, alignment, len).map_err(|problem| cursor.error(problem))?;
    Ok(Header { version, metadata, tensors: list, alignment, data })
}

fn version<R: Read + Seek>(cursor: &mut Cursor<R>) -> Result<u32, Error> {
    let magic: [u8; 4] = cursor.array(|| "the first word".to_owned())?;
    if &magic != b"GGUF" {
        let text = magic.escape_ascii().to_string();
        return Err(cursor.error(Problem::Magic(text)));
    }
    match cursor.u32("the version")? {
        version @ (2 | 3) => Ok(version),
        version if matches!(version.swap_bytes(), 1..=3) => Err(cursor.error(Problem::BigEndian)),
        version => Err(cursor.error(Problem::Version(version))),
    }
}

fn count<R: Read + Seek>(cursor: &mut Cursor<R>, what: &str, most: u64) -> Result<u64, Error> {
    let count = cursor.u64(what)?;
    if count > most {
        return Err(cursor.error(Problem::TooMany { what: what.to_owned(), count, most }));
    }
    Ok(count)
}

/// Turns offsets into places in the file, and checks that each tensor is inside it and alone.
fn place(tensors: &mut [Tensor], data: u64, alignment: u64, len: u64) -> Result<(), Problem> {
    for tensor in tensors.iter_mut() {
        let wrong = |at, why: &str| Problem::Place {
            tensor: tensor.name.clone(),
            at,
            bytes: tensor.bytes,
            why: why.to_owned(),
        };
        if !tensor.offset.is_multiple_of(alignment) {
            return Err(wrong(tensor.offset, "that is not a multiple of the file's alignment"));
        }
        let end = data.checked_add(tensor.offset).and_then(|at| at.checked_add(tensor.bytes));
        if end.is_none_or(|end| end > len) {
            return Err(wrong(tensor.offset.saturating_add(data), &format!("the file ends at {len}")));
        }
        tensor.offset += data;
    }
    let mut order: Vec<&Tensor> = tensors.iter().filter(|tensor| tensor.bytes > 0).collect();
    order.sort_unstable_by_key(|tensor| tensor.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            let (tensor, at, bytes) = (pair[1].name.clone(), pair[1].offset, pair[1].bytes);
            return Err(Problem::Place { tensor, at, bytes, why: format!("tensor {:?} is there too", pair[0].name) });
        }
    }
    Ok(())
}
