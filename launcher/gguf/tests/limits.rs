//! What is kept of the metadata, and from which byte on it is not: each limit is met, and passed by one.

use greenboost_gguf::write::Writer;
use greenboost_gguf::{Error, Metadata, Problem, Value, read};
use std::io::Cursor;

const LONGEST_KEY: usize = 4096;
const LONGEST_TEXT: usize = 64 << 10;
const LONGEST_ARRAY: usize = 4096;
const MOST_KEPT: usize = 4 << 20;

/// Types of numbers, with the bytes of one.
const NUMBERS: [(u32, usize); 11] =
    [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (10, 8), (11, 8), (12, 8)];

fn of_bytes(bytes: &[u8]) -> Result<Metadata, Error> {
    read(Cursor::new(bytes), bytes.len() as u64).map(|header| header.metadata)
}

#[track_caller]
fn of(writer: &Writer) -> Metadata {
    of_bytes(&writer.header().0).expect("a header")
}

fn array(kind: u32, bytes: usize, count: usize) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &(count as u64).to_le_bytes(), &vec![1; bytes * count]].concat()
}

#[test]
fn a_key_may_be_as_long_as_the_limit() {
    let key = "k".repeat(LONGEST_KEY);
    assert_eq!(of(&Writer::default().number(&key, 7)).number(&key), Some(7));
    let longer = Writer::default().number(&format!("{key}k"), 7).header().0;
    let refused = of_bytes(&longer).expect_err("one too long");
    assert!(matches!(refused.problem, Problem::TooMany { count: 4097, most: 4096, .. }), "{refused}");
}

#[test]
fn a_string_may_be_as_long_as_the_limit_and_a_longer_one_is_its_length() {
    let text = "t".repeat(LONGEST_TEXT);
    let found = of(&Writer::default().text("a", &text).text("b", &format!("{text}t")).number("after", 7));
    assert_eq!(found.text("a"), Some(&*text));
    assert_eq!(found.get("b"), Some(&Value::Skipped(LONGEST_TEXT as u64 + 1)));
    assert_eq!((found.text("b"), found.length("b"), found.length("a")), (None, Some(LONGEST_TEXT as u64 + 1), None));
    assert_eq!(found.number("after"), Some(7));
}

/// What follows shows that as much was read, or gone over, as there was.
#[test]
fn an_array_of_any_numbers_may_be_as_long_as_the_limit_and_a_longer_one_is_its_length() {
    for (kind, bytes) in NUMBERS {
        for (count, is_kept) in [(0, true), (2, true), (LONGEST_ARRAY, true), (LONGEST_ARRAY + 1, false)] {
            let writer = Writer::default().raw("a", 9, &array(kind, bytes, count)).number("after", 7);
            let found = of(&writer);
            let is_array = matches!(found.get("a"), Some(Value::Array(values)) if values.len() == count);
            assert_eq!(is_array, is_kept, "{count} of type {kind}");
            assert_eq!((found.length("a"), found.number("after")), (Some(count as u64), Some(7)), "{count} of {kind}");
        }
    }
}

#[test]
fn an_array_longer_than_the_file_is_refused_before_anything_is_made_of_it() {
    for (kind, count) in [(12, 100), (8, 1 << 40), (0, 1 << 40), (12, u64::MAX / 8), (12, u64::MAX)] {
        let value = [&u32::to_le_bytes(kind)[..], &u64::to_le_bytes(count), &[0; 64]].concat();
        let refused = of_bytes(&Writer::default().raw("a", 9, &value).header().0).expect_err("too long");
        let Problem::Truncated { what, .. } = &refused.problem else { panic!("{refused}") };
        assert!(what.contains("the array of \"a\""), "{refused}");
    }
}

/// As many strings of the longest kind as there is room for, and what is left of it.
fn nearly_full() -> (Writer, usize) {
    let text = "t".repeat(LONGEST_TEXT);
    let writer = (10..73).fold(Writer::default(), |writer, key| writer.text(&format!("k{key}"), &text));
    (writer, MOST_KEPT - 63 * (3 + LONGEST_TEXT))
}

#[test]
fn all_values_together_may_take_as_much_as_the_limit() {
    let (writer, left) = nearly_full();
    let last = "l".repeat(left - "last".len());
    let found = of(&writer.text("last", &last).number("after", 7));
    assert_eq!(found.text("last"), Some(&*last));
    // Nothing of a key that comes then, and not the key.
    assert_eq!((found.get("after"), found.keys().count()), (None, 64));

    let (writer, _) = nearly_full();
    let found = of(&writer.text("last", &format!("{last}l")).number("after", 7));
    assert_eq!(found.get("last"), Some(&Value::Skipped(last.len() as u64 + 1)));
    assert_eq!((found.number("after"), found.keys().count()), (Some(7), 65));
}

