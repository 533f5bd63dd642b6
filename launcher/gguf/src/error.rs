//! What can be wrong with a model file: where, what, and what to do about it.

use greenboost_contract::escaped;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a model cannot be read.
#[derive(Debug, Error)]
#[error("{}: {}{problem}\n{}", name(.file), place(.problem, *.offset), .problem.advice())]
pub struct Error {
    /// The file, where there is one.
    pub file: Option<PathBuf>,
    /// How far the reader had come.
    pub offset: u64,
    /// What is wrong.
    #[source]
    pub problem: Problem,
}

fn name(file: &Option<PathBuf>) -> String {
    file.as_deref().map_or("model".to_owned(), |path| escaped(&path.to_string_lossy()).into_owned())
}

fn place(problem: &Problem, offset: u64) -> String {
    if problem.has_place() { format!("at byte {offset}: ") } else { String::new() }
}

impl Error {
    pub(crate) fn at(offset: u64, problem: Problem) -> Self {
        Self { file: None, offset, problem }
    }

    pub(crate) fn of(file: &Path, problem: Problem) -> Self {
        Self { file: Some(file.to_owned()), offset: 0, problem }
    }

    pub(crate) fn in_file(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }
}

/// What is wrong with a model file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Problem {
    /// The system could not open or read it.
    #[error("it cannot be read: {0}")]
    Io(std::io::Error),
    /// Something else than GGUF.
    #[error("it begins with {0:?} and not with \"GGUF\"")]
    Magic(String),
    /// Written on a machine with the other byte order.
    #[error("it is in big-endian byte order")]
    BigEndian,
    /// A version this reader does not know.
    #[error("its GGUF version is {0}, and versions 2 and 3 are known")]
    Version(u32),
    /// It ends inside its header.
    #[error("{} needs {need} bytes and the file has {left} more", escaped(.what))]
    Truncated {
        /// What was being read.
        what: String,
        /// Bytes wanted.
        need: u64,
        /// Bytes left.
        left: u64,
    },
    /// A number beyond what any model has.
    #[error("{} is {count}, more than the {most} that any model needs", escaped(.what))]
    TooMany {
        /// What was counted.
        what: String,
        /// The number in the file.
        count: u64,
        /// The limit.
        most: u64,
    },
    /// A value of a type GGUF does not have, or an array of arrays.
    #[error("the value of {key:?} has type {kind}, which GGUF does not have here")]
    ValueType {
        /// The key.
        key: String,
        /// The type's number.
        kind: u32,
    },
    /// A key or a tensor that is there twice.
    #[error("{0} is there twice")]
    Twice(String),
    /// An alignment that is not a power of two.
    #[error("its alignment is {0}, which is not a power of two")]
    Alignment(u64),
    /// A tensor of an unknown type.
    #[error("tensor {tensor:?} has type {kind}, which is not known{}", removed(*.kind))]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The type's number.
        kind: u32,
    },
    /// A tensor whose dimensions cannot be.
    #[error("tensor {tensor:?} cannot be {shape:?} of {kind}: {why}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        shape: Vec<u64>,
        /// Its type.
        kind: &'static str,
        /// What is wrong with them.
        why: &'static str,
    },
    /// A tensor that is not where tensors can be.
    #[error("tensor {tensor:?} lies at {at} with {bytes} bytes: {why}")]
    Place {
        /// The tensor.
        tensor: String,
        /// Offset in the file.
        at: u64,
        /// Its bytes.
        bytes: u64,
        /// What is wrong with that.
        why: String,
    },
    /// A part of a split model that does not fit the others.
    #[error("it is a part of a split model, and {0}")]
    Split(String),
}

fn removed(kind: u32) -> String {
    let found = crate::REMOVED.iter().find(|(id, _)| *id == kind);
    found.map_or_else(String::new, |(_, name)| format!(" any more ({name}, removed from llama.cpp)"))
}

impl Problem {
    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Io(_) => "Check the path and the file's permissions.",
            Self::Magic(_) => {
                "Give the .gguf file of a model; other formats are converted with llama.cpp's convert_hf_to_gguf.py."
            }
            Self::BigEndian => {
                "Download the little-endian file, or convert this one with llama.cpp's gguf_convert_endian.py."
            }
            Self::Version(0..=1) => "Convert the model again with a llama.cpp of today.",
            Self::Version(_) => "Update GreenBoost.",
            Self::Truncated { .. } | Self::Place { .. } => {
                "The file is incomplete or damaged: compare its size with the original's and download it again."
            }
            Self::TensorType { kind, .. } if crate::REMOVED.iter().any(|(id, _)| id == kind) => {
                "Quantise the model again with a llama.cpp of today."
            }
            Self::TensorType { .. } => "Update GreenBoost when llama.cpp loads the model; else the file is damaged.",
            Self::Split(_) => "Keep all parts of one download together in one folder, under the names they came with.",
            Self::TooMany { .. }
            | Self::ValueType { .. }
            | Self::Twice(_)
            | Self::Alignment(_)
            | Self::Shape { .. } => "The file is damaged, or was not made by llama.cpp's tools: download it again.",
        }
    }

    fn has_place(&self) -> bool {
        !matches!(self, Self::Io(_) | Self::Split(_) | Self::Magic(_) | Self::BigEndian | Self::Version(_))
    }
}
