//! The GGUF v3 container, as far as a toy needs it: a few metadata values and Q8_0 matrices.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Where tensor data may start: GGUF's default alignment.
pub const ALIGNMENT: u64 = 32;
/// Weights in a Q8_0 block.
pub const BLOCK: u64 = 32;
/// Bytes of a Q8_0 block: an f16 scale and 32 signed bytes.
pub const BLOCK_BYTES: u64 = 34;

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
const VALUE_U32: u32 = 4;
const VALUE_STRING: u32 = 8;
const TYPE_Q8_0: u32 = 8;

/// A Q8_0 matrix of the file; ggml counts columns first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name, as llama.cpp names such tensors.
    pub name: String,
    /// Weights in a row.
    pub cols: u64,
    /// Rows.
    pub rows: u64,
}

impl Tensor {
    /// Bytes of its data.
    pub fn bytes(&self) -> u64 {
        self.rows * self.cols / BLOCK * BLOCK_BYTES
    }
}

/// Writes everything in front of the tensor data, which must then follow in order, each tensor padded to
/// [`ALIGNMENT`].
pub fn write_header(out: &mut impl Write, numbers: &[(&str, u32)], tensors: &[Tensor]) -> Result<()> {
    let mut header = Vec::new();
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    header.extend_from_slice(&(numbers.len() as u64 + 1).to_le_bytes());
    put_string(&mut header, "general.architecture");
    header.extend_from_slice(&VALUE_STRING.to_le_bytes());
    put_string(&mut header, "toy");
    for (key, value) in numbers {
        put_string(&mut header, key);
        header.extend_from_slice(&VALUE_U32.to_le_bytes());
        header.extend_from_slice(&value.to_le_bytes());
    }
    let mut offset = 0u64;
    for tensor in tensors {
        put_string(&mut header, &tensor.name);
        header.extend_from_slice(&2u32.to_le_bytes());
        header.extend_from_slice(&tensor.cols.to_le_bytes());
        header.extend_from_slice(&tensor.rows.to_le_bytes());
        header.extend_from_slice(&TYPE_Q8_0.to_le_bytes());
        header.extend_from_slice(&offset.to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
    out.write_all(&header)?;
    Ok(())
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// An open model: the file mapped read-only, as llama.cpp maps it, and its table of contents.
pub struct Model {
    mapping: Mapping,
    numbers: BTreeMap<String, u32>,
    tensors: Vec<(Tensor, Range<usize>)>,
}

impl Model {
    /// Maps and reads `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let mapping = Mapping::of(path)?;
        let mut model = Self { mapping, numbers: BTreeMap::new(), tensors: Vec::new() };
        model.read().with_context(|| format!("{} is not a toy model", path.display()))?;
        Ok(model)
    }

    fn read(&mut self) -> Result<()> {
        let bytes = self.mapping.bytes();
        let mut reader = Reader { bytes, at: 0 };
        ensure!(reader.take(4)? == MAGIC, "no GGUF magic");
        ensure!(reader.u32()? == VERSION, "not version {VERSION}");
        let (tensor_count, value_count) = (reader.u64()?, reader.u64()?);
        let mut numbers = BTreeMap::new();
        for _ in 0..value_count {
            let key = reader.string()?;
            match reader.u32()? {
                VALUE_U32 => drop(numbers.insert(key, reader.u32()?)),
                VALUE_STRING => drop(reader.string()?),
                other => bail!("{key} has type {other}, which no toy model uses"),
            }
        }
        let mut found = Vec::new();
        for _ in 0..tensor_count {
            let name = reader.string()?;
            ensure!(reader.u32()? == 2, "{name} is no matrix");
            let (cols, rows) = (reader.u64()?, reader.u64()?);
            ensure!(reader.u32()? == TYPE_Q8_0, "{name} is not Q8_0");
            ensure!(cols % BLOCK == 0 && cols < 1 << 32 && rows < 1 << 32, "{name} is {cols} x {rows}");
            found.push((Tensor { name, cols, rows }, reader.u64()?));
        }
        let data = reader.at.next_multiple_of(ALIGNMENT as usize);
        let mut tensors = Vec::new();
        for (tensor, offset) in found {
            let start = data.checked_add(offset as usize).context("offset out of range")?;
            let end = start.checked_add(tensor.bytes() as usize).context("size out of range")?;
            ensure!(end <= bytes.len(), "{} ends behind the file", tensor.name);
            tensors.push((tensor, start..end));
        }
        self.numbers = numbers;
        self.tensors = tensors;
        Ok(())
    }

    /// A metadata number.
    pub fn number(&self, key: &str) -> Result<u32> {
        self.numbers.get(key).copied().with_context(|| format!("the model has no {key}"))
    }

    /// All tensors with their bytes in the mapping, in file order.
    pub fn tensors(&self) -> impl Iterator<Item = (&Tensor, &[u8])> {
        self.tensors.iter().map(|(tensor, range)| (tensor, &self.mapping.bytes()[range.clone()]))
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len()).context("the file ends early")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into()?))
    }

    fn string(&mut self) -> Result<String> {
        let length = self.u64()?;
        Ok(std::str::from_utf8(self.take(usize::try_from(length)?)?)?.to_owned())
    }
}

/// A file mapped shared and read-only.
struct Mapping {
    start: *mut libc::c_void,
    length: usize,
}

impl Mapping {
    fn of(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let length = usize::try_from(file.metadata()?.len())?;
        ensure!(length > 0, "{} is empty", path.display());
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        ensure!(start != libc::MAP_FAILED, "cannot map {}: {}", path.display(), std::io::Error::last_os_error());
        Ok(Self { start, length })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is `length` readable bytes until drop, and nobody truncates a model in use.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is our own mapping, and no slice of it outlives self.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(tensors: &[Tensor]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_header(&mut bytes, &[("toy.block_count", 3)], tensors).expect("writing to memory");
        bytes
    }

    fn open(bytes: &[u8]) -> Result<Model> {
        let path = std::env::temp_dir().join(format!("toy-{}-{:?}", std::process::id(), std::thread::current().id()));
        std::fs::write(&path, bytes)?;
        let model = Model::open(&path);
        std::fs::remove_file(&path)?;
        model
    }

    #[test]
    fn what_is_written_is_read() {
        let tensor = Tensor { name: "output.weight".to_owned(), cols: 64, rows: 3 };
        let mut bytes = header(std::slice::from_ref(&tensor));
        let data: Vec<u8> = (0..tensor.bytes()).map(|i| i as u8).collect();
        bytes.extend_from_slice(&data);
        let model = open(&bytes).expect("a good file");
        assert_eq!(model.number("toy.block_count").ok(), Some(3));
        assert!(model.number("toy.missing").is_err());
        assert_eq!(model.tensors().collect::<Vec<_>>(), [(&tensor, &data[..])]);
    }

    #[test]
    fn truncated_files_are_refused() {
        let bytes = header(&[Tensor { name: "output.weight".to_owned(), cols: 64, rows: 3 }]);
        for length in 1..bytes.len() {
            assert!(open(&bytes[..length]).is_err(), "{length} bytes");
        }
    }
}
