//! Headers that are wrong: each is refused with what is wrong, where, and what to do.

use greenboost_gguf::write::Writer;
use greenboost_gguf::{Model, read};
use std::io::Cursor;

fn model() -> Writer {
    Writer::default().text("general.architecture", "llama").tensor("a", &[256, 2], "Q4_K").tensor("b", &[8], "F32")
}

fn with(change: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = model();
    change(&mut writer);
    let (mut header, data) = writer.header();
    header.resize(header.len() + data as usize, 0);
    header
}

fn bytes_at(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = with(|_| ());
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    file
}

fn key(kind: u32, value: &[u8]) -> Vec<u8> {
    let value = value.to_vec();
    with(|writer| writer.keys.push(("k".to_owned(), kind, value)))
}

fn alignment(value: u32) -> Vec<u8> {
    with(|writer| writer.keys.push(("general.alignment".to_owned(), 4, value.to_le_bytes().to_vec())))
}

fn typed_alignment(kind: u32, value: &[u8]) -> Vec<u8> {
    with(|writer| {
        writer.keys.push(("general.alignment".to_owned(), kind, value.to_vec()));
        // At 0, which is a multiple of everything.
        writer.tensors.truncate(1);
    })
}

fn array(kind: u32, count: u64) -> Vec<u8> {
    key(9, &[&kind.to_le_bytes()[..], &count.to_le_bytes()[..]].concat())
}

#[test]
fn each_fault_is_named() {
    let whole = with(|_| ());
    let header = model().header().0.len();
    let tensor = |change: fn(&mut (String, Vec<u64>, u32, u64))| with(|writer| change(&mut writer.tensors[1]));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "the first word needs 4 bytes and the file has 0 more"),
        ("another format", bytes_at(0, b"PK\x03\x04"), "begins with \"PK\\\\x03\\\\x04\" and not with \"GGUF\""),
        ("big-endian", bytes_at(4, &3u32.to_be_bytes()), "big-endian"),
        ("version 1", bytes_at(4, &1u32.to_le_bytes()), "its GGUF version is 1"),
        ("version 4", bytes_at(4, &4u32.to_le_bytes()), "Update GreenBoost"),
        ("ends in the counts", whole[..12].to_vec(), "the number of tensors needs 8 bytes and the file has 4 more"),
        ("ends in a key", whole[..30].to_vec(), "needs"),
        ("ends in a tensor", whole[..header - 40].to_vec(), "needs"),
        ("ends in the data", whole[..whole.len() - 40].to_vec(), "the file ends at"),
        (
            "huge number of tensors",
            bytes_at(8, &u64::MAX.to_le_bytes()),
            "the number of tensors is 18446744073709551615",
        ),
        ("large number of tensors", bytes_at(8, &200_000u64.to_le_bytes()), "200000 tensors needs"),
        ("huge number of keys", bytes_at(16, &(u64::MAX / 2).to_le_bytes()), "the number of keys is"),
        ("huge string", key(8, &u64::MAX.to_le_bytes()), "the value of \"k\" needs 18446744073709551615 bytes"),
        ("huge key", bytes_at(24, &(1u64 << 40).to_le_bytes()), "the length of a key is 1099511627776"),
        ("huge array of numbers", array(4, u64::MAX / 2), "the array of \"k\" with"),
        ("huge array of strings", array(8, u64::MAX / 2), "the array of \"k\" with"),
        ("array of arrays", array(9, 1), "the value of \"k\" has type 9"),
        ("unknown type of value", key(13, &[0]), "the value of \"k\" has type 13"),
        ("unknown type in array", array(77, 1), "has type 77"),
        (
            "key twice",
            with(|writer| writer.keys.push(writer.keys[0].clone())),
            "key \"general.architecture\" is there twice",
        ),
        ("alignment 0", alignment(0), "its alignment is 0"),
        ("alignment 48", alignment(48), "its alignment is 48"),
        (
            "alignment of text",
            with(|writer| *writer = writer.clone().text("general.alignment", "x")),
            "its alignment is 0",
        ),
        ("negative alignment", typed_alignment(5, &(-32i32).to_le_bytes()), "its alignment is 0"),
        ("alignment beyond the file", typed_alignment(10, &(1u64 << 63).to_le_bytes()), "the file ends at"),
        (
            "alignment given twice",
            with(|writer| *writer = writer.clone().number("general.alignment", 32).number("general.alignment", 64)),
            "key \"general.alignment\" is there twice",
        ),
        ("tensor twice", tensor(|tensor| tensor.0 = "a".to_owned()), "tensor \"a\" is there twice"),
        ("unknown type of tensor", tensor(|tensor| tensor.2 = 99), "tensor \"b\" has type 99, which is not known\n"),
        (
            "removed type of tensor",
            tensor(|tensor| tensor.2 = 31),
            "any more (Q4_0_4_4, removed from llama.cpp)\nQuantise",
        ),
        ("five dimensions", tensor(|tensor| tensor.1 = vec![1; 5]), "the number of dimensions of tensor \"b\" is 5"),
        ("too many weights", tensor(|tensor| tensor.1 = vec![1 << 40, 1 << 40]), "more than can be counted"),
        ("too many bytes", tensor(|tensor| tensor.1 = vec![1 << 63]), "cannot be [9223372036854775808] of F32"),
        ("part of a block", tensor(|tensor| tensor.2 = 12), "cannot be [8] of Q4_K: a row is not made of whole blocks"),
        ("unaligned tensor", tensor(|tensor| tensor.3 = 296), "that is not a multiple of the file's alignment"),
        ("tensor behind the end", tensor(|tensor| tensor.3 = 1 << 20), "the file ends at"),
        ("tensor far behind the end", tensor(|tensor| tensor.3 = u64::MAX - 31), "the file ends at"),
        ("overlapping tensors", tensor(|tensor| tensor.3 = 256), "tensor \"b\" lies at"),
        ("a tensor inside another", tensor(|tensor| tensor.3 = 0), "is there too"),
    ];
    for (what, file, words) in cases {
        let error = read(Cursor::new(&file), file.len() as u64).expect_err(what);
        let text = error.to_string();
        assert!(text.contains(words), "{what}: {words:?} is not in: {text}");
        assert!(text.lines().count() == 2 && text.ends_with('.'), "{what}: no advice in: {text}");
    }
}

