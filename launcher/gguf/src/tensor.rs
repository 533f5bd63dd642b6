//! One row of the table of tensors.

use crate::cursor::Cursor;
use crate::error::{Error, Problem};
use crate::types::TensorType;
use std::io::{Read, Seek};

const LONGEST_NAME: u64 = 512;
const MOST_DIMENSIONS: u32 = 4;
/// The shortest row: an empty name, no dimension, a type, an offset.
pub const SHORTEST: u64 = 8 + 4 + 4 + 8;

/// A tensor, and where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name: `blk.0.attn_q.weight`.
    pub name: String,
    /// Its type.
    pub kind: TensorType,
    /// Its dimensions, the fastest first; those it does not have are 1.
    pub shape: [u64; 4],
    /// Its bytes.
    pub bytes: u64,
    /// Which of the model's files it is in.
    pub file: usize,
    /// Where in that file it begins.
    pub offset: u64,
}

impl Tensor {
    /// The number of its weights.
    pub fn weights(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Reads a row; the offset still counts from the end of the header.
    pub(crate) fn read<R: Read + Seek>(cursor: &mut Cursor<R>) -> Result<Self, Error> {
        let name = cursor.text("a tensor's name", LONGEST_NAME)?;
        let count = cursor.u32(&name)?;
        if count > MOST_DIMENSIONS {
            let what = format!("the number of dimensions of tensor {name:?}");
            return Err(cursor.error(Problem::TooMany { what, count: count.into(), most: MOST_DIMENSIONS.into() }));
        }
        let mut shape = [1; 4];
        for dimension in shape.iter_mut().take(count as usize) {
            *dimension = cursor.u64(&name)?;
        }
        let id = cursor.u32(&name)?;
        let Some(kind) = TensorType::from_id(id) else {
            return Err(cursor.error(Problem::TensorType { tensor: name, kind: id }));
        };
        let wrong = |cursor: &Cursor<R>, why| {
            let shape = shape[..count as usize].to_vec();
            cursor.error(Problem::Shape { tensor: name.clone(), shape, kind: kind.name, why })
        };
        let weights = shape.iter().try_fold(1u64, |product, dimension| product.checked_mul(*dimension));
        let weights = weights.ok_or_else(|| wrong(cursor, "that is more than can be counted"))?;
        let bytes = kind.size(shape[0], weights).ok_or_else(|| wrong(cursor, "a row is not made of whole blocks"))?;
        let offset = cursor.u64(&name)?;
        Ok(Self { name, kind, shape, bytes, file: 0, offset })
    }
}
