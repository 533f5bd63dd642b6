//! A reader that knows how much file is left, and asks before it takes.

use crate::error::{Error, Problem};
use std::io::{BufReader, Read, Seek, SeekFrom};

/// Reads little-endian values one after the other.
pub struct Cursor<R> {
    source: BufReader<R>,
    at: u64,
    /// Nothing is read from here on: the file's end, or where a header has become too long to be one.
    end: u64,
    end_is_limit: bool,
    longest: u64,
}

impl<R: Read + Seek> Cursor<R> {
    /// Reads from the start of `source`, which has `len` bytes; at most `longest` of them.
    pub fn new(mut source: R, len: u64, longest: u64) -> Result<Self, Error> {
        source.seek(SeekFrom::Start(0)).map_err(|error| Error::at(0, Problem::Io(error)))?;
        let end_is_limit = len > longest;
        Ok(Self {
            source: BufReader::with_capacity(64 << 10, source),
            at: 0,
            end: len.min(longest),
            end_is_limit,
            longest,
        })
    }

    /// How far it has come.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// An error at this place.
    pub fn error(&self, problem: Problem) -> Error {
        Error::at(self.at, problem)
    }

    /// Fails unless this many bytes are left.
    pub fn need(&self, bytes: u64, what: impl FnOnce() -> String) -> Result<(), Error> {
        let left = self.end - self.at;
        if bytes <= left {
            return Ok(());
        }
        Err(self.error(if self.end_is_limit {
            Problem::TooMany {
                what: "the length of the header".to_owned(),
                count: self.at.saturating_add(bytes),
                most: self.longest,
            }
        } else {
            Problem::Truncated { what: what(), need: bytes, left }
        }))
    }

    /// The next bytes; the caller bounds `N` and `len`.
    fn fill(&mut self, bytes: &mut [u8], what: impl FnOnce() -> String) -> Result<(), Error> {
        self.need(bytes.len() as u64, what)?;
        self.source.read_exact(bytes).map_err(|error| Error::at(self.at, Problem::Io(error)))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self, what: impl FnOnce() -> String) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    /// A 32-bit number.
    pub fn u32(&mut self, what: &str) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array(|| what.to_owned())?))
    }

    /// A 64-bit number.
    pub fn u64(&mut self, what: &str) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array(|| what.to_owned())?))
    }

    /// A string of at most `most` bytes; a longer one is an error.
    pub fn text(&mut self, what: &str, most: u64) -> Result<String, Error> {
        let len = self.u64(what)?;
        if len > most {
            return Err(self.error(Problem::TooMany { what: format!("the length of {what}"), count: len, most }));
        }
        self.text_of(len, what)
    }

    /// A string of `len` bytes, which the caller has bounded.
    pub fn text_of(&mut self, len: u64, what: &str) -> Result<String, Error> {
        self.need(len, || what.to_owned())?;
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes, || what.to_owned())?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// Skips this many bytes.
    pub fn skip(&mut self, bytes: u64, what: impl FnOnce() -> String) -> Result<(), Error> {
        self.need(bytes, what)?;
        // Fits: `need` has compared it with a length of at most 256 MiB.
        self.source.seek_relative(bytes as i64).map_err(|error| Error::at(self.at, Problem::Io(error)))?;
        self.at += bytes;
        Ok(())
    }
}