#[test]
fn keys_count_towards_what_all_values_take() {
    let numbered = |count: usize| {
        (0..count).fold(Writer::default(), |writer, at| writer.number(&format!("{at:0>LONGEST_KEY$}"), 7))
    };
    let most = MOST_KEPT / LONGEST_KEY;
    assert_eq!(of(&numbered(most)).keys().count(), most);
    assert_eq!(of(&numbered(most + 1)).keys().count(), most);
}

#[test]
fn arrays_count_as_what_they_take_in_memory() {
    let arrays =
        (10..50).fold(Writer::default(), |writer, key| writer.raw(&format!("k{key}"), 9, &array(0, 1, LONGEST_ARRAY)));
    let found = of(&arrays.number("after", 7));
    let kept = MOST_KEPT / (LONGEST_ARRAY * size_of::<Value>() + 3);
    for key in 10..50 {
        let is_kept = matches!(found.get(&format!("k{key}")), Some(Value::Array(_)));
        assert_eq!(is_kept, key - 10 < kept, "k{key}, where {kept} have room");
        assert_eq!(found.length(&format!("k{key}")), Some(LONGEST_ARRAY as u64));
    }
    assert_eq!(found.number("after"), Some(7));
    // The last that has room takes all of it.
    let rest = MOST_KEPT - kept * (LONGEST_ARRAY * size_of::<Value>() + 3);
    let last = |bytes: usize| {
        let arrays = (10..10 + kept)
            .fold(Writer::default(), |writer, key| writer.raw(&format!("k{key}"), 9, &array(0, 1, LONGEST_ARRAY)));
        let padding = (rest - "last".len()) % size_of::<Value>();
        let count = (rest - "last".len()) / size_of::<Value>();
        let found = of(&arrays.text("", &"t".repeat(padding)).raw("last", 9, &array(0, 1, count + bytes)));
        matches!(found.get("last"), Some(Value::Array(_)))
    };
    assert!(last(0) && !last(1));
}

#[test]
fn numbers_of_every_type_are_what_they_are() {
    let found = of(&Writer::default()
        .raw("u8", 0, &[255])
        .raw("i8", 1, &[255])
        .raw("u16", 2, &u16::MAX.to_le_bytes())
        .raw("i16", 3, &i16::MIN.to_le_bytes())
        .raw("u32", 4, &u32::MAX.to_le_bytes())
        .raw("i32", 5, &i32::MAX.to_le_bytes())
        .raw("f32", 6, &1.5f32.to_le_bytes())
        .raw("yes", 7, &[2])
        .raw("no", 7, &[0])
        .raw("u64", 10, &u64::MAX.to_le_bytes())
        .raw("i64", 11, &i64::MIN.to_le_bytes())
        .raw("f64", 12, &(-2.5f64).to_le_bytes()));
    for (key, value, number) in [
        ("u8", Value::Unsigned(255), Some(255)),
        ("i8", Value::Signed(-1), None),
        ("u16", Value::Unsigned(65535), Some(65535)),
        ("i16", Value::Signed(-32768), None),
        ("u32", Value::Unsigned(u32::MAX.into()), Some(u32::MAX.into())),
        ("i32", Value::Signed(i32::MAX.into()), Some(i32::MAX as u64)),
        ("f32", Value::Float(1.5), None),
        ("yes", Value::Bool(true), Some(1)),
        ("no", Value::Bool(false), Some(0)),
        ("u64", Value::Unsigned(u64::MAX), Some(u64::MAX)),
        ("i64", Value::Signed(i64::MIN), None),
        ("f64", Value::Float(-2.5), None),
    ] {
        assert_eq!((found.get(key), found.number(key)), (Some(&value), number), "{key}");
        assert_eq!((found.text(key), found.length(key)), (None, None), "{key}");
    }
}

#[test]
fn keys_need_the_bytes_of_the_shortest_at_least() {
    let shortest = |keys: u64| {
        let key = [&0u64.to_le_bytes()[..], &0u32.to_le_bytes(), &[7]].concat();
        [b"GGUF", &3u32.to_le_bytes()[..], &0u64.to_le_bytes(), &keys.to_le_bytes(), &key].concat()
    };
    assert_eq!(of_bytes(&shortest(1)).expect("one key").number(""), Some(7));
    let refused = of_bytes(&[shortest(2), vec![0; 12]].concat()).expect_err("a byte less than two keys take");
    let Problem::Truncated { what, need: 26, left: 25 } = &refused.problem else { panic!("{refused}") };
    assert!(what.contains("2 keys"), "{refused}");
}
