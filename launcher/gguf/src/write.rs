//! Writes GGUF headers for tests, right ones and wrong ones.

use crate::types::TensorType;

/// A file in the making. Tensors get their places one after the other; the data itself is zeroes.
#[derive(Debug, Clone)]
pub struct Writer {
    /// The first four bytes.
    pub magic: [u8; 4],
    /// The version that is written.
    pub version: u32,
    /// Keys, each with its type's number and encoded value.
    pub keys: Vec<(String, u32, Vec<u8>)>,
    /// Name, dimensions, type's number, offset.
    pub tensors: Vec<(String, Vec<u64>, u32, u64)>,
    /// What tensors are aligned to.
    pub alignment: u64,
    /// Where the next tensor goes, counted from the first.
    pub next: u64,
}

impl Default for Writer {
    fn default() -> Self {
        Self { magic: *b"GGUF", version: 3, keys: Vec::new(), tensors: Vec::new(), alignment: 32, next: 0 }
    }
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes(), value.as_bytes()].concat()
}

impl Writer {
    /// A string.
    pub fn text(mut self, key: &str, value: &str) -> Self {
        self.keys.push((key.to_owned(), 8, text(value)));
        self
    }

    /// A 32-bit number, as most are.
    pub fn number(mut self, key: &str, value: u32) -> Self {
        self.keys.push((key.to_owned(), 4, value.to_le_bytes().to_vec()));
        self
    }

    /// A value of any type, already encoded.
    pub fn raw(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.keys.push((key.to_owned(), kind, value.to_vec()));
        self
    }

    /// An array of 32-bit numbers.
    pub fn numbers(self, key: &str, values: &[u32]) -> Self {
        let mut bytes = 4u32.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self.raw(key, 9, &bytes)
    }

    /// An array of strings, as a vocabulary is.
    pub fn texts(self, key: &str, count: usize) -> Self {
        let mut bytes = 8u32.to_le_bytes().to_vec();
        bytes.extend((count as u64).to_le_bytes());
        for index in 0..count {
            bytes.extend(text(&index.to_string()));
        }
        self.raw(key, 9, &bytes)
    }

    /// A tensor after the last one.
    ///
    /// # Panics
    /// For a type that is not in the table, or rows that are not whole blocks.
    #[must_use]
    pub fn tensor(mut self, name: &str, shape: &[u64], kind: &str) -> Self {
        let kind = TensorType::from_name(kind).expect("a type of the table");
        let bytes = kind.size(shape[0], shape.iter().product()).expect("whole blocks");
        self.tensors.push((name.to_owned(), shape.to_vec(), kind.id, self.next));
        self.next += bytes.next_multiple_of(self.alignment.max(1));
        self
    }

    /// The header, and how many bytes of tensors have to follow it.
    pub fn header(&self) -> (Vec<u8>, u64) {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.keys.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.keys {
            bytes.extend(text(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for (name, shape, kind, offset) in &self.tensors {
            bytes.extend(text(name));
            bytes.extend((shape.len() as u32).to_le_bytes());
            bytes.extend(shape.iter().flat_map(|dimension| dimension.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        let padded = bytes.len().next_multiple_of(self.alignment.max(1) as usize);
        bytes.resize(padded, 0);
        (bytes, self.next)
    }

    /// Writes the file; the tensors are a hole, so that a model of any size takes no room.
    ///
    /// # Errors
    /// The system's.
    pub fn save(&self, path: &std::path::Path) -> std::io::Result<()> {
        let (header, data) = self.header();
        std::fs::write(path, &header)?;
        std::fs::OpenOptions::new().write(true).open(path)?.set_len(header.len() as u64 + data)
    }
}
