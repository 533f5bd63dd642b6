//! The model files that the program has mapped, and where in them its tensors are.
//!
//! A GGUF file has a table: name, size and place of every tensor. llama.cpp maps the file before it asks for memory, so
//! that the table says where a tensor's bytes will come from before they come.

use super::area::{self, Area, FileId};
use super::file::ModelFile;
use super::reading::begins_with;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long what is mapped is taken to be the same where its changes are not seen.
const BLIND: Duration = Duration::from_millis(50);
const MAGIC: &[u8; 4] = b"GGUF";

/// A tensor's place in a file.
#[derive(Debug, Clone)]
pub struct Place {
    /// The file.
    pub file: Arc<ModelFile>,
    /// Where it begins, bytes.
    pub offset: u64,
}

/// A file's table: place and size of its tensors, by name.
#[derive(Debug)]
struct Table {
    file: Arc<ModelFile>,
    tensors: HashMap<String, (u64, u64)>,
}

/// What was seen at the last look.
#[derive(Debug)]
pub(super) struct Models {
    tables: Vec<Table>,
    /// Files that are not models.
    others: Vec<FileId>,
    looked: Option<(Option<u64>, Instant)>,
}

/// What of the program's mappings a look at them needs to know.
pub(super) trait Mapped {
    /// How often the program has changed its address space; `None` where that is not seen.
    fn changes(&self) -> Option<u64>;

    /// Whether a mapping is one of ours, and not the program's.
    fn is_ours(&self, start: u64) -> bool;

    /// The file that a mapping shows, opened if it is new.
    fn open(&self, area: &Area, path: &Path) -> Option<Arc<ModelFile>>;
}

impl Models {
    /// Nothing has been looked at.
    pub(super) const fn new() -> Self {
        Self { tables: Vec::new(), others: Vec::new(), looked: None }
    }

    /// Where a tensor of this name and size was at the last look. Where several files have it, in the one that was mapped
    /// last.
    pub(super) fn place(&self, name: &str, bytes: u64) -> Option<Place> {
        self.tables.iter().rev().find_map(|table| {
            let (offset, _) = table.tensors.get(name).filter(|(_, size)| *size == bytes)?;
            table.file.has_its_bytes().then(|| Place { file: table.file.clone(), offset: *offset })
        })
    }

    /// Looks at what is mapped, unless that is what it was.
    pub(super) fn look(&mut self, files: &impl Mapped) {
        let changes = files.changes();
        let is_known = |(seen, when): (Option<u64>, Instant)| match changes {
            Some(_) => seen == changes,
            None => when.elapsed() < BLIND,
        };
        if self.looked.is_some_and(is_known) {
            return;
        }
        let mut areas: Vec<_> = area::all()
            .into_iter()
            .filter(|(area, _)| area.is_read_only_file() && !files.is_ours(area.start))
            .collect();
        // A file has an area for each part of it that is mapped.
        areas.sort_by_key(|(area, _)| area.file);
        areas.dedup_by_key(|(area, _)| area.file);
        let is_mapped = |id: FileId| areas.binary_search_by_key(&id, |(area, _)| area.file).is_ok();
        self.tables.retain(|table| is_mapped(table.file.id()) && table.file.has_its_bytes());
        self.others.retain(|id| is_mapped(*id));
        for (area, path) in &areas {
            if !self.others.contains(&area.file) && !self.tables.iter().any(|table| table.file.id() == area.file) {
                self.meet(files, area, path);
            }
        }
        self.looked = Some((changes, Instant::now()));
    }

    /// Reads the table of a file that is new.
    fn meet(&mut self, files: &impl Mapped, area: &Area, path: &Path) {
        if !begins_with(area, path, MAGIC) {
            self.others.push(area.file);
            return;
        }
        // One that has just been written may be asked about again.
        let Some(file) = files.open(area, path) else { return };
        let header = file
            .reader()
            .map_err(|error| error.to_string())
            .and_then(|reader| greenboost_gguf::read(reader, file.size()).map_err(|error| error.to_string()));
        match header {
            Ok(header) => {
                log::debug!("{}: {} tensors", path.display(), header.tensors.len());
                let row = |it: greenboost_gguf::Tensor| (it.name, (it.offset, it.bytes));
                self.tables.push(Table { file, tensors: header.tensors.into_iter().map(row).collect() });
            }
            Err(why) => {
                log::warn!("{}: its tensors are not known: {why}", path.display());
                self.others.push(area.file);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Files;
    use crate::files::testing::MappedFile;
    use greenboost_gguf::write::Writer;

    #[test]
    fn tensors_are_known_by_name_and_size_while_their_file_is_mapped() {
        // Tokens take more than a buffer of the reader holds, as in every real model.
        let tokens = Writer::default().numbers("tokens.scores", &[7; 100_000]);
        let writer = tokens.tensor("models.first", &[8], "F32").tensor("models.second", &[1000], "F16");
        let (header, data) = writer.header();
        let (first, second) = (header.len() as u64, header.len() as u64 + 32);
        let content = [&header[..], &vec![0; data as usize]].concat();
        let mapped = MappedFile::of("model.gguf", &content, libc::MAP_SHARED, libc::PROT_READ);
        let other = MappedFile::new("other", 9000, libc::MAP_SHARED, libc::PROT_READ);
        // Changes are not seen here, so that what is mapped is looked at again only after a while.
        let files = Files::new();
        let offset = |name, bytes| {
            std::thread::sleep(BLIND * 2);
            files.place(name, bytes).map(|place| (place.offset, place.file.path().to_owned()))
        };
        assert_eq!(offset("models.first", 32), Some((first, mapped.path.clone())));
        assert_eq!(offset("models.second", 2000), Some((second, mapped.path.clone())));
        assert_eq!((offset("models.second", 2001), offset("models.third", 32)), (None, None));
        drop(mapped);
        assert_eq!(offset("models.first", 32), None);
        drop(other);
    }

    #[test]
    fn a_damaged_model_has_no_tensors() {
        let mapped = MappedFile::of(
            "bad.gguf",
            b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
            libc::MAP_SHARED,
            libc::PROT_READ,
        );
        std::thread::sleep(BLIND * 2);
        let files = Files::new();
        assert!(files.place("", 0).is_none() && files.place("a", 1).is_none());
        drop(mapped);
    }
}