/// Found by the fuzzer: a name was printed as it stood in the file.
#[test]
fn a_name_neither_breaks_the_line_nor_reaches_the_terminal() {
    for name in ["two\nlines", "\u{1b}[2J", "\u{9b}2J"] {
        let header = Writer::default().text(name, "").header().0;
        // Ends in the type of the value, behind the key.
        let cut = &header[..24 + 8 + name.len() + 2];
        let text = read(Cursor::new(cut), cut.len() as u64).expect_err("cut").to_string();
        assert_eq!((text.lines().count(), text.matches(char::is_control).count()), (2, 1), "{text:?}");
        assert!(text.contains("needs 4 bytes"), "{text}");
    }
}

#[test]
fn every_shorter_file_is_refused() {
    let whole = with(|_| ());
    // The last tensor's padding may be missing.
    for len in 0..whole.len() - 32 {
        assert!(read(Cursor::new(&whole[..len]), len as u64).is_err(), "{len} of {} bytes", whole.len());
    }
}

#[test]
fn an_error_names_the_file_and_the_place() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("broken.gguf");
    std::fs::write(&path, bytes_at(8, &u64::MAX.to_le_bytes())).expect("written");
    let text = Model::open(&path).expect_err("an error").to_string();
    assert!(text.starts_with(&format!("{}: at byte 16: the number of tensors", path.display())), "{text}");
    let text = Model::open(folder.path()).expect_err("a folder").to_string();
    assert!(text.contains("it is not a file"), "{text}");
    let text = Model::open(&folder.path().join("none.gguf")).expect_err("no file").to_string();
    assert!(text.contains("none.gguf: it cannot be read: No such file"), "{text}");
}

#[test]
fn a_header_longer_than_any_is_refused_without_reading_it() {
    struct Endless(u64);
    impl std::io::Read for Endless {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            self.0 += to.len() as u64;
            to.fill(0);
            Ok(to.len())
        }
    }
    impl std::io::Seek for Endless {
        fn seek(&mut self, _: std::io::SeekFrom) -> std::io::Result<u64> {
            Ok(0)
        }
    }
    let start = bytes_at(24, &1u64.to_le_bytes())[..24].to_vec();
    // One key of an endless array in a file of a terabyte.
    let mut start = start;
    start[8..16].copy_from_slice(&0u64.to_le_bytes());
    start.extend(1u64.to_le_bytes());
    start.push(b'k');
    start.extend(9u32.to_le_bytes());
    start.extend(0u32.to_le_bytes());
    start.extend((1u64 << 39).to_le_bytes());
    struct Chain(Cursor<Vec<u8>>, Endless);
    impl std::io::Read for Chain {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(to)? {
                0 => self.1.read(to),
                some => Ok(some),
            }
        }
    }
    impl std::io::Seek for Chain {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.1.seek(to)
        }
    }
    let error = read(Chain(Cursor::new(start), Endless(0)), 1 << 40).expect_err("too long");
    assert!(error.to_string().contains("the length of the header"), "{error}");
}
