//! An initramfs: the "newc" archive the kernel unpacks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// An archive under construction.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inodes: u32,
    folders: BTreeSet<PathBuf>,
}

impl Archive {
    /// Adds a folder, and those it lies in. One that is there already is not added again.
    pub fn folder(&mut self, name: &str) {
        let path = Path::new(name);
        if let Some(parent) = path.parent().and_then(Path::to_str).filter(|parent| !parent.is_empty()) {
            self.folder(parent);
        }
        if self.folders.insert(path.to_owned()) {
            self.entry(name, 0o040_755, &[]);
        }
    }

    /// Adds a program or another file, and the folder it lies in.
    pub fn file(&mut self, name: &str, content: &[u8]) {
        if let Some((folder, _)) = name.rsplit_once('/') {
            self.folder(folder);
        }
        self.entry(name, 0o100_755, content);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inodes += 1;
        let size = u32::try_from(content.len()).expect("an initramfs is small");
        let name_size = u32::try_from(name.len()).expect("a short name") + 1;
        // inode, mode, uid, gid, links, mtime, size, device (2), special device (2), length of name, checksum
        let fields = [self.inodes, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_contents_begin_where_the_kernel_looks_for_them() {
        let mut archive = Archive::default();
        archive.file("init", b"12345");
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[110..115], b"init\0");
        assert_eq!(&bytes[116..124], b"12345\0\0\0");
        assert_eq!(&bytes[124..130], b"070701");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn the_kernel_finds_the_folders_of_a_file_before_it_and_each_once() {
        let mut archive = Archive::default();
        archive.file("lib/x86/one", b"");
        archive.file("lib/x86/two", b"");
        let text = String::from_utf8_lossy(&archive.finish()).into_owned();
        let names: Vec<_> = ["lib\0", "lib/x86\0", "lib/x86/one\0"].iter().map(|name| text.find(name)).collect();
        assert!(names.iter().all(Option::is_some) && names.is_sorted(), "{names:?}");
        assert_eq!(text.matches("lib/x86\0").count(), 1);
    }
}
