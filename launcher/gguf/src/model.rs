//! A model on disk: one file, or the parts `NAME-00001-of-00003.gguf` of a split one.

use crate::error::{Error, Problem};
use crate::header::{Header, read};
use crate::metadata::Metadata;
use crate::tensor::Tensor;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The largest models have some 50 parts.
const MOST_PARTS: u64 = 1024;
const MOST_TENSORS: usize = 1 << 18;

/// One of the model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its path.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
}

/// A model.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Its files, in order.
    pub files: Vec<File>,
    /// The first file's keys and values; the others repeat nothing that matters.
    pub metadata: Metadata,
    /// The tensors of all files.
    pub tensors: Vec<Tensor>,
}

impl Model {
    /// Reads the model that `path` is or is a part of.
    ///
    /// # Errors
    /// [`Error`], when a file is missing, cannot be read, is not GGUF or is damaged.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (file, header) = header(path)?;
        let number = |key: &str| header.metadata.number(key);
        let parts = number("split.count").unwrap_or(1);
        if parts <= 1 {
            return Ok(Self { files: vec![file], metadata: header.metadata, tensors: header.tensors });
        }
        if parts > MOST_PARTS {
            let problem = Problem::TooMany { what: "the number of parts".to_owned(), count: parts, most: MOST_PARTS };
            return Err(Error::of(path, problem));
        }
        let own = number("split.no").unwrap_or(0);
        let Some(prefix) = prefix(path, own, parts) else {
            let expected = format!("its name does not end in {:?}", ending(own, parts));
            return Err(Error::of(path, Problem::Split(expected)));
        };
        Self::join(&prefix, parts)
    }

    fn join(prefix: &str, parts: u64) -> Result<Self, Error> {
        let mut model = Self { files: Vec::new(), metadata: Metadata::default(), tensors: Vec::new() };
        let mut names = HashSet::new();
        let mut expected = None;
        for part in 0..parts {
            let path = PathBuf::from(format!("{prefix}{}", ending(part, parts)));
            let (file, header) = header(&path)?;
            let number = |key: &str| header.metadata.number(key);
            let wrong = |what: String| Error::of(&path, Problem::Split(what));
            if (number("split.no"), number("split.count")) != (Some(part), Some(parts)) {
                return Err(wrong(format!("it does not say that it is part {} of {parts}", part + 1)));
            }
            let mut tensors = header.tensors;
            for tensor in &mut tensors {
                tensor.file = part as usize;
                if !names.insert(tensor.name.clone()) {
                    return Err(wrong(format!("another part has tensor {:?} too", tensor.name)));
                }
            }
            model.tensors.append(&mut tensors);
            if model.tensors.len() > MOST_TENSORS {
                return Err(wrong(format!("all parts together have more than {MOST_TENSORS} tensors")));
            }
            model.files.push(file);
            if part == 0 {
                expected = number_of_tensors(&header.metadata);
                model.metadata = header.metadata;
            }
        }
        let found = model.tensors.len() as u64;
        match expected {
            Some(expected) if expected != found => {
                let path = model.files[0].path.clone();
                let what = format!("it speaks of {expected} tensors where all parts together have {found}");
                Err(Error::of(&path, Problem::Split(what)))
            }
            _ => Ok(model),
        }
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }
}

fn number_of_tensors(metadata: &Metadata) -> Option<u64> {
    metadata.number("split.tensors.count")
}

fn header(path: &Path) -> Result<(File, Header), Error> {
    let failed = |error| Error::of(path, Problem::Io(error));
    // Before it is opened: a FIFO would be waited for.
    let about = fs::metadata(path).map_err(failed)?;
    if !about.is_file() {
        return Err(failed(std::io::Error::other("it is not a file")));
    }
    let source = fs::File::open(path).map_err(failed)?;
    let header = read(source, about.len()).map_err(|error| error.in_file(path))?;
    Ok((File { path: path.to_owned(), bytes: about.len() }, header))
}

fn ending(part: u64, parts: u64) -> String {
    format!("-{:05}-of-{parts:05}.gguf", part + 1)
}

/// What all parts' paths begin with. A name that is not UTF-8 cannot be that of a split model.
fn prefix(path: &Path, part: u64, parts: u64) -> Option<String> {
    Some(path.to_str()?.strip_suffix(&ending(part, parts))?.to_owned())
}
